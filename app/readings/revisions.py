"""Pages of revisions: the half-hours that later ones replaced, the newest replacement first."""

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from app.core import clock
from app.core.errors import BadUserInput
from app.db.sql import Sql, rows
from app.graphql.context import Context
from app.graphql.pagination import PageRequest, RowPage
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel, ReadingQuality, ReadingReason
from app.readings.packing import SLOTS, slots, unpack, unpack_origins

Key = tuple[int, int]
"""When it was replaced, in milliseconds, and the half-hour, counted from 1970."""

FIRST: Key = (-(2**62), -(2**36))
LAST: Key = (2**62, 2**36)
_CURSOR = re.compile(r"rev:(-?[0-9]{1,15}):(-?[0-9]{1,9})")


class Replaced(NamedTuple):
    """A half-hour as it was before another value or quality replaced it."""

    start_at: datetime
    consumption: int
    quality: ReadingQuality
    reason: ReadingReason
    recorded_at: datetime
    replaced_at: datetime
    key: Key


_COLUMNS = "day, replaced_ms, recorded_ms, reason, packed, origins"


def _pages(order: str) -> Sql:
    """The first revisions of each meter; PostgreSQL reads no others, and SQLite numbers those between the bounds."""
    wanted = """
        revisions.meter_key = meter_keys.key AND revisions.channel = :channel
        AND (revisions.replaced_ms, revisions.day) <= (:newest_ms, :newest_day)
        AND (revisions.replaced_ms, revisions.day) >= (:oldest_ms, :oldest_day)
    """
    ordered = f"ORDER BY revisions.replaced_ms {order}, revisions.day {order}"
    return Sql(
        f"""
        SELECT given.meter_id, page.* FROM @rows(meter_id text)
        JOIN meter_keys ON meter_keys.meter_id = given.meter_id
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM reading_revisions AS revisions WHERE {wanted} {ordered} LIMIT :limit
        ) AS page
        """,  # noqa: S608 - our own words
        sqlite=f"""
        SELECT meter_id, {_COLUMNS} FROM (
            SELECT given.meter_id, revisions.*, row_number() OVER (
                PARTITION BY revisions.meter_key {ordered}
            ) AS place
            FROM @rows(meter_id text)
            JOIN meter_keys ON meter_keys.meter_id = given.meter_id
            JOIN reading_revisions AS revisions ON {wanted}
        ) WHERE place <= :limit
        """,  # noqa: S608
    )


_NEWEST, _OLDEST = _pages("DESC"), _pages("ASC")


async def read_revisions(
    context: Context, meter_id: str, channel: ReadingChannel, request: PageRequest
) -> RowPage:
    """A page of a meter's revisions; those of the meters of one operation are read together."""

    async def load(meter_ids: list[str]) -> list[RowPage]:
        newest, oldest = request.after or LAST, request.before or FIRST
        parameters: dict[str, Any] = {
            "rows": rows({"meter_id": one} for one in meter_ids),
            "channel": channel.code,
            "newest_ms": newest[0],
            "newest_day": newest[1] // SLOTS,
            "oldest_ms": oldest[0],
            "oldest_day": oldest[1] // SLOTS,
            # The rows of the cursors themselves may have nothing else inside the page.
            "limit": request.limit + 3,
        }
        statement = (_OLDEST if request.backwards else _NEWEST).of(context.services.database.is_sqlite)
        found: dict[str, list[Replaced]] = {one: [] for one in meter_ids}
        for of, *row in await context.execute(statement, parameters):
            found[of] += (one for one in _half_hours(*row) if oldest < one.key < newest)
        for of_meter in found.values():
            of_meter.sort(key=lambda one: one.key, reverse=not request.backwards)
        return [RowPage.cut(found[one][: request.limit + 1], request, _cursor) for one in meter_ids]

    key = ("revisions", channel, request)
    return await context.loader(key, load).load(meter_id)


def cursor_key(cursor: str, argument: str) -> Key:
    """The place that a cursor of revisions names. Raises BadUserInput."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise BadUserInput(
            "This is not a cursor of this connection: use pageInfo.endCursor or an edge's cursor.",
            field=[argument],
        )
    return int(found[1]), int(found[2])


def _cursor(one: Replaced) -> str:
    text = f"rev:{one.key[0]}:{one.key[1]}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _half_hours(
    day: int, replaced_ms: int, recorded_ms: int, reason: int, packed: bytes, origins: bytes | None
) -> Iterator[Replaced]:
    was = unpack(packed)
    known = unpack_origins(origins, (recorded_ms, reason), was.present)
    for slot in slots(was.present):
        half_hour = day * SLOTS + slot
        at, why = known[slot]
        yield Replaced(
            start_at=clock.from_ms(half_hour * HALF_HOUR_MS),
            consumption=was.amounts[slot],
            quality=ReadingQuality.ESTIMATED if was.estimated >> slot & 1 else ReadingQuality.ACTUAL,
            reason=ReadingReason.of_code(why),
            recorded_at=clock.from_ms(at),
            replaced_at=clock.from_ms(replaced_ms),
            key=(replaced_ms, half_hour),
        )
