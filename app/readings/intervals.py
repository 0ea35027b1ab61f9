"""Reads of intervals: parse the period, then load the buckets of many meters with two statements at most."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, or_
from sqlmodel import col, func, select

from app.core import clock
from app.core.errors import BadUserInput, QueryTooComplex
from app.graphql.context import Context
from app.readings import buckets
from app.readings.buckets import Bucket
from app.readings.enums import Granularity, ReadingQuality
from app.readings.models import Reading

MAX_READ = 200_000
"""Readings that one operation may read: a year of ten meters, or a month of a hundred."""


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


async def read(context: Context, meter_id: str, asked: Period, now: datetime) -> Intervals:
    """Reads a meter's intervals; the meters of one operation are read together."""

    async def load(meter_ids: list[str]) -> list[Intervals]:
        spans = await _spans(context, meter_ids, asked, now)
        rows = await _rows(context, spans)
        return [_intervals(rows[one], *spans[one], asked.granularity, now) for one in meter_ids]

    return await context.loader(("intervals", asked), load).load(meter_id)


async def _spans(
    context: Context, meter_ids: list[str], asked: Period, now: datetime
) -> dict[str, tuple[datetime, datetime]]:
    if asked.span is not None:
        return dict.fromkeys(meter_ids, asked.span)
    statement = (
        select(col(Reading.meter_id), func.max(col(Reading.start_ms)))
        .where(col(Reading.meter_id).in_(meter_ids))
        .group_by(col(Reading.meter_id))
    )
    last = {meter_id: clock.from_ms(start) for meter_id, start in (await context.execute(statement))}
    return {one: _day(last.get(one, now), asked.granularity) for one in meter_ids}


def _day(instant: datetime, granularity: Granularity) -> tuple[datetime, datetime]:
    day = clock.uk_date(instant)
    return _widened(clock.start_of_uk_day(day), clock.end_of_uk_day(day), granularity)


async def _rows(
    context: Context, spans: dict[str, tuple[datetime, datetime]]
) -> dict[str, list[tuple[int, int, ReadingQuality]]]:
    by_span: dict[tuple[datetime, datetime], list[str]] = {}
    for meter_id, span in spans.items():
        by_span.setdefault(span, []).append(meter_id)
    wanted = [
        and_(
            col(Reading.meter_id).in_(meter_ids),
            col(Reading.start_ms) >= clock.to_ms(start),
            col(Reading.start_ms) < clock.to_ms(end),
        )
        for (start, end), meter_ids in by_span.items()
    ]
    statement = (
        select(col(Reading.meter_id), col(Reading.start_ms), col(Reading.micro_kwh), col(Reading.estimated))
        .where(or_(*wanted))
        .order_by(col(Reading.meter_id), col(Reading.start_ms))
        .limit(MAX_READ - context.readings_read + 1)
    )
    rows: dict[str, list[tuple[int, int, ReadingQuality]]] = {one: [] for one in spans}
    for meter_id, start_ms, micro_kwh, estimated in await context.execute(statement):
        quality = ReadingQuality.ESTIMATED if estimated else ReadingQuality.ACTUAL
        rows[meter_id].append((start_ms, micro_kwh, quality))
    context.readings_read += sum(map(len, rows.values()))
    if context.readings_read > MAX_READ:
        raise QueryTooComplex(
            f"This reads more than {MAX_READ} readings; ask for fewer meters or a shorter period at once.",
            limit=MAX_READ,
        )
    return rows


def _intervals(
    rows: list[tuple[int, int, ReadingQuality]],
    start: datetime,
    end: datetime,
    granularity: Granularity,
    now: datetime,
) -> Intervals:
    return Intervals(
        start=start,
        end=end,
        buckets=buckets.aggregate(rows, granularity, start, end, now),
        total_micro_kwh=sum(micro for _, micro, _ in rows),
        missing_count=buckets.count_missing([start_ms for start_ms, _, _ in rows], start, end, now),
    )
