"""Local days of the United Kingdom in UTC half-hours, with the two days on which the clocks change."""

from datetime import UTC, datetime, timedelta
from typing import Final

from app.core import clock
from app.imports.formats.dates import MAX_KNOWN, date_of, spoken

SLOTS: Final = 48
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=clock.UK).replace(tzinfo=None)
_HALF_HOUR_MS: Final = 30 * 60 * 1000


class UkDays:
    """Remembers where local days begin."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def bounds(self, day: int) -> tuple[int, int]:
        """The first UTC half-hour of a local day, and how many it has: 46, 48 or 50."""
        found = self._known.get(day)
        if found is None:
            when = date_of(day)
            found = (
                clock.to_ms(clock.start_of_uk_day(when)) // _HALF_HOUR_MS,
                clock.half_hours_in_uk_day(when),
            )
            if len(self._known) < MAX_KNOWN:
                self._known[day] = found
        return found

    def day_of(self, half_hour: int) -> int:
        """The local day of a UTC half-hour."""
        day = half_hour // SLOTS
        return day + 1 if half_hour >= self.bounds(day + 1)[0] else day

    def instants(self, label: int) -> tuple[int, ...]:
        """The UTC half-hours at which clocks show a label: one; none in the hour that is skipped; two in the hour that
        comes twice, the earlier first."""
        first, count = self.bounds(label // SLOTS)
        if count == SLOTS:
            return (first + label % SLOTS,)
        naive = _EPOCH + timedelta(minutes=30 * label)
        found = set()
        for fold in (0, 1):
            utc = naive.replace(tzinfo=clock.UK, fold=fold).astimezone(UTC)
            if utc.astimezone(clock.UK).replace(tzinfo=None) == naive:
                found.add(clock.to_ms(utc) // _HALF_HOUR_MS)
        return tuple(sorted(found))


def clock_change(day: int, count: int, given: str) -> str:
    """The sentence about a row that does not have as many values as its day."""
    return (
        f"{spoken(day)} has {count // 2} hours in the UK, so {count} half-hours, and {given}. "
        f"Choose timezone=utc if the file is in UTC or in GMT all year; else get this day with {count} values."
    )
