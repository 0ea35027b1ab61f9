"""ElectraLink in the shape of the public mock: all of a meter at once, by quantity, day and settlement period."""

from typing import Any

import pytest

from app.feeds.amounts import NEGATIVE, NO_NUMBER, NO_VALUE
from app.feeds.electralink.kind import ELECTRALINK
from app.feeds.electralink.mapping import to_fetched
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.half_hours import OTHER_UNIT, UNREADABLE
from app.feeds.settlement_days import TOO_MANY, UNKNOWN_FLAG
from app.feeds.source import FetchedMeter, Window
from app.meters.enums import MeterType
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import receiver
from tests.feeds.sources import METER, SECRETS, answers, missed, opened, shown, window

MPAN = METER.number
JANUARY = window("2024-01-10 00:00", "2024-01-11 00:00")


def day(periods: int = 48, **changed: Any) -> dict[str, Any]:
    """A day of which period N has N hundredths of a kWh; `p3={…}` changes the fields of the third."""
    found = {
        str(period): {"period": period, "hhc": period / 100, "aei": "A", "qty_id": "kWh"}
        for period in range(1, periods + 1)
    }
    for name, fields in changed.items():
        found[name[1:]] |= fields
    return found


def answer(**quantities: Any) -> dict[str, Any]:
    return {"MPAN": MPAN, "site": "Office", "MC": quantities}


async def test_one_request_for_everything() -> None:
    given = answer(
        AI={"2024-01-10": day(), "2020-05-05": day()}, AE={"2024-01-10": day()}, RI={"2024-01-10": day()}
    )
    async with receiver(answers(given)) as place, opened(ELECTRALINK, place.url("")) as source:
        fetched = await source.fetch(METER, JANUARY)
    (asked,) = place.requests
    assert asked.line == "GET /v2/mpanhhperperiod?mpan=1312345678907 HTTP/1.1"
    assert asked.headers["api-key"] == SECRETS["apiKey"]
    assert set(fetched.readings) == {ReadingChannel.IMPORT, ReadingChannel.EXPORT}
    for channel in fetched.readings:
        assert list(shown(fetched, channel).items())[::47] == [
            ("2024-01-10 00:00", "0.01"),
            ("2024-01-10 23:30", "0.48"),
        ]
    assert list(fetched.missing) == []


@pytest.mark.parametrize(
    ("date", "periods", "whole"),
    [
        ("2024-03-31", 46, window("2024-03-31 00:00", "2024-03-31 23:00")),
        ("2024-10-27", 50, window("2024-10-26 23:00", "2024-10-28 00:00")),
    ],
)
def test_clock_changes(date: str, periods: int, whole: Window) -> None:
    assert len(shown(to_fetched(answer(AI={date: day(periods)}), MPAN, whole))) == periods
    over = to_fetched(answer(AI={date: day(50, p50={"hhc": 1})}), MPAN, whole)
    assert [cause for *_, cause in missed(over)] == ([TOO_MANY] if periods == 46 else [])


def test_flags_units_and_values() -> None:
    odd = day(
        p1={"aei": "X"}, p2={"aei": "E"}, p3={"aei": "M"}, p4={"aei": "?"}, p5={"aei": None}, p6={"hhc": None},
        p7={"hhc": -2}, p8={"hhc": "abc"}, p9={"qty_id": "Wh"}, p10={"qty_id": None},
    )  # fmt: skip
    fetched = to_fetched(answer(AI={"2024-01-10": odd}), MPAN, window("2024-01-10 00:00", "2024-01-10 05:30"))
    assert shown(fetched) == {
        "2024-01-10 00:00": "0.01",
        "2024-01-10 00:30": "0.02E",
        "2024-01-10 05:00": "0.11",
    }
    assert [(start[11:], end[11:], cause) for _, start, end, cause in missed(fetched)] == [
        ("01:00", "01:30", NO_VALUE),
        ("01:30", "02:00", UNKNOWN_FLAG),
        ("02:00", "03:00", NO_VALUE),
        ("03:00", "03:30", NEGATIVE),
        ("03:30", "04:00", NO_NUMBER),
        ("04:00", "05:00", OTHER_UNIT),
    ]


@pytest.mark.parametrize(
    "days",
    [
        {"2024-01-10": 5},
        {"2024-01-10": [day()]},
        {"2024-01-10": None},
        {"2024-01-10": {"1": 5, "0": {}, "51": {}, "x": {}}},
        {"10/01/2024": day(), "": day(), "0000-01-01": day()},
    ],
)
def test_days_that_cannot_be_read_are_missing(days: Any) -> None:
    fetched = to_fetched(answer(AI=days), MPAN, JANUARY)
    assert fetched.readings == {}
    assert UNREADABLE in [cause for *_, cause in missed(fetched)] or missed(fetched) == [
        ("IMPORT", "2024-01-10 00:00", "2024-01-11 00:00", NO_VALUE)
    ]


@pytest.mark.parametrize(
    "other", [{"MPAN": "2499999999991"}, {"MPAN": None}, {"MC": None}, {"MC": []}, {"MC": {"AI": 5}}]
)
def test_answers_of_another_shape_are_asked_for_again(other: dict[str, Any]) -> None:
    with pytest.raises(SourceFailure) as refused:
        to_fetched(answer(AI={"2024-01-10": day()}) | other, MPAN, JANUARY)
    assert refused.value.meaning is Meaning.RETRY


async def test_the_list_of_meters_is_taken_where_there_is_one() -> None:
    listed = {"count": 4, "mpans": ["2499999999991", MPAN, "2499999999990", 5, None]}
    told = [answers({}, 404), answers(listed), answers({}, 200), answers({}, 404)]
    async with receiver(*told) as place, opened(ELECTRALINK, place.url("")) as source:
        assert [meter.number for meter in await source.discover()] == [MPAN, "2499999999991"]
        assert list(await source.discover()) == []
    asked = [one.line.split()[1] for one in place.requests[:2]]
    assert asked == ["/v2/mpanadditionaldetails?mpan=9999999999999", "/mpans"]


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(400, Meaning.METER), (401, Meaning.FEED), (404, Meaning.METER), (500, Meaning.RETRY)],
)
async def test_meanings_of_statuses(status: int, meaning: Meaning) -> None:
    error = {"error": "Error", "message": "Said so.", "status": status}
    async with receiver(answers(error, status)) as place, opened(ELECTRALINK, place.url("")) as source:
        with pytest.raises(SourceFailure) as refused:
            await source.fetch(METER, JANUARY)
    assert refused.value.meaning is meaning
    assert refused.value.message.endswith("It says: Said so.")


async def test_gas_is_not_asked_for() -> None:
    async with receiver(answers({})) as place, opened(ELECTRALINK, place.url("")) as source:
        with pytest.raises(SourceFailure) as refused:
            await source.fetch(FetchedMeter("3938424403", MeterType.GAS), JANUARY)
    assert refused.value.meaning is Meaning.METER
    assert place.requests == []
