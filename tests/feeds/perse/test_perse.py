"""Perse: its request, and its answers as half-hours, with both clock changes."""

from typing import Any

import pytest

from app.feeds.amounts import NEGATIVE, NO_NUMBER, NO_VALUE
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.half_hours import UNREADABLE
from app.feeds.perse.kind import PERSE
from app.feeds.perse.mapping import to_fetched
from app.feeds.settlement_days import TOO_MANY, UNKNOWN_FLAG
from app.feeds.source import FetchedMeter, Window
from app.meters.enums import MeterType
from tests.delivery.receivers import receiver
from tests.feeds.sources import METER, SECRETS, answers, missed, opened, shown, window

MPAN = METER.number
JANUARY = window("2024-01-10 00:00", "2024-01-12 00:00")


def row(day: str, periods: int = 48, **changed: Any) -> dict[str, Any]:
    """A day of which period N has N thousandths of a kWh."""
    values = {f"P{period}": period / 1000 if period <= periods else None for period in range(1, 51)}
    flags = {f"UT{period}": "A" if period <= periods else None for period in range(1, 51)}
    return {"Date": day, "MPAN": MPAN, "MeasurementQuantity": "AI", **values, **flags, **changed}


def answer(*rows: Any, available: Any = "2015-01-12 TO 2024-12-01") -> dict[str, Any]:
    return {"meta": {"cacheAvailability": available, "source": "CACHE"}, "data": list(rows)}


async def test_the_request_asks_from_the_uk_day_on() -> None:
    summer = window("2024-06-30 23:00", "2024-07-01 23:00")
    async with (
        receiver(answers(answer(row("2024-07-01")))) as place,
        opened(PERSE, place.url("/base")) as source,
    ):
        fetched = await source.fetch(METER, summer)
    (asked,) = place.requests
    path = "/base/meterhistory/v2/realtime-data?MPAN=1312345678907&fromDate=2024-07-01"
    assert asked.line == f"GET {path} HTTP/1.1"
    assert asked.headers["api_key"] == SECRETS["apiKey"]
    found = shown(fetched)
    assert len(found) == 48
    assert found["2024-06-30 23:00"] == "0.001"
    assert found["2024-07-01 22:30"] == "0.048"


@pytest.mark.parametrize(
    ("day", "periods", "given", "first", "last"),
    [
        (
            window("2024-03-31 00:00", "2024-03-31 23:00"),
            46,
            "2024-03-31",
            "2024-03-31 00:00",
            "2024-03-31 22:30",
        ),
        (
            window("2024-10-26 23:00", "2024-10-28 00:00"),
            50,
            "2024-10-27",
            "2024-10-26 23:00",
            "2024-10-27 23:30",
        ),
    ],
    ids=["46", "50"],
)
def test_clock_changes(day: Window, periods: int, given: str, first: str, last: str) -> None:
    found = shown(to_fetched(answer(row(given, periods)), MPAN, day))
    assert list(found.values()) == [f"{period / 1000:.3f}".rstrip("0") for period in range(1, periods + 1)]
    assert [next(iter(found)), list(found)[-1]] == [first, last]


@pytest.mark.parametrize(("day", "periods"), [("2024-03-31", 48), ("2024-01-10", 50), ("2024-01-10", 49)])
def test_a_day_with_more_periods_than_it_has_is_missing(day: str, periods: int) -> None:
    fetched = to_fetched(answer(row(day, periods)), MPAN, window(f"{day} 00:00", f"{day} 12:00"))
    assert fetched.readings == {}
    assert missed(fetched) == [("IMPORT", f"{day} 00:00", f"{day} 12:00", TOO_MANY)]


def test_zeros_in_periods_that_the_day_does_not_have_are_nothing() -> None:
    padded = row("2024-03-31", 46, P47=0, P48=0.0, UT47="A")
    assert len(shown(to_fetched(answer(padded), MPAN, window("2024-03-31 00:00", "2024-03-31 23:00")))) == 46


def test_flags() -> None:
    odd = row(
        "2024-01-10", P2=None, UT3=None, UT4="E", UT5="X", UT6=7, P7=-1, P8="abc", P9=0, P10=None, UT10=None
    )
    fetched = to_fetched(answer(odd), MPAN, window("2024-01-10 00:00", "2024-01-10 05:30"))
    assert shown(fetched) == {
        "2024-01-10 00:00": "0.001",
        "2024-01-10 01:30": "0.004E",
        "2024-01-10 04:00": "0",
        "2024-01-10 05:00": "0.011",
    }
    assert missed(fetched) == [
        ("IMPORT", "2024-01-10 00:30", "2024-01-10 01:30", NO_VALUE),
        ("IMPORT", "2024-01-10 02:00", "2024-01-10 03:00", UNKNOWN_FLAG),
        ("IMPORT", "2024-01-10 03:00", "2024-01-10 03:30", NEGATIVE),
        ("IMPORT", "2024-01-10 03:30", "2024-01-10 04:00", NO_NUMBER),
        ("IMPORT", "2024-01-10 04:30", "2024-01-10 05:00", NO_VALUE),
    ]


def test_only_active_import_of_the_meter_is_taken() -> None:
    others = [
        row("2024-01-10", MeasurementQuantity="AE"),
        row("2024-01-10", MeasurementQuantity=None),
        row("2024-01-10", MPAN="2499999999991"),
    ]
    fetched = to_fetched(answer(*others, row("2024-01-11", MPAN=int(MPAN))), MPAN, JANUARY)
    assert next(iter(shown(fetched))) == "2024-01-11 00:00"
    assert list(fetched.missing) == []


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (
            "2024-01-11 TO 2099-12-31",
            [("2024-01-10 00:00", "2024-01-11 00:00", "11 January 2024 to 31 December 2099")],
        ),
        (
            "2015-01-01 TO 2024-01-10",
            [("2024-01-11 00:00", "2024-01-12 00:00", "1 January 2015 to 10 January 2024")],
        ),
        (
            "2015-01-01 TO 2016-01-01",
            [("2024-01-10 00:00", "2024-01-12 00:00", "1 January 2015 to 1 January 2016")],
        ),
        (
            "2025-01-01 TO 2026-01-01",
            [("2024-01-10 00:00", "2024-01-12 00:00", "1 January 2025 to 1 January 2026")],
        ),
        ("0000-01-01 TO 9999-12-31", []),
        ("0001-01-01 TO 9999-12-31", []),
        ("2026-01-01 TO 2025-01-01", []),
        ("always", []),
        (None, []),
        ({}, []),
    ],
)
def test_what_the_cache_has(available: Any, expected: list[tuple[str, str, str]]) -> None:
    causes = [
        ("IMPORT", start, end, f"The source has readings from {days} only.") for start, end, days in expected
    ]
    assert missed(to_fetched(answer(available=available), MPAN, JANUARY)) == causes


def test_rows_that_cannot_be_read_are_the_cause_of_what_is_missing() -> None:
    rubbish = [None, 5, [], {}, {"Date": 5}, row("0000-00-00"), row("10/01/2024"), row("9999-12-31")]
    fetched = to_fetched(answer(*rubbish, row("2024-01-10")), MPAN, JANUARY)
    assert len(shown(fetched)) == 48
    assert missed(fetched) == [("IMPORT", "2024-01-11 00:00", "2024-01-12 00:00", UNREADABLE)]


def test_the_same_day_twice() -> None:
    again = to_fetched(answer(row("2024-01-10"), row("2024-01-10")), MPAN, JANUARY)
    assert len(shown(again)) == 48
    other = to_fetched(answer(row("2024-01-10"), row("2024-01-10", P1=5)), MPAN, JANUARY)
    assert len(shown(other)) == 47


async def test_the_key_is_tried_without_a_list_of_meters() -> None:
    unknown = answers({"message": "Unknown MPAN"}, 404)
    told = [unknown, answers(answer()), answers({}, 401)]
    async with receiver(*told) as place, opened(PERSE, place.url("")) as source:
        assert list(await source.discover()) == []
        assert list(await source.discover()) == []
        with pytest.raises(SourceFailure) as refused:
            await source.discover()
    assert refused.value.meaning is Meaning.FEED


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (400, Meaning.METER),
        (401, Meaning.FEED),
        (403, Meaning.METER),
        (404, Meaning.METER),
        (429, Meaning.WAIT),
    ],
)
async def test_meanings_of_statuses(status: int, meaning: Meaning) -> None:
    async with receiver(answers({"message": "No."}, status)) as place, opened(PERSE, place.url("")) as source:
        with pytest.raises(SourceFailure) as refused:
            await source.fetch(METER, JANUARY)
    assert refused.value.meaning is meaning
    assert refused.value.message.endswith("It says: No.")


async def test_gas_is_not_asked_for() -> None:
    async with receiver(answers({})) as place, opened(PERSE, place.url("")) as source:
        with pytest.raises(SourceFailure) as refused:
            await source.fetch(FetchedMeter("3938424403", MeterType.GAS), JANUARY)
    assert refused.value.meaning is Meaning.METER
    assert place.requests == []
