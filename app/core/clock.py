"""UTC instants with milliseconds, and days of the United Kingdom's calendar."""

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

UK = ZoneInfo("Europe/London")
HALF_HOUR = timedelta(minutes=30)
FIRST_YEAR = 1900

_ONE_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_INSTANT = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
# Not strftime's names, which depend on the locale.
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)


def now() -> datetime:
    """The current instant, aware UTC, truncated to milliseconds."""
    return _truncated(datetime.now(UTC))


def format_utc(instant: datetime) -> str:
    """`2026-11-24T22:29:55.123Z`: an aware datetime as UTC with exactly three fraction digits, truncated.

    Raises ValueError for a naive datetime.
    """
    if instant.tzinfo is not UTC:
        instant = _aware(instant).astimezone(UTC)
    return instant.isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_utc(text: str) -> datetime:
    """An ISO 8601 instant that carries `Z` or `+00:00`, as aware UTC with milliseconds.

    Seconds may be omitted. Up to nine fraction digits are accepted, because common clients send micro- or
    nanoseconds; fractions of a millisecond are truncated, as by `now`. Years 1900 to 9999.
    Raises ValueError with a sentence.
    """
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError("Write an instant as ISO 8601 in UTC, such as 2026-11-24T22:29:55.123Z.")
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if offset is None:
        raise ValueError("An instant without an offset is ambiguous: end it with Z or +00:00.")
    if offset not in ("Z", "+00:00"):
        raise ValueError(f"An instant must be in UTC: convert it and end it with Z or +00:00, got {offset}.")
    if int(year) < FIRST_YEAR:
        raise ValueError(f"The year must be {FIRST_YEAR} to 9999, got {year}.")
    microsecond = int((fraction or "")[:3].ljust(3, "0")) * 1000
    try:
        return datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0), microsecond, UTC
        )
    except ValueError as error:
        raise ValueError(f"There is no such instant as {text}: {error}.") from None


def to_ms(instant: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00Z of an aware datetime, exact, rounded down; negative before."""
    return (_aware(instant) - _EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The aware UTC datetime of milliseconds since 1970-01-01T00:00Z, exact."""
    return _EPOCH + timedelta(milliseconds=ms)


def start_of_uk_day(day: date) -> datetime:
    """The UTC instant at which a date begins in the United Kingdom."""
    return datetime.combine(day, time(), UK).astimezone(UTC)


def end_of_uk_day(day: date) -> datetime:
    """The UTC instant at which a date ends in the United Kingdom and the next one begins."""
    # 9999-12-31, often written for "never", has no next date, so it ends with the last millisecond there is.
    return _LAST_INSTANT if day == date.max else start_of_uk_day(day + _ONE_DAY)


def uk_date(instant: datetime) -> date:
    """The date on which an aware datetime falls in the United Kingdom. Raises ValueError for a naive one."""
    return _aware(instant).astimezone(UK).date()


def long_date(day: date) -> str:
    """`24 November 2027`."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def half_hours_in_uk_day(day: date) -> int:
    """48, or 46 on the last Sunday of March and 50 on the last Sunday of October."""
    return (end_of_uk_day(day) - start_of_uk_day(day) + _MILLISECOND) // HALF_HOUR


def _truncated(instant: datetime) -> datetime:
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("A datetime without a time zone is ambiguous: give it one.")
    return instant
