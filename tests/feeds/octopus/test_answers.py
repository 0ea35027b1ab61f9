"""Answers of Octopus Energy in the shapes that its documentation and its clients tell of, and all that may be wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app.feeds.failures import Meaning
from app.feeds.octopus.client import PAGE_SIZE
from app.feeds.octopus.kind import OCTOPUS
from app.feeds.octopus.mapping import MOST_POINTS, MOST_SERIALS, instant, joined, points_of
from app.feeds.source import FetchedMeter, Window
from app.feeds.stand_ins.households import half_hour
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import Answer, closes, floods, says
from tests.feeds.asking import answering, causes, fails
from tests.feeds.sources import answers

KEY = {"apiKey": "sk_live_of_the_tests"}
ACCOUNT = {"accountNumber": "A-1234ABCD"}
METER = FetchedMeter("1312345678907", MeterType.ELECTRICITY)
EVENING = Window(datetime(2026, 5, 25, 21, 30, tzinfo=UTC), datetime(2026, 5, 25, 23, tzinfo=UTC))
FIRST = half_hour(EVENING.start)

POINT: dict[str, Any] = {
    "mpan": "1312345678907",
    "profile_class": 1,
    "consumption_standard": 3100,
    "is_export": False,
    "meters": [{"serial_number": "19L1234567", "registers": [{"identifier": "1", "rate": "STANDARD"}]}],
    "agreements": [
        {"tariff_code": "E-1R-AGILE-23-12-06-C", "valid_from": "2024-01-01T00:00:00Z", "valid_to": None}
    ],
}
HOME: dict[str, Any] = {
    "id": 1,
    "moved_in_at": "2020-11-30T00:00:00Z",
    "moved_out_at": None,
    "address_line_1": "1 High Street",
    "postcode": "SW1A 1AA",
    "electricity_meter_points": [POINT],
    "gas_meter_points": [],
}
SHOWN = answers({"number": "A-1234ABCD", "properties": [HOME]})


def account(*points: Any, **changed: Any) -> Answer:
    return answers(
        {"number": "A-1234ABCD", "properties": [HOME | {"electricity_meter_points": points} | changed]}
    )


def row(start: str, end: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"consumption": value, "interval_start": start, "interval_end": end, **more}


def rows(*values: Any) -> list[dict[str, Any]]:
    """Rows of the evening's half-hours."""
    at = [
        (EVENING.start + timedelta(minutes=30 * place)).strftime("%Y-%m-%dT%H:%M:%SZ") for place in range(9)
    ]
    return [row(at[place], at[place + 1], value) for place, value in enumerate(values)]


def page(results: Any, next: Any = None) -> dict[str, Any]:
    return {"count": 3, "next": next, "previous": None, "results": results}


async def fetched(*answers: Answer) -> Any:
    async with answering(OCTOPUS, *answers) as place:
        return await place.source(ACCOUNT, KEY).fetch(METER, EVENING)


async def failure(*answers: Answer) -> Any:
    async with answering(OCTOPUS, *answers) as place:
        return await fails(place.source(ACCOUNT, KEY).fetch(METER, EVENING))


async def test_offsets_are_londons_or_z_and_order_is_any() -> None:
    results = [
        row("2026-05-25T23:30:00+01:00", "2026-05-26T00:00:00+01:00", 0.3, cost=None),
        row("2026-05-25T22:30:00Z", "2026-05-25T23:00:00Z", 0.3),
        row("2026-05-25T22:00:00Z", "2026-05-25T22:30:00+00:00", 2),
        row("2026-05-25T22:30:00+01:00", "2026-05-25T23:00:00+01:00", 0.187),
        row("2026-05-26T00:00:00+01:00", "2026-05-26T00:30:00+01:00", 9.9),
    ]
    found = await fetched(SHOWN, answers(page(results) | {"more": {"unknown": []}}))
    expected = Columns([FIRST, FIRST + 1, FIRST + 2], [187_000, 2_000_000, 300_000], [False] * 3)
    assert found.readings == {ReadingChannel.IMPORT: expected}
    assert found.starts_at == datetime(2020, 11, 30, tzinfo=UTC)


async def test_the_key_is_the_user_name_and_the_request_has_its_limits() -> None:
    async with answering(OCTOPUS, SHOWN, answers(page(rows(1)))) as place:
        await place.source(ACCOUNT, KEY).fetch(METER, EVENING)
        requests = place.requests
    times = "period_from=2026-05-25T21%3A30%3A00Z&period_to=2026-05-25T23%3A00%3A00Z"
    query = f"{times}&page_size={PAGE_SIZE}&order_by=period"
    assert [request.line for request in requests] == [
        "GET /v1/accounts/A-1234ABCD/ HTTP/1.1",
        f"GET /v1/electricity-meter-points/1312345678907/meters/19L1234567/consumption/?{query} HTTP/1.1",
    ]
    assert {request.headers["authorization"] for request in requests} == {
        "Basic c2tfbGl2ZV9vZl90aGVfdGVzdHM6"
    }


async def test_values_that_are_no_readings_are_missing_with_their_reason() -> None:
    found = await fetched(SHOWN, answers(page(rows(None, -0.5, "0.25"))))
    assert found.readings[ReadingChannel.IMPORT] == Columns([FIRST + 2], [250_000], [False])
    assert causes(found) == [
        "The source has no value for this half-hour.",
        "The source gave a negative value for this half-hour.",
    ]


async def test_a_half_hour_that_is_repeated_counts_once() -> None:
    again = rows(0.1, 0.2, 0.3)
    found = await fetched(SHOWN, answers(page([*again, again[1]])))
    assert found.readings[ReadingChannel.IMPORT].amounts == [100_000, 200_000, 300_000]
    assert list(found.missing) == []


@pytest.mark.parametrize(
    "wrong",
    [
        page("none"),
        page([3]),
        page([{"consumption": 1}]),
        page([row("2026-05-25T22:00:00", "2026-05-25T22:30:00", 1)]),
        page([row("2026-05-25T22:15:00Z", "2026-05-25T22:45:00Z", 1)]),
        page([row("2026-05-25T22:00:00Z", "2026-05-25T23:00:00Z", 1)]),
        page([row("2026-05-25", "2026-05-26", 1)]),
        page([row("2026-02-30T22:00:00Z", "2026-02-30T22:30:00Z", 1)]),
        page([row(3, 4, 1)]),  # type: ignore[arg-type]
        page([row([], {}, 1)]),  # type: ignore[arg-type]
        page(rows({"value": 1})),
        [],
        7,
        "text",
    ],
)
async def test_answers_of_another_shape_are_asked_for_again(wrong: Any) -> None:
    found = await failure(SHOWN, answers(wrong))
    assert (found.meaning, "cannot be read" in found.message) == (Meaning.RETRY, True)


@pytest.mark.parametrize(
    "answer",
    [
        says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Hi</html>"),
        says(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"count":NaN'),
        floods(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"[" * 65536 + b"\r\n"
        ),
        closes,
        answers({"detail": "Sorry."}, 500),
        answers(b"", 502),
    ],
    ids=["html", "nan", "endless", "cut", "500", "502"],
)
async def test_faults_of_the_network_and_the_server_are_asked_for_again(answer: Answer) -> None:
    assert (await failure(SHOWN, answer)).meaning is Meaning.RETRY


async def test_pages_are_followed_and_never_for_ever() -> None:
    async with answering(
        OCTOPUS, SHOWN, answers(page(rows(1), "/v1/consumption/?page=2")), answers(page(rows(1)[:0]))
    ) as place:
        found = await place.source(ACCOUNT, KEY).fetch(METER, EVENING)
        assert [request.line.split()[1] for request in place.requests][2:] == ["/v1/consumption/?page=2"]
    assert found.readings[ReadingChannel.IMPORT].amounts == [1_000_000]
    looping = await failure(SHOWN, answers(page(rows(1), "/v1/consumption/?page=2")))
    assert (looping.meaning, "never end" in looping.message) == (Meaning.RETRY, True)


async def test_pages_that_lead_to_ever_new_ones_end() -> None:
    pages = [answers(page([], f"/v1/consumption/?page={number}")) for number in range(2, 20)]
    async with answering(OCTOPUS, SHOWN, *pages) as place:
        found = await fails(place.source(ACCOUNT, KEY).fetch(METER, EVENING))
        assert len(place.requests) == 1 + 3
    assert "never end" in found.message


async def test_a_link_to_another_host_is_not_followed() -> None:
    found = await failure(SHOWN, answers(page(rows(1), "http://169.254.169.254/latest/meta-data")))
    assert (found.meaning, "another host" in found.message) == (Meaning.RETRY, True)


async def test_both_devices_of_an_exchange_are_added() -> None:
    point = POINT | {"meters": [{"serial_number": "OLD1"}, {"serial_number": "NEW1"}]}
    found = await fetched(
        account(point), answers(page(rows(0.1, 0.2))), answers(page(rows(0.1, 0.3, 0.4)[1:]))
    )
    assert found.readings[ReadingChannel.IMPORT].amounts == [100_000, 500_000, 400_000]


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (POINT | {"meters": []}, "settings.serialNumbers"),
        (
            POINT | {"meters": [{"serial_number": ""}, {"serial_number": "../.."}, {}]},
            "settings.serialNumbers",
        ),
        (POINT | {"mpan": "1312345678908"}, "checkFeed"),
    ],
)
async def test_a_point_that_cannot_be_asked_for_is_the_meters_affair(point: Any, said: str) -> None:
    found = await failure(account(point))
    assert (found.meaning, said in found.message) == (Meaning.METER, True)


async def test_a_404_of_every_device_is_the_meters_affair() -> None:
    found = await failure(SHOWN, answers({"detail": "Not found."}, 404))
    assert (found.meaning, "404" in found.message) == (Meaning.METER, True)


async def test_a_pause_is_as_long_as_the_source_asks_for() -> None:
    found = await failure(SHOWN, answers({"detail": "Too many."}, 429, b"Retry-After: 75\r\n"))
    assert (found.meaning, found.retry_after) == (Meaning.WAIT, 75.0)


async def test_a_home_that_was_left_and_taken_again_is_one_meter() -> None:
    left = HOME | {"moved_in_at": "2018-01-01T00:00:00Z", "moved_out_at": "2019-01-01T00:00:00Z"}
    both = answers({"properties": [left, HOME]})
    async with answering(OCTOPUS, both, answers(page(rows(1)))) as place:
        source = place.source(ACCOUNT, KEY)
        assert [one.number for one in await source.discover()] == ["1312345678907"]
        found = await source.fetch(METER, EVENING)
    assert found.starts_at == datetime(2018, 1, 1, tzinfo=UTC)
    assert found.readings[ReadingChannel.IMPORT].amounts == [1_000_000]


async def test_a_move_in_between_half_hours_begins_with_the_next() -> None:
    home = account(POINT, moved_in_at="2026-05-25T22:47:11+01:00")
    async with answering(OCTOPUS, home, answers(page(rows(1, 2, 3)))) as place:
        found = await place.source(ACCOUNT, KEY).fetch(METER, EVENING)
    assert found.starts_at == datetime(2026, 5, 25, 22, tzinfo=UTC)
    assert found.readings[ReadingChannel.IMPORT].starts == [FIRST + 1, FIRST + 2]


@pytest.mark.parametrize(
    "wrong",
    [{"properties": {}}, {"properties": [1]}, {"properties": [{"electricity_meter_points": "x"}]}, []],
)
async def test_accounts_of_another_shape_are_asked_for_again(wrong: Any) -> None:
    assert (await failure(answers(wrong))).meaning is Meaning.RETRY


async def test_an_account_without_homes_shows_no_meters() -> None:
    async with answering(OCTOPUS, answers({"number": "A-1"})) as place:
        assert list(await place.source(ACCOUNT, KEY).discover()) == []


def test_points_with_numbers_that_are_none_are_left_out() -> None:
    home = HOME | {
        "electricity_meter_points": [POINT | {"mpan": "12"}, POINT | {"mpan": None}],
        "gas_meter_points": [{"mprn": "3938424403", "meters": None}],
        "moved_in_at": 3,
    }
    (point,) = points_of({"properties": [home]})
    assert (point.number, point.type, point.serials, point.moved_in_at) == (
        "3938424403", MeterType.GAS, (), None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "written", [None, "", "soon", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9" * 999]
)
def test_instants_that_cannot_be_read_are_none(written: str | None) -> None:
    assert instant(written) is None


async def test_the_account_numbers_of_a_key_are_asked_for_once() -> None:
    token = answers({"data": {"obtainKrakenToken": {"token": "a.b.c"}}})
    viewer = answers({"data": {"viewer": {"accounts": [{"number": "A-1234ABCD"}, {"number": None}]}}})
    async with answering(OCTOPUS, token, viewer, SHOWN, answers(page(rows(1)))) as place:
        source = place.source({}, KEY)
        assert [one.number for one in await source.discover()] == ["1312345678907"]
        assert (await source.fetch(METER, EVENING)).readings
        requests = place.requests
    assert [request.line.split()[1] for request in requests[:3]] == [
        "/v1/graphql/", "/v1/graphql/", "/v1/accounts/A-1234ABCD/",
    ]  # fmt: skip
    assert orjson.loads(requests[0].body)["variables"] == {"key": "sk_live_of_the_tests"}
    assert requests[1].headers["authorization"] == "a.b.c"


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ({"data": {"obtainKrakenToken": None}, "errors": [{"message": "Invalid data."}]}, Meaning.FEED),
        ({"data": None}, Meaning.FEED),
        ({"data": {"obtainKrakenToken": {"token": "a\r\nb"}}}, Meaning.FEED),
        ([], Meaning.RETRY),
        ({"data": {"obtainKrakenToken": "x"}}, Meaning.RETRY),
    ],
)
async def test_a_key_without_accounts_is_the_feeds_affair(answer: Any, meaning: Meaning) -> None:
    async with answering(OCTOPUS, answers(answer)) as place:
        found = await fails(place.source({}, KEY).discover())
    assert found.meaning is meaning
    assert "sk_live_of_the_tests" not in found.message


def test_what_an_account_tells_is_bounded() -> None:
    """A body of a mebibyte must not become a gigabyte in memory, or in an answer about a thousand meters."""
    point = POINT | {"meters": [{"serial_number": f"S{one}"} for one in range(500)]}
    home = HOME | {"address_line_1": "1 High\0 Street\n" * 20_000, "electricity_meter_points": [point] * 3}
    points = points_of({"properties": [home]})
    assert [len(one.serials) for one in points] == [MOST_SERIALS] * 3
    place = points[0].place or ""
    assert place.isprintable()
    assert len(place) <= 200
    others = [points[0], *points_of({"properties": [HOME | {"electricity_meter_points": [POINT]}]})]
    assert joined(others, ["MINE"]).serials == (*points[0].serials, "MINE")
    many = HOME | {"electricity_meter_points": [POINT | {"meters": []}] * (MOST_POINTS + 1)}
    assert len(points_of({"properties": [many]})) == MOST_POINTS
