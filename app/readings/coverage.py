"""Coverage of a period by readings: what is present, estimated and missing."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from app.core import clock
from app.core.errors import BadUserInput
from app.graphql.context import Context
from app.readings.aggregation import PackedDay, half_hour_of, within
from app.readings.buckets import HALF_HOUR_MS, LAST_YEAR
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS, summary
from app.readings.stored_days import first_half_hours, last_half_hours, read_days

MOST_GAPS: Final = 1000
MOST_DAYS: Final = 200_000

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
    """The coverage of a meter's channel; the meters of one operation are read together. Raises BadUserInput."""
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
        days = await read_days(context, spans, channel, MOST_DAYS) if spans else {}
        return [_coverage(days.get(one, []), bounds.get(one), last.get(one), start, end) for one in meter_ids]

    return await context.loader(("coverage", channel, start, end), load).load(meter_id)


def _bounds(
    start: datetime | None, end: datetime | None, first: int | None, now: datetime
) -> tuple[int, int]:
    """The period's first half-hour and the one behind its last, widened to whole half-hours."""
    low = half_hour_of(start) if start is not None else first or 0
    end = end or clock.start_of_uk_day(clock.uk_date(now))
    return low, max(low, -(-clock.to_ms(end) // HALF_HOUR_MS))


def _coverage(
    days: Iterable[PackedDay],
    bounds: tuple[int, int] | None,
    last: int | None,
    start: datetime | None,
    end: datetime | None,
) -> Coverage:
    latest_at = None if last is None else _instant(last)
    if bounds is None:
        return Coverage(start, end, 0, 0, 0, [], latest_at)
    low, high = bounds
    present = estimated = 0
    gaps: list[Gap] = []
    covered = low
    for day, packed in days:
        found = summary(packed)
        inside = found.present & within(day, low, high)
        present += inside.bit_count()
        estimated += (found.estimated & inside).bit_count()
        for begin, behind in _runs(inside):
            if day * SLOTS + begin > covered:
                gaps.append((covered, day * SLOTS + begin))
            covered = day * SLOTS + behind
    if covered < high:
        gaps.append((covered, high))
    return Coverage(
        _instant(low), _instant(high), high - low, present, estimated, gaps[:MOST_GAPS], latest_at
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
