"""Calendar buckets of readings: half-hours and hours, and the days, weeks, months and years of Europe/London.

Instants are aware UTC datetimes, periods are `[start, end)`. Hours need no calendar, because the UK is whole
hours from UTC.
"""

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from app.core.clock import UK, from_ms, start_of_uk_day, to_ms, uk_date
from app.readings.enums import Granularity

MAX_INTERVALS = 17_568
"""The half-hours of a leap year, which is the most that one answer holds."""

LOOKBACK_LIMITS = {"d": 36_600, "w": 5_200, "m": 1_200, "y": 100}
"""The largest number of each unit in a lookback: about a century."""

HALF_HOUR_MS = 30 * 60 * 1000
HOUR_MS = 2 * HALF_HOUR_MS

_FIXED_MS = {Granularity.HALF_HOUR: HALF_HOUR_MS, Granularity.HOUR: HOUR_MS}
LAST_YEAR = 9998
"""The last year in which a period may end; `datetime` ends with the next."""

_LOOKBACK = re.compile(r"([0-9]{1,9})([dwmy])")


class Lookback(NamedTuple):
    """A span of days, weeks, months or years of the UK calendar."""

    number: int
    unit: str

    def before(self, end: datetime) -> datetime:
        """The same local time this span earlier; a day that the month does not have becomes its last day."""
        local = end.astimezone(UK).replace(fold=0)
        if self.unit in "dw":
            earlier = local - timedelta(days=self.number * (7 if self.unit == "w" else 1))
        else:
            months = local.year * 12 + local.month - 1 - self.number * (12 if self.unit == "y" else 1)
            year, month = months // 12, months % 12 + 1
            earlier = local.replace(year=year, month=month, day=min(local.day, monthrange(year, month)[1]))
        return earlier.astimezone(UTC)


def parse_lookback(text: str) -> Lookback:
    """Parses `1d`, `1w`, `3m` or `1y`. Raises ValueError with a sentence."""
    found = _LOOKBACK.fullmatch(text)
    if found is None:
        raise ValueError("Write a lookback as a number and d, w, m or y, such as 1d, 1w, 3m or 1y.")
    number, unit = int(found[1]), found[2]
    if not 1 <= number <= LOOKBACK_LIMITS[unit]:
        raise ValueError(f"A lookback in {unit} is 1{unit} to {LOOKBACK_LIMITS[unit]}{unit}, got {text}.")
    return Lookback(number, unit)


def bucket_start(instant: datetime, granularity: Granularity) -> datetime:
    """The start of the bucket that holds the instant."""
    if step := _FIXED_MS.get(granularity):
        return from_ms(to_ms(instant) // step * step)
    return start_of_uk_day(_first_day(uk_date(instant), granularity))


def bucket_end(instant: datetime, granularity: Granularity) -> datetime:
    """The end of the bucket that holds the instant. Raises ValueError from the year 9999 on."""
    _within_time(instant)
    if step := _FIXED_MS.get(granularity):
        return from_ms((to_ms(instant) // step + 1) * step)
    return start_of_uk_day(_next_day(_first_day(uk_date(instant), granularity), granularity))


def widen(start: datetime, end: datetime, granularity: Granularity) -> tuple[datetime, datetime]:
    """Widens `[start, end)` to whole buckets. Raises ValueError if it is empty or reaches the year 9999."""
    if start >= end:
        raise ValueError("The period must end after it starts.")
    last = end - timedelta(milliseconds=1)
    return bucket_start(start, granularity), bucket_end(last, granularity)


def bucket_count(start: datetime, end: datetime, granularity: Granularity) -> int:
    """Counts the buckets of the widened `[start, end)` without making them."""
    start, end = widen(start, end, granularity)
    if step := _FIXED_MS.get(granularity):
        return (to_ms(end) - to_ms(start)) // step
    first, last = uk_date(start), uk_date(end)
    if granularity is Granularity.YEAR:
        return last.year - first.year
    if granularity is Granularity.MONTH:
        return (last.year - first.year) * 12 + last.month - first.month
    return (last - first).days // (7 if granularity is Granularity.WEEK else 1)


def calendar_bucket(day: date, granularity: Granularity) -> tuple[datetime, datetime]:
    """The start and the end of the day, week, month or year that holds a day of the UK."""
    first = _first_day(day, granularity)
    return start_of_uk_day(first), start_of_uk_day(_next_day(first, granularity))


def _first_day(day: date, granularity: Granularity) -> date:
    if granularity is Granularity.WEEK:
        return day - timedelta(days=day.weekday())
    if granularity is Granularity.MONTH:
        return day.replace(day=1)
    if granularity is Granularity.YEAR:
        return day.replace(month=1, day=1)
    return day


def _next_day(first: date, granularity: Granularity) -> date:
    if granularity is Granularity.MONTH:
        return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    if granularity is Granularity.YEAR:
        return first.replace(year=first.year + 1)
    return first + timedelta(days=7 if granularity is Granularity.WEEK else 1)


def _within_time(instant: datetime) -> None:
    if instant.year > LAST_YEAR:
        raise ValueError(f"The period must end by the year {LAST_YEAR}.")
