"""Reads of intervals: parse the period, then load the buckets of many meters with two statements at most."""

from dataclasses import dataclass
from datetime import datetime

from app.core import clock
from app.core.errors import BadUserInput
from app.graphql.context import Context
from app.readings import buckets
from app.readings.aggregation import Bucket, PackedDay, aggregate, count_readings
from app.readings.buckets import HALF_HOUR_MS
from app.readings.budget import spend
from app.readings.enums import Granularity, ReadingChannel
from app.readings.stored_days import last_half_hours, read_days


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
    buckets: list[Bucket]
    total_micro_kwh: int
    missing_count: int


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
        spend(context, sum(count_readings(days[one], *span) for one, span in spans.items()))
        return [_intervals(days[one], *spans[one], asked.granularity, now) for one in meter_ids]

    return await context.loader(("intervals", channel, asked), load).load(meter_id)


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


def _intervals(
    days: list[PackedDay], start: datetime, end: datetime, granularity: Granularity, now: datetime
) -> Intervals:
    found = aggregate(days, granularity, start, end, now)
    return Intervals(start, end, found.buckets, found.micro_kwh, found.missing_count)
