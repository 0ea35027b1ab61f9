import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import HALF_HOUR, UK, format_utc, parse_utc, start_of_uk_day, to_ms, uk_date
from app.core.decimals import format_micro, to_micro
from app.readings import buckets
from app.readings.buckets import Bucket, Lookback, Reading, aggregate
from app.readings.enums import Granularity, ReadingQuality
from tests.readings import generated_year as year

ACTUAL, ESTIMATED = ReadingQuality.ACTUAL, ReadingQuality.ESTIMATED
GARBAGE = [
    "",
    "d",
    "1",
    "-1d",
    "+1d",
    "1.5d",
    "1D",
    "1h",
    "1dd",
    "1 d",
    " 1d",
    "1d\n",
    "١d",
    "d1",
    "1d1w",
    "9" * 10 + "d",
]
LATER = datetime(2030, 1, 1, tzinfo=UTC)
JANUARY, DECEMBER_2 = start_of_uk_day(date(2024, 1, 1)), start_of_uk_day(date(2024, 12, 2))
INSTANTS = st.datetimes(datetime(1900, 1, 9), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
GRANULARITIES = st.sampled_from(Granularity)
# An independent definition: two instants share a bucket if the local calendar gives them the same name.
LABELS: dict[Granularity, Callable[[datetime], object]] = {
    Granularity.HALF_HOUR: lambda local: (local.utctimetuple()[:4], local.minute // 30),
    Granularity.HOUR: lambda local: local.utctimetuple()[:4],
    Granularity.DAY: lambda local: local.date(),
    Granularity.WEEK: lambda local: local.isocalendar()[:2],
    Granularity.MONTH: lambda local: (local.year, local.month),
    Granularity.YEAR: lambda local: local.year,
}

needs_shared_year = pytest.mark.skipif(year.shared_year_path() is None, reason="the real year is not there")


def label(instant: datetime, granularity: Granularity) -> object:
    return LABELS[granularity](instant.astimezone(UK))


def rows_of(readings: list[year.YearReading]) -> list[Reading]:
    return [(to_ms(start), to_micro(kwh), quality) for start, kwh, quality in readings]


def reading(start: str, micro_kwh: int = 1, quality: ReadingQuality = ACTUAL) -> Reading:
    return to_ms(parse_utc(start)), micro_kwh, quality


@pytest.fixture(scope="module")
def generated() -> list[Reading]:
    return rows_of(year.generated_year())


@pytest.mark.parametrize(
    ("instant", "granularity", "start", "end"),
    [
        ("2024-03-31T00:29:59.999Z", "HALF_HOUR", "2024-03-31T00:00Z", "2024-03-31T00:30Z"),
        ("2024-03-31T00:30Z", "HALF_HOUR", "2024-03-31T00:30Z", "2024-03-31T01:00Z"),
        ("2024-10-27T00:45Z", "HOUR", "2024-10-27T00:00Z", "2024-10-27T01:00Z"),
        ("2024-10-27T01:00Z", "HOUR", "2024-10-27T01:00Z", "2024-10-27T02:00Z"),
        ("2024-03-31T12:00Z", "DAY", "2024-03-31T00:00Z", "2024-03-31T23:00Z"),
        ("2024-10-26T23:00Z", "DAY", "2024-10-26T23:00Z", "2024-10-28T00:00Z"),
        ("2024-10-26T22:59:59.999Z", "DAY", "2024-10-25T23:00Z", "2024-10-26T23:00Z"),
        ("2024-03-31T22:59Z", "WEEK", "2024-03-25T00:00Z", "2024-03-31T23:00Z"),
        ("2024-03-31T23:00Z", "WEEK", "2024-03-31T23:00Z", "2024-04-07T23:00Z"),
        ("2025-01-01T00:00Z", "WEEK", "2024-12-30T00:00Z", "2025-01-06T00:00Z"),
        ("2024-02-29T12:00Z", "MONTH", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        ("2024-03-31T23:00Z", "MONTH", "2024-03-31T23:00Z", "2024-04-30T23:00Z"),
        ("2024-10-31T23:59Z", "MONTH", "2024-09-30T23:00Z", "2024-11-01T00:00Z"),
        ("2024-12-31T23:59Z", "MONTH", "2024-12-01T00:00Z", "2025-01-01T00:00Z"),
        ("2024-12-31T23:59Z", "YEAR", "2024-01-01T00:00Z", "2025-01-01T00:00Z"),
    ],
)
def test_a_bucket_from_start_to_end(instant: str, granularity: str, start: str, end: str) -> None:
    assert buckets.bucket_start(parse_utc(instant), Granularity[granularity]) == parse_utc(start)
    assert buckets.bucket_end(parse_utc(instant), Granularity[granularity]) == parse_utc(end)


@given(INSTANTS, GRANULARITIES)
def test_a_bucket_holds_just_the_instants_of_its_label(instant: datetime, granularity: Granularity) -> None:
    start, end = buckets.bucket_start(instant, granularity), buckets.bucket_end(instant, granularity)
    millisecond = timedelta(milliseconds=1)
    assert start <= instant < end
    assert label(start, granularity) == label(instant, granularity) == label(end - millisecond, granularity)
    assert label(start - millisecond, granularity) != label(instant, granularity) != label(end, granularity)


@pytest.mark.parametrize("granularity", Granularity)
def test_time_ends_with_a_sentence(granularity: Granularity) -> None:
    with pytest.raises(ValueError, match=r"^The period must end by the year 9998\.$"):
        buckets.widen(JANUARY, datetime(9999, 12, 31, 23, 59, tzinfo=UTC), granularity)


@pytest.mark.parametrize(
    ("granularity", "start", "end", "count"),
    [
        (Granularity.HALF_HOUR, "2024-03-30T12:00Z", "2024-04-02T13:00Z", 146),
        (Granularity.HOUR, "2024-03-30T12:00Z", "2024-04-02T13:00Z", 73),
        (Granularity.DAY, "2024-03-30T00:00Z", "2024-04-02T23:00Z", 4),
        (Granularity.WEEK, "2024-03-25T00:00Z", "2024-04-07T23:00Z", 2),
        (Granularity.MONTH, "2024-03-01T00:00Z", "2024-04-30T23:00Z", 2),
        (Granularity.YEAR, "2024-01-01T00:00Z", "2025-01-01T00:00Z", 1),
    ],
)
def test_a_period_is_widened_to_whole_buckets(
    granularity: Granularity, start: str, end: str, count: int
) -> None:
    asked = parse_utc("2024-03-30T12:10Z"), parse_utc("2024-04-02T12:30:00.001Z")
    widened = buckets.widen(*asked, granularity)
    assert widened == (parse_utc(start), parse_utc(end))
    assert buckets.widen(*widened, granularity) == widened
    assert buckets.bucket_count(*asked, granularity) == count


@pytest.mark.parametrize("end", ["2024-01-01T00:00Z", "2023-12-31T23:59:59.999Z"])
def test_an_empty_period_is_refused(end: str) -> None:
    with pytest.raises(ValueError, match=r"^The period must end after it starts\.$"):
        aggregate([], Granularity.DAY, JANUARY, parse_utc(end), LATER)


@given(INSTANTS, st.timedeltas(timedelta(milliseconds=1), timedelta(days=200)), GRANULARITIES)
def test_buckets_meet_and_are_as_many_as_counted(
    start: datetime, length: timedelta, granularity: Granularity
) -> None:
    if granularity in (Granularity.HALF_HOUR, Granularity.HOUR):
        length = min(length, timedelta(days=3))
    first, end = buckets.widen(start, start + length, granularity)
    starts = [first]
    while (after := buckets.bucket_end(starts[-1], granularity)) < end:
        starts.append(after)
    assert after == end
    assert [buckets.bucket_start(one, granularity) for one in starts] == starts
    assert len(starts) == buckets.bucket_count(start, start + length, granularity)


def test_the_most_intervals_are_the_half_hours_of_a_leap_year() -> None:
    end = start_of_uk_day(date(2025, 1, 1))
    assert buckets.bucket_count(JANUARY, end, Granularity.HALF_HOUR) == buckets.MAX_INTERVALS


@pytest.mark.parametrize(
    ("text", "lookback"),
    [
        ("1d", Lookback(1, "d")),
        ("1w", Lookback(1, "w")),
        ("3m", Lookback(3, "m")),
        ("1y", Lookback(1, "y")),
        ("036600d", Lookback(36_600, "d")),
        ("100y", Lookback(100, "y")),
    ],
)
def test_parse_lookback(text: str, lookback: Lookback) -> None:
    assert buckets.parse_lookback(text) == lookback


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *(
            (text, "Write a lookback as a number and d, w, m or y, such as 1d, 1w, 3m or 1y.")
            for text in GARBAGE
        ),
        ("0d", "A lookback in d is 1d to 36600d, got 0d."),
        ("000w", "A lookback in w is 1w to 5200w, got 000w."),
        ("1201m", "A lookback in m is 1m to 1200m, got 1201m."),
        ("999999999y", "A lookback in y is 1y to 100y, got 999999999y."),
    ],
)
def test_parse_lookback_refuses_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        buckets.parse_lookback(text)


@pytest.mark.parametrize(
    ("text", "end", "start"),
    [
        ("1d", "2024-06-15T10:15Z", "2024-06-14T10:15Z"),
        ("1w", "2024-06-15T10:15Z", "2024-06-08T10:15Z"),
        ("1d", "2024-03-31T12:00Z", "2024-03-30T13:00Z"),
        ("1d", "2024-10-28T00:00Z", "2024-10-26T23:00Z"),
        ("1d", "2024-10-27T23:30Z", "2024-10-26T22:30Z"),
        ("1d", "2024-04-01T00:30Z", "2024-03-31T01:30Z"),
        ("1m", "2024-03-31T12:00Z", "2024-02-29T13:00Z"),
        ("1m", "2024-01-01T00:00Z", "2023-12-01T00:00Z"),
        ("3m", "2024-04-30T23:00Z", "2024-02-01T00:00Z"),
        ("12m", "2024-02-29T00:00Z", "2023-02-28T00:00Z"),
        ("1y", "2024-02-29T00:00Z", "2023-02-28T00:00Z"),
        ("1y", "2024-12-02T00:00Z", "2023-12-02T00:00Z"),
        ("100y", "1900-01-01T00:00Z", "1800-01-01T00:01:15Z"),
    ],
)
def test_a_lookback_goes_by_the_uk_calendar(text: str, end: str, start: str) -> None:
    expected = datetime.fromisoformat(start)
    assert format_utc(buckets.parse_lookback(text).before(parse_utc(end))) == format_utc(expected)


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
    assert buckets.count_missing([], start, end, parse_utc(now)) == count


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
    for time, missing in until.items():
        now = parse_utc(f"2024-01-01T{time}Z")
        (bucket,) = aggregate(rows, Granularity.DAY, JANUARY, JANUARY + HALF_HOUR, now)
        assert (time, bucket.missing_count) == (time, missing)
        assert buckets.count_missing([row[0] for row in rows], bucket.start, bucket.end, now) == missing


def test_half_hours_pass_through_within_the_widened_period_in_order() -> None:
    rows = [
        reading("2024-01-01T02:00Z", 5),
        reading("2024-01-01T01:30Z", 4),
        reading("2024-01-01T00:30Z", -2, ESTIMATED),
        reading("2024-01-01T00:00Z", 1),
    ]
    start, end = parse_utc("2024-01-01T00:45Z"), parse_utc("2024-01-01T01:31Z")
    found = aggregate(rows, Granularity.HALF_HOUR, start, end, JANUARY)
    assert found == [
        Bucket(JANUARY + HALF_HOUR, JANUARY + 2 * HALF_HOUR, -2, ESTIMATED, 0),
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
def test_the_generated_year_by_every_granularity(generated: list[Reading], granularity: Granularity) -> None:
    found = aggregate(generated, granularity, JANUARY, DECEMBER_2, LATER)
    expected: dict[object, list[Reading]] = {}
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
        missing = 0 if granularity is Granularity.HALF_HOUR else len(set(slots_over) - held)
        assert bucket.missing_count == missing


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
