"""Sums of packed days over calendar buckets, beside plain sums of the same readings."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import HALF_HOUR, parse_utc, start_of_uk_day, to_ms, uk_date
from app.core.decimals import format_micro, to_micro
from app.readings import aggregation, buckets
from app.readings.aggregation import Bucket, PackedDay
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, packed_days
from app.readings.enums import Granularity, ReadingQuality
from tests.readings import generated_year as year
from tests.readings.calendar_names import label

ACTUAL, ESTIMATED = ReadingQuality.ACTUAL, ReadingQuality.ESTIMATED
LATER = datetime(2030, 1, 1, tzinfo=UTC)
JANUARY, DECEMBER_2 = start_of_uk_day(date(2024, 1, 1)), start_of_uk_day(date(2024, 12, 2))
GRANULARITIES = st.sampled_from(Granularity)

Row = tuple[int, int, ReadingQuality]
"""Start in milliseconds since 1970 on a half-hour, micro-kWh, quality."""

needs_shared_year = pytest.mark.skipif(year.shared_year_path() is None, reason="the real year is not there")


def rows_of(readings: list[year.YearReading]) -> list[Row]:
    return [(to_ms(start), to_micro(kwh), quality) for start, kwh, quality in readings]


def reading(start: str, micro_kwh: int = 1, quality: ReadingQuality = ACTUAL) -> Row:
    return to_ms(parse_utc(start)), micro_kwh, quality


def packed(rows: Sequence[Row]) -> list[PackedDay]:
    """The days that hold these readings."""
    columns = Columns(
        [start_ms // HALF_HOUR_MS for start_ms, _, _ in rows],
        [micro for _, micro, _ in rows],
        [quality is ESTIMATED for _, _, quality in rows],
    )
    return list(packed_days(columns).items())


def aggregate(
    rows: Sequence[Row], granularity: Granularity, start: datetime, end: datetime, now: datetime
) -> list[Bucket]:
    """The buckets, after a look at the sums of the period and the count of its readings."""
    found = aggregation.aggregate(packed(rows), granularity, start, end, now)
    start, end = buckets.widen(start, end, granularity)
    inside = [row for row in rows if to_ms(start) <= row[0] < to_ms(end)]
    over = [row for row in inside if row[0] + HALF_HOUR_MS <= to_ms(now)]
    assert found.micro_kwh == sum(row[1] for row in inside)
    assert found.missing_count == max((min(end, now) - start) // HALF_HOUR, 0) - len(over)
    assert found.present_count == len(inside)
    if granularity is Granularity.HALF_HOUR:
        assert found.buckets is None
        return aggregation.half_hours(packed(rows), start, end)
    assert found.buckets is not None
    return found.buckets


def missing(rows: Sequence[Row], start: datetime, end: datetime, now: datetime) -> int:
    return aggregation.aggregate(packed(rows), Granularity.HALF_HOUR, start, end, now).missing_count


@pytest.fixture(scope="module")
def generated() -> list[Row]:
    return rows_of(year.generated_year())


@pytest.mark.parametrize(
    ("now", "count"),
    [
        ("2024-03-30T23:00Z", 0),
        ("2024-03-31T00:00Z", 0),
        ("2024-03-31T00:29:59.999Z", 0),
        ("2024-03-31T00:30Z", 1),
        ("2024-03-31T22:59Z", 45),
        ("2024-03-31T23:00Z", 46),
        ("2024-04-01T23:00Z", 46),
    ],
)
def test_half_hours_that_are_over_are_missing(now: str, count: int) -> None:
    start, end = start_of_uk_day(date(2024, 3, 31)), start_of_uk_day(date(2024, 4, 1))
    assert missing([], start, end, parse_utc(now)) == count


def test_buckets_without_a_reading_are_absent_and_the_others_tell_what_is_missing() -> None:
    rows = [
        reading("2024-01-01T00:00Z", 1),
        reading("2024-01-03T23:00Z", 20, ESTIMATED),
        reading("2024-01-03T23:30Z", 300),
        reading("2024-01-04T00:00Z", 4000),
    ]
    found = aggregate(rows, Granularity.DAY, JANUARY, start_of_uk_day(date(2024, 1, 6)), LATER)
    day = timedelta(days=1)
    assert found == [
        Bucket(JANUARY, JANUARY + day, 1, ACTUAL, 47),
        Bucket(JANUARY + 2 * day, JANUARY + 3 * day, 320, ESTIMATED, 46),
        Bucket(JANUARY + 3 * day, JANUARY + 4 * day, 4000, ACTUAL, 47),
    ]


def test_a_running_bucket_misses_only_what_is_over() -> None:
    rows = [reading("2024-01-01T00:00Z"), reading("2024-01-01T01:30Z")]
    until = {"00:29": 0, "00:30": 0, "01:00": 1, "01:29": 1, "01:30": 2, "01:59": 2, "02:00": 2, "02:30": 3}
    for time, absent in until.items():
        now = parse_utc(f"2024-01-01T{time}Z")
        (bucket,) = aggregate(rows, Granularity.DAY, JANUARY, JANUARY + HALF_HOUR, now)
        assert (time, bucket.missing_count) == (time, absent)
        assert missing(rows, bucket.start, bucket.end, now) == absent


def test_half_hours_within_the_widened_period_are_given_in_order() -> None:
    rows = [
        reading("2024-01-01T02:00Z", 5),
        reading("2024-01-01T01:30Z", 4),
        reading("2024-01-01T00:30Z", 2, ESTIMATED),
        reading("2024-01-01T00:00Z", 1),
    ]
    start, end = parse_utc("2024-01-01T00:45Z"), parse_utc("2024-01-01T01:31Z")
    found = aggregate(rows, Granularity.HALF_HOUR, start, end, JANUARY)
    assert found == [
        Bucket(JANUARY + HALF_HOUR, JANUARY + 2 * HALF_HOUR, 2, ESTIMATED, 0),
        Bucket(JANUARY + 3 * HALF_HOUR, JANUARY + 4 * HALF_HOUR, 4, ACTUAL, 0),
    ]


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    rows = [reading(f"2024-10-27T0{hour}:{minute}Z") for hour in (0, 1) for minute in ("00", "30")]
    start = parse_utc("2024-10-27T00:00Z")
    found = aggregate(rows, Granularity.HOUR, start, start + timedelta(hours=2), LATER)
    assert [(bucket.start, bucket.micro_kwh, bucket.missing_count) for bucket in found] == [
        (start, 2, 0),
        (start + timedelta(hours=1), 2, 0),
    ]


@pytest.mark.parametrize("granularity", Granularity)
def test_the_generated_year_by_every_granularity(generated: list[Row], granularity: Granularity) -> None:
    found = aggregate(generated, granularity, JANUARY, DECEMBER_2, LATER)
    expected: dict[object, list[Row]] = {}
    for row in generated:
        expected.setdefault(label(datetime.fromtimestamp(row[0] / 1000, UTC), granularity), []).append(row)
    assert [label(bucket.start, granularity) for bucket in found] == list(expected)
    for bucket, rows in zip(found, expected.values(), strict=True):
        assert bucket.micro_kwh == sum(row[1] for row in rows)
        assert bucket.quality is (ESTIMATED if any(row[2] is ESTIMATED for row in rows) else ACTUAL)
        assert bucket.missing_count == (bucket.end - bucket.start) // HALF_HOUR - len(rows)


@given(
    st.sets(st.integers(0, 400)),
    st.sampled_from(["2024-03-25T00:00Z", "2024-10-22T05:00Z", "2024-12-28T12:30Z"]),
    st.integers(0, 450),
    GRANULARITIES,
)
def test_what_is_present_and_missing_adds_up(
    slots: set[int], first: str, over: int, granularity: Granularity
) -> None:
    begin = parse_utc(first)
    rows = [(to_ms(begin + slot * HALF_HOUR), 1, ACTUAL) for slot in sorted(slots)]
    start, end = buckets.widen(begin, begin + 401 * HALF_HOUR, granularity)
    now = begin + over * HALF_HOUR + timedelta(minutes=29)
    found = aggregate(rows, granularity, start, end, now)
    held = {begin + slot * HALF_HOUR for slot in slots}
    assert sum(bucket.micro_kwh for bucket in found) == len(slots)
    for bucket in found:
        slots_over = [
            bucket.start + n * HALF_HOUR for n in range((bucket.end - bucket.start) // HALF_HOUR)
            if bucket.start + (n + 1) * HALF_HOUR <= now
        ]  # fmt: skip
        absent = 0 if granularity is Granularity.HALF_HOUR else len(set(slots_over) - held)
        assert bucket.missing_count == absent


def facts_of(readings: list[year.YearReading]) -> tuple[int, dict[str, int], int]:
    per_day: dict[str, int] = {}
    for start, _, _ in readings:
        day = uk_date(start).isoformat()
        per_day[day] = per_day.get(day, 0) + 1
    unusual = {day: count for day, count in per_day.items() if count != 48}
    return len(per_day), unusual, sum(quality is ESTIMATED for _, _, quality in readings)


SHAPE = (336, {"2024-03-31": 46, "2024-10-27": 50}, 190)


def test_the_generated_year_has_its_shape_and_sums() -> None:
    readings = year.generated_year()
    starts = [start for start, _, _ in readings]
    assert starts == [JANUARY + slot * HALF_HOUR for slot in range(year.HALF_HOURS)]
    assert facts_of(readings) == SHAPE
    assert sum(kwh for _, kwh, _ in readings) == year.GENERATED_TOTAL
    assert readings == year.generated_year()
    assert readings != year.generated_year(seed=1)
    january = aggregate(rows_of(readings), Granularity.MONTH, JANUARY, DECEMBER_2, LATER)[0]
    assert format_micro(january.micro_kwh) == str(year.GENERATED_JANUARY)


@needs_shared_year
def test_the_real_year() -> None:
    readings = year.shared_year()
    assert [start for start, _, _ in readings] == [JANUARY + n * HALF_HOUR for n in range(year.HALF_HOURS)]
    assert facts_of(readings) == SHAPE
    months = aggregate(rows_of(readings), Granularity.MONTH, JANUARY, DECEMBER_2, LATER)
    assert format_micro(sum(bucket.micro_kwh for bucket in months)) == str(year.SHARED_TOTAL) == "295005.6"
    assert format_micro(months[0].micro_kwh) == str(year.SHARED_JANUARY) == "27962.6"
    assert [bucket.quality is ESTIMATED for bucket in months] == [n == 7 for n in range(12)]
    assert [bucket.missing_count for bucket in months] == [0] * 11 + [30 * 48]


@needs_shared_year
def test_the_generated_year_is_estimated_where_the_real_one_is() -> None:
    real, generated = year.shared_year(), year.generated_year()
    assert [(start, quality) for start, _, quality in real] == [
        (start, quality) for start, _, quality in generated
    ]
