"""Everything in the schema has a description in whole sentences, and missing ones are reported."""

import re
from typing import Any

import pytest
import strawberry

from app.graphql.descriptions import described, undescribed, words
from tests.support import the_schema


def schema() -> Any:
    return the_schema()._schema


def test_everything_is_described() -> None:
    assert undescribed(schema()) == []


def test_a_description_is_whole_sentences_on_one_line() -> None:
    # The language's own scalars and directives are described by its implementation.
    ours = {
        place: one.description
        for place, one in described(schema())
        if not place.startswith("@") and place not in ("JSON", "String", "Int", "Float", "Boolean", "ID")
    }
    assert {
        place: text for place, text in ours.items() if not re.fullmatch(r"[A-Z0-9\[a-z_].*\.", text)
    } == {}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("ApiKey.prefix", "The first 14 characters of its secret, to tell keys apart."),
        ("UserRole.MEMBER", "Belongs to the account."),
        ("MeterCreatedEvent.cursor", "Its place in the log: pages, streams and replays begin just after it."),
        ("Query.meters(first:)", "How many from the beginning: 1 to 100, by default 20."),
        ("Meter.intervalData(granularity:)", "The length of each interval; HALF_HOUR unless given."),
        ("DeleteMeterInput", "The input of deleteMeter."),
        (
            "UpdateMeterInput",
            "The input of updateMeter: what is left out stays, null clears what can be cleared.",
        ),
        ("DeleteMeterInput.meterId", "The id of the meter."),
        ("RotateApiKeyPayload", "The answer of rotateApiKey."),
        (
            "RotateApiKeyPayload.apiKey",
            "The API key as the mutation left it; null when userErrors has entries.",
        ),
        ("WebhookEndpointConnection", "A page of a list: each webhook endpoint on it."),
    ],
)
def test_a_description_comes_from_the_nearest_text(place: str, text: str) -> None:
    assert dict(described(schema()))[place].description == text


def test_what_has_no_description_is_told() -> None:
    @strawberry.type(description="A query.")
    class Query:
        @strawberry.field(description="A field.")
        def told(self, untold: int) -> int:
            return untold

        bare: int

    assert undescribed(strawberry.Schema(Query)._schema) == ["Query.bare", "Query.told(untold:)"]


def test_a_name_in_words() -> None:
    assert [words(one) for one in ("Meter", "HostedConsent", "ApiKey")] == [
        "meter",
        "hosted consent",
        "API key",
    ]
