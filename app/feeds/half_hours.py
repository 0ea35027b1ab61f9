"""Half-hours of a window, of all channels, as a source tells of them: values, marks, periods that it does not have."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from app.core import clock
from app.feeds.amounts import ANY_METER_MOST, Amounts, Unit
from app.feeds.source import Fetched, MissingPeriod, Window
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel

OTHER_UNIT: Final = "The source gave these half-hours in another unit than kWh."
UNREADABLE: Final = "The source's answer has entries that cannot be read."
TEXTS_KEPT: Final = 4_096
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_READ: Final = ""
"""Stands in the place of a cause where there is a value."""
_Run = tuple[int, int, str]
"""Half-hours `[first, after)` with the same cause."""


def half_hour_of(instant: datetime) -> int:
    """The half-hour, counted from 1970, in which an instant falls."""
    return clock.to_ms(instant) // HALF_HOUR_MS


def start_of(half_hour: int) -> datetime:
    """The instant at which a half-hour, counted from 1970, begins."""
    return clock.from_ms(half_hour * HALF_HOUR_MS)


class KnownTexts(dict[str, int]):
    """The numbers of texts by `read`, each read once. Raises what `read` raises, and keeps nothing of such a text."""

    def __init__(self, read: Callable[[str], int]) -> None:
        self._read = read

    def __missing__(self, text: str) -> int:
        found = self._read(text)
        # The texts come from outside: a source that invents them must not fill the memory.
        if len(self) >= TEXTS_KEPT:
            self.clear()
        self[text] = found
        return found


def _half_hour_of_date(text: str) -> int:
    if _DATE.fullmatch(text) is None:
        raise ValueError("This is no date.")
    return half_hour_of(datetime.fromisoformat(text).replace(tzinfo=UTC))


DATES: Final = KnownTexts(_half_hour_of_date)
"""The half-hour that begins a date such as `2026-05-25`, as if it were UTC. Raises ValueError for any other text."""


class HalfHours:
    """Gathers the half-hours of one window, in kWh; those outside it are left out.

    A half-hour with a value that another mention marks as missing has that value. `most` is the bound of a value in
    millionths of a kWh.
    """

    def __init__(self, window: Window, most: int = ANY_METER_MOST) -> None:
        self.first = half_hour_of(window.start)
        self.after = half_hour_of(window.end)
        unit = Unit(most=most)
        self._amounts = {channel: Amounts(window, channel, unit) for channel in ReadingChannel}
        self._periods: dict[ReadingChannel, list[_Run]] = {}

    def add(self, channel: ReadingChannel, half_hour: int, value: Any, is_estimated: bool = False) -> None:
        """Takes a value as it stands in the source's JSON. Raises SourceFailure for a list or an object."""
        self._amounts[channel].put(half_hour, value, is_estimated=is_estimated)

    def miss(self, channel: ReadingChannel, half_hour: int, cause: str) -> None:
        """Notes that the source has no value for a half-hour; the first cause stays."""
        self._amounts[channel].lose(half_hour, cause)

    def miss_period(self, channel: ReadingChannel, first: int, after: int, cause: str) -> None:
        """Notes that the source has no other values for the half-hours `[first, after)` than those that it gave."""
        first, after = max(first, self.first), min(after, self.after)
        if first < after:
            self._periods.setdefault(channel, []).append((first, after, cause))

    def miss_rest(self, channel: ReadingChannel, cause: str) -> None:
        """Gives a cause to all half-hours of the window of which the source said nothing else."""
        self.miss_period(channel, self.first, self.after, cause)

    def fetched(self, starts_at: datetime | None = None) -> Fetched:
        """All that was gathered."""
        readings = {channel: one.columns() for channel, one in self._amounts.items() if one.values}
        missing = [one for channel in ReadingChannel for one in self._missing(channel)]
        return Fetched(readings, missing, starts_at)

    def _missing(self, channel: ReadingChannel) -> Iterable[MissingPeriod]:
        amounts = self._amounts[channel]
        if channel not in self._periods:
            return amounts.missing()
        causes = {**amounts.lost, **dict.fromkeys(amounts.values, _READ)}
        runs = [(at, at + 1, causes[at]) for at in sorted(causes)]
        for period in self._periods[channel]:
            runs = list(_filled(runs, *period))
        return (
            MissingPeriod(channel, start_of(first), start_of(after), cause)
            for first, after, cause in _joined(runs)
            if cause != _READ
        )


def _filled(runs: Iterable[_Run], first: int, after: int, cause: str) -> Iterator[_Run]:
    """Runs in order with the holes between them filled from `first` to `after`."""
    at = first
    for run in runs:
        if at < min(run[0], after):
            yield at, min(run[0], after), cause
        at = max(at, run[1])
        yield run
    if at < after:
        yield at, after, cause


def _joined(runs: Iterable[_Run]) -> Iterator[_Run]:
    """Runs in order, those that follow each other with the same cause made one."""
    last: _Run | None = None
    for run in runs:
        if last is not None and (last[1], last[2]) == (run[0], run[2]):
            last = (last[0], run[1], run[2])
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last
