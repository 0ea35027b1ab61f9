"""Reads of intervals: parse the period, then load the buckets of many meters with two statements at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core import clock
from app.core.errors import BadUserInput, QueryTooComplex
from app.db.sql import Sql, rows
from app.graphql.context import Context
from app.readings import buckets
from app.readings.aggregation import Bucket, PackedDay, aggregate, count_readings, half_hour_of
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import Granularity, ReadingChannel
from app.readings.merging import add_half_hours
from app.readings.packing import SLOTS, summary

MAX_READ = 200_000
"""Readings that one operation may read: a year of ten meters, or a month of a hundred."""

# Half-hours that a version before days stored count beside the days, until the worker has carried them over.
_DAYS = Sql("""
    SELECT given.meter_id, reading_days.day, reading_days.packed, NULL AS start_ms, NULL AS micro_kwh,
        NULL AS estimated
    FROM @rows(meter_id text, first_day bigint, last_day bigint, first_ms bigint, end_ms bigint)
    JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    JOIN reading_days ON reading_days.meter_key = meter_keys.key AND reading_days.channel = :channel
        AND reading_days.day >= given.first_day AND reading_days.day <= given.last_day
    UNION ALL
    SELECT given.meter_id, NULL, NULL, readings.start_ms, readings.micro_kwh, readings.estimated
    FROM @rows(meter_id text, first_day bigint, last_day bigint, first_ms bigint, end_ms bigint)
    JOIN readings ON readings.meter_id = given.meter_id
        AND readings.start_ms >= given.first_ms AND readings.start_ms < given.end_ms
    LIMIT :limit
""")
_LAST = Sql("""
    SELECT given.meter_id, reading_days.day, reading_days.packed, NULL AS start_ms
    FROM @rows(meter_id text)
    JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    JOIN reading_days ON reading_days.meter_key = meter_keys.key AND reading_days.channel = :channel
        AND reading_days.day = (
            SELECT max(day) FROM reading_days AS latest
            WHERE latest.meter_key = meter_keys.key AND latest.channel = :channel
        )
    UNION ALL
    SELECT given.meter_id, NULL, NULL, (SELECT max(start_ms) FROM readings WHERE meter_id = given.meter_id)
    FROM @rows(meter_id text)
""")


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
        days = await _days(context, spans)
        return [_intervals(days[one], *spans[one], asked.granularity, now) for one in meter_ids]

    return await context.loader(("intervals", asked), load).load(meter_id)


async def _spans(
    context: Context, meter_ids: list[str], asked: Period, now: datetime
) -> dict[str, tuple[datetime, datetime]]:
    if asked.span is not None:
        return dict.fromkeys(meter_ids, asked.span)
    given = {"rows": rows({"meter_id": one} for one in meter_ids), "channel": ReadingChannel.IMPORT.code}
    last: dict[str, int] = {}
    for meter_id, day, packed, start_ms in await _fetch(context, _LAST, given):
        if packed is not None:
            at = day * SLOTS + summary(packed).present.bit_length() - 1
        elif start_ms is not None:
            at = start_ms // HALF_HOUR_MS
        else:
            continue
        last[meter_id] = max(at, last.get(meter_id, at))
    return {
        one: _day(clock.from_ms(last[one] * HALF_HOUR_MS) if one in last else now, asked.granularity)
        for one in meter_ids
    }


def _day(instant: datetime, granularity: Granularity) -> tuple[datetime, datetime]:
    day = clock.uk_date(instant)
    return _widened(clock.start_of_uk_day(day), clock.end_of_uk_day(day), granularity)


async def _days(context: Context, spans: dict[str, tuple[datetime, datetime]]) -> dict[str, list[PackedDay]]:
    """The days of each meter that its span touches, in order."""
    given = [
        {
            "meter_id": meter_id,
            "first_day": half_hour_of(start) // SLOTS,
            "last_day": (half_hour_of(end) - 1) // SLOTS,
            "first_ms": clock.to_ms(start),
            "end_ms": clock.to_ms(end),
        }
        for meter_id, (start, end) in spans.items()
    ]
    # Of each meter two days at most have no half-hour inside its span.
    limit = MAX_READ - context.readings_read + 1 + 2 * len(given)
    parameters = {"rows": rows(given), "channel": ReadingChannel.IMPORT.code, "limit": limit}
    days: dict[str, dict[int, bytes]] = {one: {} for one in spans}
    half_hours: dict[str, list[tuple[int, int, bool]]] = {}
    for meter_id, day, packed, start_ms, micro_kwh, estimated in await _fetch(context, _DAYS, parameters):
        if packed is None:
            reading = start_ms // HALF_HOUR_MS, micro_kwh, bool(estimated)
            half_hours.setdefault(meter_id, []).append(reading)
        else:
            days[meter_id][day] = packed
    for meter_id, found in half_hours.items():
        add_half_hours(days[meter_id], found)
    sorted_days = {meter_id: sorted(of_meter.items()) for meter_id, of_meter in days.items()}
    context.readings_read += sum(count_readings(sorted_days[one], *span) for one, span in spans.items())
    if context.readings_read > MAX_READ:
        raise QueryTooComplex(
            f"This reads more than {MAX_READ} readings; ask for fewer meters or a shorter period at once.",
            limit=MAX_READ,
        )
    return sorted_days


async def _fetch(context: Context, statement: Sql, parameters: dict[str, Any]) -> Sequence[Any]:
    found = await context.execute(statement.of(context.services.database.is_sqlite), parameters)
    return found.all()


def _intervals(
    days: list[PackedDay], start: datetime, end: datetime, granularity: Granularity, now: datetime
) -> Intervals:
    found = aggregate(days, granularity, start, end, now)
    return Intervals(start, end, found.buckets, found.micro_kwh, found.missing_count)
