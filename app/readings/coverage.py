"""Coverage of a period by readings: what is present, estimated and missing."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from app.core import clock
from app.core.errors import BadUserInput
from app.feeds.fetching.gaps import causes
from app.graphql.context import Context
from app.readings.aggregation import PackedDay, half_hour_of, within
from app.readings.buckets import HALF_HOUR_MS, LAST_YEAR
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS, summary
from app.readings.stored_days import COVERED_DAY, TURN, first_half_hours, last_half_hours, read_days

MOST_GAPS: Final = 1000


class Gap(NamedTuple):
    """A run of missing half-hours `[first, end)`, counted from 1970, and what a feed's source said about it."""

    first: int
    end: int
    cause: str | None = None


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
        found: dict[str, Coverage] = {}
        for one in meter_ids:
            latest_at = _instant(last[one]) if one in last else None
            if one in bounds:
                found[one] = (await _counted(days.get(one, []), *bounds[one])).coverage(latest_at)
            else:
                found[one] = Coverage(start, end, 0, 0, 0, [], latest_at)
        explained = await _explained(
            context, channel, {one: found[one].gaps for one in found if found[one].gaps}
        )
        return [found[one]._replace(gaps=explained.get(one, [])) for one in meter_ids]

    return await context.loader(("coverage", channel, start, end), load).load(meter_id)


async def _explained(
    context: Context, channel: ReadingChannel, gaps: Mapping[str, Sequence[Gap]]
) -> dict[str, list[Gap]]:
    """The gaps by meter, each with the first cause that the feed's source gave for a part of it."""
    if not gaps:
        return {}
    spans = {one: (found[0].first, found[-1].end) for one, found in gaps.items()}
    statement, parameters = causes(channel, spans, on_sqlite=context.services.database.is_sqlite)
    told: dict[str, list[Gap]] = {}
    for meter_id, first, after, cause in await context.rows(statement, parameters, alone=False):
        told.setdefault(meter_id, []).append(Gap(first, after, cause))
    return {one: list(_with_causes(found, told.get(one, ()))) for one, found in gaps.items()}


def _with_causes(gaps: Sequence[Gap], told: Sequence[Gap]) -> Iterator[Gap]:
    """Both are in order, and neither overlaps itself."""
    at = 0
    for gap in gaps:
        while at < len(told) and told[at].end <= gap.first:
            at += 1
        is_told = at < len(told) and told[at].first < gap.end
        yield gap._replace(cause=told[at].cause) if is_told else gap


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
            self._gaps.append(Gap(self._covered, end))

    def coverage(self, latest_at: datetime | None) -> Coverage:
        self._gap(self._high)
        low, high = self._low, self._high
        return Coverage(
            _instant(low), _instant(high), high - low, self._present, self._estimated, self._gaps, latest_at
        )


def _runs(bitmap: int) -> Iterable[tuple[int, int]]:
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
