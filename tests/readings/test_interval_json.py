"""Intervals as JSON, beside orjson's of the same intervals as dicts."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import HALF_HOUR, format_utc, from_ms, parse_utc
from app.core.decimals import format_micro, format_units, to_micro
from app.readings.aggregation import Bucket, PackedDay, aggregate, half_hour_of, half_hours
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import Granularity
from app.readings.interval_json import LONGEST, IntervalWriter
from app.readings.packing import ALL, SLOTS, Day, pack, slots

Selection = dict[str, str]
"""Attributes of intervals by their response keys."""

EVERY: Selection = {
    "startAt": "start",
    "endAt": "end",
    "consumption": "micro_kwh",
    "quality": "quality",
    "missingCount": "missing_count",
    "__typename": "__typename",
}
FIRST_DAY = half_hour_of(parse_utc("2024-03-30T00:00Z")) // SLOTS
DAYS = 4
BITMAPS = st.one_of(st.just(ALL), st.just(0), st.integers(0, ALL))
SELECTIONS = st.dictionaries(
    st.from_regex(r"[_a-zA-Z][_a-zA-Z0-9]{0,8}", fullmatch=True),
    st.sampled_from(list(EVERY.values())),
    max_size=8,
)


@st.composite
def packed_days(draw: st.DrawFn) -> list[PackedDay]:
    """A few days, some of which are absent, with amounts of one scale each."""
    days = []
    for day in sorted(draw(st.sets(st.integers(FIRST_DAY, FIRST_DAY + DAYS - 1)))):
        present = draw(BITMAPS)
        if present:
            unit, most = 10 ** draw(st.integers(0, 6)), draw(st.sampled_from([0, 9, 999, 10**5, 10**12 - 1]))
            amounts = [0] * SLOTS
            for slot in slots(present):
                amounts[slot] = draw(st.integers(0, most)) * unit
            days.append((day, pack(Day(present, draw(BITMAPS) & present, amounts))))
    return days


def shown(bucket: Bucket, attribute: str) -> Any:
    if attribute == "__typename":
        return "Interval"
    value = getattr(bucket, attribute)
    if attribute in ("start", "end"):
        return format_utc(value)
    if attribute == "quality":
        return value.name
    return format_micro(value) if attribute == "micro_kwh" else value


def as_json(buckets: list[Bucket], selection: Mapping[str, str]) -> str:
    return orjson.dumps(
        [{key: shown(one, name) for key, name in selection.items()} for one in buckets]
    ).decode()


@given(packed_days(), SELECTIONS, st.integers(0, DAYS * SLOTS), st.integers(1, DAYS * SLOTS))
def test_half_hours_are_those_of_the_buckets(
    days: list[PackedDay], selection: Selection, begin: int, count: int
) -> None:
    first = FIRST_DAY * SLOTS + begin
    start = from_ms(first * HALF_HOUR_MS)
    text = IntervalWriter("Interval", selection).half_hours(days, first, first + count)
    assert f"[{text}]" == as_json(half_hours(days, start, start + count * HALF_HOUR), selection)


@given(
    packed_days(),
    SELECTIONS,
    st.sampled_from([one for one in Granularity if one is not Granularity.HALF_HOUR]),
)
def test_buckets_are_written_as_they_are(
    days: list[PackedDay], selection: Selection, granularity: Granularity
) -> None:
    start = from_ms(FIRST_DAY * SLOTS * HALF_HOUR_MS)
    end = start + timedelta(days=DAYS)
    buckets = aggregate(days, granularity, start, end, end).buckets
    assert buckets is not None
    assert f"[{IntervalWriter('Interval', selection).buckets(buckets)}]" == as_json(buckets, selection)


def test_long_keys_are_written_too() -> None:
    selection = {"k" * LONGEST: "micro_kwh", "startAt": "start"}
    days = [(FIRST_DAY, pack(Day(0b101, 0b100, [1500, 0, 7] + [0] * 45)))]
    first = FIRST_DAY * SLOTS
    text = IntervalWriter("Interval", selection).half_hours(days, first, first + SLOTS)
    assert orjson.loads(f"[{text}]") == [
        {"k" * LONGEST: "0.0015", "startAt": "2024-03-30T00:00:00.000Z"},
        {"k" * LONGEST: "0.000007", "startAt": "2024-03-30T01:00:00.000Z"},
    ]


@given(st.lists(st.integers(0, 10**20)), st.integers(0, 6))
def test_units_are_formatted_as_millionths(values: list[int], digits: int) -> None:
    assert format_units(values, digits) == [format_micro(value * 10 ** (6 - digits)) for value in values]


@pytest.mark.parametrize(
    "text", ["0", "0.1", "0.000001", "0.001001", "12.34", "999999999999.999999", "7.10203"]
)
def test_units_have_no_trailing_zeros(text: str) -> None:
    assert format_units([to_micro(text)], 6) == [text]
