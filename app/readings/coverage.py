"""Coverage of a period by readings: what is present, estimated and missing."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from app.core import clock
from app.core.errors import BadUserInput
from app.graphql.context import Context
from app.readings.aggregation import PackedDay, half_hour_of, within
from app.readings.buckets import HALF_HOUR_MS, LAST_YEAR
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS, summary
from app.readings.stored_days import COVERED_DAY, TURN, first_half_hours, last_half_hours, read_days

MOST_GAPS: Final = 1000

Gap = tuple[int, int]
"""A run of missing half-hours `[first, end)`, counted from 1970."""


class Coverage(NamedTuple):
    """`[start, end)`, None where there is no reading and no period was asked for, with its counts of half-hours."""

    start: datetime | None
    end: datetime | None
    expected: int
    present: int
    estimated: int
    gaps: list[Gap]
    latest_at: datetime | None

    @property
    def missing(self) -> int:
        return self.expected - self.present


async def read_coverage(
    context: Context,
    meter_id: str,
    channel: ReadingChannel,
    start: datetime | None,
    end: datetime | None,
    now: datetime,
) -> Coverage:
    """The coverage of a meter's channel; the meters of one operation are read together.

    Raises BadUserInput, and QueryTooComplex.
    """
    if start is not None and end is not None and end <= start:
        raise BadUserInput("to must be after from.", field=["to"])
    for name, instant in (("from", start), ("to", end)):
        if instant is not None and instant.year > LAST_YEAR:
            raise BadUserInput(f"The period must end by the year {LAST_YEAR}.", field=[name])

    async def load(meter_ids: list[str]) -> list[Coverage]:
        last = await last_half_hours(context, meter_ids, channel)
        first = {} if start is not None else await first_half_hours(context, meter_ids, channel)
        bounds = {
            one: _bounds(start, end, first.get(one), now)
            for one in meter_ids
            if start is not None or one in first
        }
        spans = {one: (_instant(low), _instant(high)) for one, (low, high) in bounds.items() if low < high}
        days = await read_days(context, spans, channel, COVERED_DAY) if spans else {}
        found = []
        for one in meter_ids:
            latest_at = _instant(last[one]) if one in last else None
            if one in bounds:
                found.append((await _counted(days.get(one, []), *bounds[one])).coverage(latest_at))
            else:
                found.append(Coverage(start, end, 0, 0, 0, [], latest_at))
        return found

    return await context.loader(("coverage", channel, start, end), load).load(meter_id)


def _bounds(
    start: datetime | None, end: datetime | None, first: int | None, now: datetime
) -> tuple[int, int]:
    """The period's first half-hour and the one behind its last, widened to whole half-hours."""
    low = half_hour_of(start) if start is not None else first or 0
    end = end or clock.start_of_uk_day(clock.uk_date(now))
    return low, max(low, -(-clock.to_ms(end) // HALF_HOUR_MS))


async def _counted(days: Sequence[PackedDay], low: int, high: int) -> "_Count":
    """Counts days in parts, between which other work gets its turn."""
    count = _Count(low, high)
    for at in range(0, len(days), TURN):
        count.add(days[at : at + TURN])
        await asyncio.sleep(0)
    return count


class _Count:
    """Counts the half-hours of `[low, high)` that ascending days hold."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._present = self._estimated = 0
        self._gaps: list[Gap] = []
        self._covered = low

    def add(self, days: Iterable[PackedDay]) -> None:
        for day, packed in days:
            found = summary(packed)
            inside = found.present & within(day, self._low, self._high)
            self._present += inside.bit_count()
            self._estimated += (found.estimated & inside).bit_count()
            for begin, behind in _runs(inside):
                self._gap(day * SLOTS + begin)
                self._covered = day * SLOTS + behind

    def _gap(self, end: int) -> None:
        if self._covered < end and len(self._gaps) < MOST_GAPS:
            self._gaps.append((self._covered, end))

    def coverage(self, latest_at: datetime | None) -> Coverage:
        self._gap(self._high)
        low, high = self._low, self._high
        return Coverage(
            _instant(low), _instant(high), high - low, self._present, self._estimated, self._gaps, latest_at
        )


def _runs(bitmap: int) -> Iterable[Gap]:
    """The runs of half-hours in a bitmap as `[first, end)`."""
    at = 0
    while bitmap:
        skipped = (bitmap & -bitmap).bit_length() - 1
        bitmap >>= skipped
        length = (~bitmap & bitmap + 1).bit_length() - 1
        bitmap >>= length
        yield at + skipped, at + skipped + length
        at += skipped + length


def _instant(half_hour: int) -> datetime:
    return clock.from_ms(half_hour * HALF_HOUR_MS)
