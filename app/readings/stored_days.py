"""Reads of days, for any number of meters at once.

Half-hours that a version before days stored count beside the days, until the worker has carried them over.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.core import clock
from app.core.errors import QueryTooComplex
from app.db.raw_statements import Rows
from app.db.sql import Sql, rows
from app.graphql.context import Context
from app.readings.aggregation import PackedDay, half_hour_of
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel
from app.readings.merging import add_half_hours
from app.readings.models import outermost_day_on_postgresql, outermost_day_on_sqlite
from app.readings.packing import SLOTS, slots, summary

MAX_READ: Final = 200_000
"""Readings that one operation reads at most: the intervals of ten meters over a year, or of a hundred over a month."""

COVERED_DAY: Final = 4
"""The readings that a day counts as where its amounts are not decoded: a hundred meters have a year of coverage."""

TURN: Final = 2000
"""Days or half-hours that are worked on before other work gets its turn."""

_GIVEN: Final = "@rows(meter_id text, first_day bigint, last_day bigint, first_ms bigint, end_ms bigint)"
_OF_DAYS: Final = f"""
    SELECT given.meter_id, reading_days.day, reading_days.packed, NULL AS start_ms, NULL AS micro_kwh,
        NULL AS estimated
    FROM {_GIVEN}
    JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    JOIN reading_days ON reading_days.meter_key = meter_keys.key AND reading_days.channel = :channel
        AND reading_days.day >= given.first_day AND reading_days.day <= given.last_day
        AND reading_days.day >= :first_day AND reading_days.day <= :last_day
"""  # noqa: S608 - our own names
# PostgreSQL expects a hundred meters, for which it would rather read a table of some million half-hours as a whole.
_DAYS = Sql(
    f"""{_OF_DAYS} UNION ALL
    SELECT given.meter_id, NULL, NULL, old.start_ms, old.micro_kwh, old.estimated FROM {_GIVEN}
    CROSS JOIN LATERAL (
        SELECT start_ms, micro_kwh, estimated FROM readings WHERE meter_id = given.meter_id AND :channel = 0
            AND start_ms >= given.first_ms AND start_ms < given.end_ms OFFSET 0
    ) AS old LIMIT :limit""",  # noqa: S608
    sqlite=f"""{_OF_DAYS} UNION ALL
    SELECT given.meter_id, NULL, NULL, readings.start_ms, readings.micro_kwh, readings.estimated FROM {_GIVEN}
    JOIN readings ON readings.meter_id = given.meter_id AND :channel = 0
        AND readings.start_ms >= given.first_ms AND readings.start_ms < given.end_ms LIMIT :limit""",  # noqa: S608
)


def _outermost(end: str) -> Sql:
    """The day that holds the first (`min`) or the last (`max`) half-hour of each meter."""
    days = """
        SELECT given.meter_id, outermost.day, outermost.packed, NULL AS start_ms
        FROM @rows(meter_id text)
        JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    """
    half_hours = f"""
        UNION ALL
        SELECT given.meter_id, NULL, NULL, (
            SELECT {end}(start_ms) FROM readings WHERE meter_id = given.meter_id AND :channel = 0
        )
        FROM @rows(meter_id text)
    """  # noqa: S608 - our own names
    return Sql(
        days + outermost_day_on_postgresql(end, ":channel") + half_hours,
        sqlite=days + outermost_day_on_sqlite(end, ":channel") + half_hours,
    )


_FIRST, _LAST = _outermost("min"), _outermost("max")


async def read_days(
    context: Context,
    spans: Mapping[str, tuple[datetime, datetime]],
    channel: ReadingChannel,
    each_day: int = 0,
) -> dict[str, list[PackedDay]]:
    """The days of each meter that its span touches, in order.

    `each_day`: the readings that a day counts as in the operation's budget; otherwise the caller counts its half-hours.
    Raises QueryTooComplex where the budget does not hold all days.
    """
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
    limit = _readings_left(context) + 1 + 2 * len(given)
    parameters = {
        "rows": rows(given),
        "channel": channel.code,
        "limit": limit,
        # PostgreSQL chooses partitions and searches the index by bounds that it knows beforehand only.
        "first_day": min((half_hour_of(start) // SLOTS for start, _ in spans.values()), default=0),
        "last_day": max(((half_hour_of(end) - 1) // SLOTS for _, end in spans.values()), default=0),
    }
    days: dict[str, dict[int, bytes]] = {one: {} for one in spans}
    half_hours: dict[str, list[tuple[int, int, bool]]] = {}
    found = await _fetch(context, _DAYS, parameters)
    for at in range(0, len(found), TURN):
        if at:
            await asyncio.sleep(0)
        part = found[at : at + TURN]
        if each_day:
            spend(context, sum(1 if row[2] is None else each_day for row in part))
        for meter_id, day, packed, start_ms, micro_kwh, estimated in part:
            if packed is None:
                reading = start_ms // HALF_HOUR_MS, micro_kwh, bool(estimated)
                half_hours.setdefault(meter_id, []).append(reading)
            else:
                days[meter_id][day] = packed
    if len(found) == limit:
        # There may be more that was not read.
        spend(context, MAX_READ + 1)
    for meter_id, readings in half_hours.items():
        for at in range(0, len(readings), TURN):
            add_half_hours(days[meter_id], readings[at : at + TURN])
            await asyncio.sleep(0)
    return {meter_id: sorted(of_meter.items()) for meter_id, of_meter in days.items()}


async def first_half_hours(
    context: Context, meter_ids: Sequence[str], channel: ReadingChannel
) -> dict[str, int]:
    """The first half-hour with a reading, counted from 1970, of each meter that has any."""
    return await _outermost_half_hours(context, _FIRST, meter_ids, channel)


async def last_half_hours(
    context: Context, meter_ids: Sequence[str], channel: ReadingChannel
) -> dict[str, int]:
    """The last half-hour with a reading, counted from 1970, of each meter that has any."""
    return await _outermost_half_hours(context, _LAST, meter_ids, channel)


async def _outermost_half_hours(
    context: Context, statement: Sql, meter_ids: Sequence[str], channel: ReadingChannel
) -> dict[str, int]:
    at = 0 if statement is _FIRST else -1
    given = {"rows": rows({"meter_id": one} for one in meter_ids), "channel": channel.code}
    found: dict[str, list[int]] = {}
    for meter_id, day, packed, start_ms in await _fetch(context, statement, given):
        if packed is not None:
            found.setdefault(meter_id, []).append(day * SLOTS + slots(summary(packed).present)[at])
        elif start_ms is not None:
            found.setdefault(meter_id, []).append(start_ms // HALF_HOUR_MS)
    return {meter_id: sorted(half_hours)[at] for meter_id, half_hours in found.items()}


def spend(context: Context, readings: int) -> None:
    """Counts readings that the operation reads. Raises QueryTooComplex."""
    context.readings_read += readings
    if context.readings_read > MAX_READ:
        raise QueryTooComplex(
            f"This reads more than {MAX_READ} readings; ask for fewer meters or a shorter period at once.",
            limit=MAX_READ,
        )


def _readings_left(context: Context) -> int:
    """How many readings the operation may still read. Raises QueryTooComplex."""
    spend(context, 0)
    return MAX_READ - context.readings_read


async def _fetch(context: Context, statement: Sql, parameters: dict[str, Any]) -> Rows:
    return await context.rows(statement.of(context.services.database.is_sqlite), parameters, alone=False)
