import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import clock

MILLISECOND = timedelta(milliseconds=1)
INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda dt: dt.replace(microsecond=dt.microsecond // 1000 * 1000)
)
DATES = st.dates(date(1900, 1, 1), date(9998, 12, 31))


def test_now_is_utc_to_the_millisecond() -> None:
    before = datetime.now(UTC)
    instant = clock.now()
    after = datetime.now(UTC)
    assert instant.tzinfo is UTC
    assert instant.microsecond % 1000 == 0
    assert before - MILLISECOND < instant <= after


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC), "2026-11-24T22:29:55.123Z"),
        (datetime(2026, 11, 24, 22, 29, 55, 123_999, UTC), "2026-11-24T22:29:55.123Z"),
        (datetime(2026, 11, 24, tzinfo=UTC), "2026-11-24T00:00:00.000Z"),
        (datetime(2024, 7, 1, 0, 30, tzinfo=clock.UK), "2024-06-30T23:30:00.000Z"),
        (datetime(2024, 7, 1, 0, 30, tzinfo=timezone(timedelta(hours=-5))), "2024-07-01T05:30:00.000Z"),
    ],
)
def test_format_utc(instant: datetime, text: str) -> None:
    assert clock.format_utc(instant) == text


def test_a_naive_datetime_is_refused_everywhere() -> None:
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    for function in (clock.format_utc, clock.uk_date, clock.to_ms):
        with pytest.raises(ValueError, match="without a time zone is ambiguous"):
            function(naive)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T22:29:55.123Z", datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC)),
        ("2026-11-24T22:29:55.123+00:00", datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC)),
        ("2026-11-24T22:29:55Z", datetime(2026, 11, 24, 22, 29, 55, 0, UTC)),
        ("2026-11-24T22:29Z", datetime(2026, 11, 24, 22, 29, 0, 0, UTC)),
        ("2026-11-24T22:29:55.1Z", datetime(2026, 11, 24, 22, 29, 55, 100_000, UTC)),
        ("2026-11-24T22:29:55.05Z", datetime(2026, 11, 24, 22, 29, 55, 50_000, UTC)),
        ("2026-11-24T22:29:55.123999Z", datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC)),
        ("2026-11-24T22:29:55.999999999Z", datetime(2026, 11, 24, 22, 29, 55, 999_000, UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("1900-01-01T00:00:00Z", datetime(1900, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999Z", datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)),
    ],
)
def test_parse_utc(text: str, expected: datetime) -> None:
    parsed = clock.parse_utc(text)
    assert parsed == expected
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2026-11-24T22:29:55.123", "without an offset is ambiguous"),
        ("2026-11-24T22:29:55-00:00", "must be in UTC: convert it and end it with Z or +00:00, got -00:00."),
        ("2026-11-24T22:29:55+01:00", "must be in UTC: convert it and end it with Z or +00:00, got +01:00."),
        ("2026-11-24T22:29:55+0000", "must be in UTC: convert it and end it with Z or +00:00, got +0000."),
        ("2026-11-24T22:29:55+00", "must be in UTC: convert it and end it with Z or +00:00, got +00."),
        ("2026-11-24T22:29:55z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24 22:29:55Z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24", "Write an instant as ISO 8601 in UTC"),
        ("20261124T222955Z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24T22:29:55.Z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24T22:29:55,123Z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24T22:29:55.1234567891Z", "Write an instant as ISO 8601 in UTC"),
        ("2026-11-24T22:29:55Z\n", "Write an instant as ISO 8601 in UTC"),
        (" 2026-11-24T22:29:55Z", "Write an instant as ISO 8601 in UTC"),
        ("٢٠٢٦-11-24T22:29:55Z", "Write an instant as ISO 8601 in UTC"),
        ("1764023395", "Write an instant as ISO 8601 in UTC"),
        ("", "Write an instant as ISO 8601 in UTC"),
        ("1899-12-31T23:59:59.999Z", "The year must be 1900 to 9999, got 1899."),
        ("0000-01-01T00:00:00Z", "The year must be 1900 to 9999, got 0000."),
        ("2026-02-29T00:00:00Z", "There is no such instant as 2026-02-29T00:00:00Z: "),
        ("2026-13-01T00:00:00Z", "There is no such instant as 2026-13-01T00:00:00Z: "),
        ("2026-11-24T24:00:00Z", "There is no such instant as 2026-11-24T24:00:00Z: "),
        ("2026-11-24T23:59:60Z", "There is no such instant as 2026-11-24T23:59:60Z: "),
    ],
)
def test_parse_utc_refuses_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        clock.parse_utc(text)


@given(INSTANTS)
def test_a_formatted_instant_parses_back(instant: datetime) -> None:
    assert clock.parse_utc(clock.format_utc(instant)) == instant
    assert clock.from_ms(clock.to_ms(instant)) == instant


@pytest.mark.parametrize(
    ("instant", "ms"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC), -1),
        (datetime(2024, 3, 31, 1, 0, tzinfo=UTC), 1_711_846_800_000),
        (datetime(2024, 3, 31, 2, 0, tzinfo=clock.UK), 1_711_846_800_000),
    ],
)
def test_milliseconds(instant: datetime, ms: int) -> None:
    assert clock.to_ms(instant) == ms
    assert clock.from_ms(ms) == instant


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2024-01-15", "2024-01-15T00:00:00.000Z", "2024-01-16T00:00:00.000Z"),
        ("2024-03-31", "2024-03-31T00:00:00.000Z", "2024-03-31T23:00:00.000Z"),
        ("2024-07-01", "2024-06-30T23:00:00.000Z", "2024-07-01T23:00:00.000Z"),
        ("2024-10-27", "2024-10-26T23:00:00.000Z", "2024-10-28T00:00:00.000Z"),
        ("2024-12-31", "2024-12-31T00:00:00.000Z", "2025-01-01T00:00:00.000Z"),
        ("9999-12-31", "9999-12-31T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_uk_day_from_start_to_end(day: str, start: str, end: str) -> None:
    assert clock.format_utc(clock.start_of_uk_day(date.fromisoformat(day))) == start
    assert clock.format_utc(clock.end_of_uk_day(date.fromisoformat(day))) == end


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2024-06-30T22:59:59.999Z", "2024-06-30"),
        ("2024-06-30T23:00:00.000Z", "2024-07-01"),
        ("2024-12-31T23:59:59.999Z", "2024-12-31"),
        ("2024-10-27T23:59:59.999Z", "2024-10-27"),
    ],
)
def test_uk_date(instant: str, day: str) -> None:
    assert clock.uk_date(clock.parse_utc(instant)) == date.fromisoformat(day)


@pytest.mark.parametrize(
    ("day", "count"),
    [
        (date(2024, 3, 30), 48),
        (date(2024, 3, 31), 46),
        (date(2024, 4, 1), 48),
        (date(2024, 10, 26), 48),
        (date(2024, 10, 27), 50),
        (date(2024, 10, 28), 48),
        (date(2026, 3, 29), 46),
        (date(2026, 10, 25), 50),
        (date.max, 48),
    ],
)
def test_half_hours_in_uk_day(day: date, count: int) -> None:
    assert clock.half_hours_in_uk_day(day) == count


@given(DATES)
def test_uk_days_follow_each_other_and_hold_their_instants(day: date) -> None:
    start, end = clock.start_of_uk_day(day), clock.end_of_uk_day(day)
    assert end == clock.start_of_uk_day(day + timedelta(days=1))
    assert clock.uk_date(start) == clock.uk_date(end - MILLISECOND) == day
    assert clock.half_hours_in_uk_day(day) in (46, 48, 50)
