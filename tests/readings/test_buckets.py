import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import format_utc, parse_utc, start_of_uk_day
from app.readings import buckets
from app.readings.buckets import Lookback
from app.readings.enums import Granularity
from tests.readings.calendar_names import label

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
JANUARY = start_of_uk_day(date(2024, 1, 1))
INSTANTS = st.datetimes(datetime(1900, 1, 9), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
GRANULARITIES = st.sampled_from(Granularity)


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
        buckets.widen(JANUARY, parse_utc(end), Granularity.DAY)


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
