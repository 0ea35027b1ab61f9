"""The choice among offered media types by an Accept header."""

import pytest

from app.graphql.http.negotiation import preferred

OFFERS = ("application/json", "application/graphql-response+json", "text/event-stream")
JSON, GRAPHQL, STREAM = OFFERS


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json; charset=UTF-8; q=0.5", JSON),
        ("application/graphql-response+json", GRAPHQL),
        ("application/graphql-response+json, application/json;q=0.9", GRAPHQL),
        ("application/graphql-response+json;q=0.5, application/json;q=0.9", JSON),
        ("application/graphql-response+json, application/json", JSON),
        ("application/graphql-response+json, */*;q=0.1", GRAPHQL),
        ("application/json;q=0, */*", GRAPHQL),
        ("application/json;q=0, application/*;q=0.5, text/event-stream;q=0.4", GRAPHQL),
        ("text/event-stream", STREAM),
        ("text/*", STREAM),
        ("text/event-stream, application/json;q=0.5", STREAM),
        # The higher quality counts, in any order.
        ("application/json;q=0.1, text/event-stream;q=0.2", STREAM),
        ("text/html", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/json; charset=latin1", None),
        ("application/json;q=high", JSON),
        ("application/json;q=nan", JSON),
        ("application/json;q=", JSON),
        ("application/json;q=inf", JSON),
        ("application/json;q=1e9", JSON),
        ("application/json;q=-inf", None),
        ("application/json;q=nan, text/event-stream;q=0.9", JSON),
        ("application/json;q=0.9, text/event-stream;q=nan", STREAM),
        ("text/html, " * 49 + "application/json", JSON),
        ("text/html, " * 50 + "application/json", None),
        (",", None),
    ],
)
def test_the_highest_quality_wins_and_the_first_offer_of_equals(
    accept: str | None, chosen: str | None
) -> None:
    assert preferred(accept, OFFERS) == chosen


def test_a_quality_out_of_range_is_taken_as_the_nearest() -> None:
    assert preferred("application/json;q=0.9, text/event-stream;q=7", OFFERS) == STREAM
    assert preferred("application/json;q=-1", OFFERS) is None
