"""Reads of intervals: parse the period, then load the buckets of many meters with two statements at most."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.core import clock
from app.core.errors import BadUserInput
from app.graphql.compiled.partial import ReadyValue, ready_json
from app.graphql.context import Context
from app.readings import buckets
from app.readings.aggregation import Aggregate, Bucket, PackedDay, aggregate, half_hour_of, half_hours
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import Granularity, ReadingChannel
from app.readings.interval_json import IntervalWriter
from app.readings.packing import SLOTS
from app.readings.stored_days import TURN, last_half_hours, read_days, spend

SHORT: Final = 384
"""Intervals that are written at once: the half-hours of a week."""


@dataclass(frozen=True)
class Period:
    """A requested period in UTC; without a span, the last UK day with data. Equal periods are read together."""

    granularity: Granularity
    span: tuple[datetime, datetime] | None


@dataclass(frozen=True)
class Intervals:
    """`[start, end)` as whole buckets; buckets without a reading are absent."""

    start: datetime
    end: datetime
    sums: Aggregate
    days: list[PackedDay]

    def buckets(self) -> list[Bucket]:
        buckets = self.sums.buckets
        return half_hours(self.days, self.start, self.end) if buckets is None else buckets


def parse_period(
    start: datetime | None,
    end: datetime | None,
    lookback: str | None,
    granularity: Granularity,
    now: datetime,
) -> Period:
    """Validates the arguments. Raises BadUserInput."""
    if lookback is not None:
        if start is not None:
            raise BadUserInput("Give from or lookback, not both.", field=["lookback"])
        end = end or now
        try:
            start = buckets.parse_lookback(lookback).before(end)
        except ValueError as error:
            raise BadUserInput(str(error), field=["lookback"]) from None
    if start is None and end is None:
        return Period(granularity, None)
    if start is None:
        raise BadUserInput("Give from, or a lookback such as 1w, beside to.", field=["from"])
    if start.year > buckets.LAST_YEAR:
        raise BadUserInput(f"The period must end by the year {buckets.LAST_YEAR}.", field=["from"])
    return Period(granularity, _widened(start, end or max(now, start + clock.HALF_HOUR), granularity))


def _widened(start: datetime, end: datetime, granularity: Granularity) -> tuple[datetime, datetime]:
    if end <= start:
        raise BadUserInput("to must be after from.", field=["to"])
    try:
        start, end = buckets.widen(start, end, granularity)
    except ValueError as error:
        raise BadUserInput(str(error), field=["from"]) from None
    count = buckets.bucket_count(start, end, granularity)
    if count > buckets.MAX_INTERVALS:
        raise BadUserInput(
            f"This period has {count} intervals; ask for at most {buckets.MAX_INTERVALS}, or more coarsely.",
            field=["from"],
        )
    return start, end


async def read(
    context: Context, meter_id: str, channel: ReadingChannel, asked: Period, now: datetime
) -> Intervals:
    """Reads the intervals of a meter's channel; the meters of one operation are read together."""

    async def load(meter_ids: list[str]) -> list[Intervals]:
        spans = await _spans(context, meter_ids, channel, asked, now)
        days = await read_days(context, spans, channel)
        found, worked = [], 0
        for one in meter_ids:
            worked += len(days[one])
            if worked > TURN:
                worked = 0
                await asyncio.sleep(0)
            start, end = spans[one]
            sums = aggregate(days[one], asked.granularity, start, end, now)
            spend(context, sums.present_count)
            found.append(Intervals(start, end, sums, days[one]))
        return found

    return await context.loader(("intervals", channel, asked), load).load(meter_id)


def written(context: Context, writer: IntervalWriter, found: Intervals) -> ReadyValue | Awaitable[ReadyValue]:
    """The intervals as JSON. Long lists are written in parts, between which other work gets its turn."""
    count = len(found.days) * SLOTS if found.sums.buckets is None else len(found.sums.buckets)
    if count <= SHORT:
        return ready_json(f"[{_text(writer, found, slice(None))}]")
    return _written_in_parts(context, writer, found, count)


async def _written_in_parts(
    context: Context, writer: IntervalWriter, found: Intervals, count: int
) -> ReadyValue:
    each = TURN // SLOTS if found.sums.buckets is None else TURN
    parts = []
    for at in range(0, count, each):
        await context.turn()
        parts.append(_text(writer, found, slice(at, at + each)))
    return ready_json(f"[{','.join(filter(None, parts))}]")


def _text(writer: IntervalWriter, found: Intervals, part: slice) -> str:
    if found.sums.buckets is not None:
        return writer.buckets(found.sums.buckets[part])
    return writer.half_hours(found.days[part], half_hour_of(found.start), half_hour_of(found.end))


async def _spans(
    context: Context, meter_ids: list[str], channel: ReadingChannel, asked: Period, now: datetime
) -> dict[str, tuple[datetime, datetime]]:
    if asked.span is not None:
        return dict.fromkeys(meter_ids, asked.span)
    last = await last_half_hours(context, meter_ids, channel)
    return {
        one: _day(clock.from_ms(last[one] * HALF_HOUR_MS) if one in last else now, asked.granularity)
        for one in meter_ids
    }


def _day(instant: datetime, granularity: Granularity) -> tuple[datetime, datetime]:
    day = clock.uk_date(instant)
    return _widened(clock.start_of_uk_day(day), clock.end_of_uk_day(day), granularity)
