"""The due work of a feed: the next part of a backfill, gaps to be asked for again, and daily fetches."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from app.core import clock
from app.db.database import Database
from app.db.sql import Sql
from app.feeds.fetching.leases import BACKFILL_DUE, DAILY_DUE, REPAIR_DUE
from app.feeds.fetching.scheduling import daily_window
from app.feeds.half_hours import start_of
from app.feeds.models import Feed
from app.feeds.source import FetchedMeter, Window
from app.meters.enums import MeterType
from app.readings.actions import PartOfBackfill
from app.readings.enums import ReadingReason
from app.readings.packing import SLOTS

REPAIRED_AT_ONCE: Final = 31 * SLOTS
"""Half-hours from the first gap that one repair asks for."""


class _Part(NamedTuple):
    """The next part of a backfill: the columns of `_NEXT_PART` behind those of its meter, in order."""

    backfill_id: str
    number: int
    parts: int
    attempts: int
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True)
class Work:
    """A meter and window to fetch, as it was due.

    `reason` is BACKFILL, GAP_REPAIR or SCHEDULED. `is_wanted` is false where the meter has no valid consent any more,
    or another feed. The window is None where nothing is left to be fetched. `failures` are those in a row of the meter
    or of the part.
    """

    reason: ReadingReason
    feed: Feed
    meter_id: str
    meter: FetchedMeter
    due_ms: int
    is_wanted: bool
    window: Window | None
    part: PartOfBackfill | None
    failures: int


CONSENTED: Final = """
    EXISTS (
        SELECT 1 FROM consent_meters JOIN hosted_consents ON hosted_consents.id = consent_meters.hosted_consent_id
        WHERE consent_meters.meter_id = {meter_id} AND hosted_consents.decision = 'APPROVED'
            AND hosted_consents.expires_at > (SELECT @now)
    )
"""
# The oldest due first. After a part its backfill is due again at once, behind those of other meters.
_NEXT_PART: Final = Sql(f"""
    SELECT due.meter_id, meters.number, meters.type, CAST(meter_feeds.settings AS TEXT), @ms(due.due_at),
        meter_feeds.failures, {CONSENTED.format(meter_id="due.meter_id")}, due.id, part.number,
        (SELECT COUNT(*) FROM backfill_parts WHERE backfill_id = due.id), part.attempts,
        @ms(part.starts_at), @ms(part.ends_at)
    FROM (
        SELECT id, meter_id, due_at FROM backfills
        WHERE feed_id = :feed_id AND {BACKFILL_DUE} AND meter_id <> :busy ORDER BY due_at LIMIT 1
    ) AS due
    JOIN meters ON meters.id = due.meter_id
    LEFT JOIN meter_feeds ON meter_feeds.meter_id = due.meter_id AND meter_feeds.feed_id = :feed_id
    LEFT JOIN backfill_parts AS part ON part.backfill_id = due.id AND part.number = (
        SELECT MIN(number) FROM backfill_parts WHERE backfill_id = due.id AND status IN ('WAITING', 'RUNNING')
    )
""")  # noqa: S608 - our own text


def _next_of_meters(column: str, is_due: str) -> Sql:
    return Sql(f"""
        SELECT due.meter_id, meters.number, meters.type, CAST(due.settings AS TEXT), @ms(due.{column}), due.failures,
            {CONSENTED.format(meter_id="due.meter_id")}
        FROM (
            SELECT * FROM meter_feeds WHERE feed_id = :feed_id AND {is_due} AND meter_id <> :busy
            ORDER BY {column} LIMIT 1
        ) AS due
        JOIN meters ON meters.id = due.meter_id
    """)  # noqa: S608 - our own text


_NEXT_REPAIR: Final = _next_of_meters("repair_at", REPAIR_DUE)
_NEXT_DAILY: Final = _next_of_meters("due_at", DAILY_DUE)
_DUE_GAPS: Final = Sql("""
    SELECT first, after FROM feed_gaps WHERE meter_id = :meter_id AND due_at <= (SELECT @now) ORDER BY first
""")

ORDER: Final = (ReadingReason.BACKFILL, ReadingReason.GAP_REPAIR, ReadingReason.SCHEDULED)
"""The first is taken first."""
_STATEMENTS: Final[Mapping[ReadingReason, Sql]] = {
    ReadingReason.BACKFILL: _NEXT_PART,
    ReadingReason.GAP_REPAIR: _NEXT_REPAIR,
    ReadingReason.SCHEDULED: _NEXT_DAILY,
}


async def next_work(
    database: Database, feed: Feed, reason: ReadingReason, busy: str, now: datetime
) -> Work | None:
    """The feed's longest due work of a kind but that of the meter `busy`; None if nothing is due."""
    statement = _STATEMENTS[reason].of(database.is_sqlite)
    found = await database.read(statement, {"feed_id": feed.id, "busy": busy})
    if not found:
        return None
    meter_id, number, type_, settings, due_ms, failures, is_consented, *of_part = found[0]
    # A backfill has no number of a part where none of its parts is left.
    part = _Part(*of_part) if of_part and of_part[1] is not None else None
    window: Window | None = None
    if reason is ReadingReason.SCHEDULED:
        window = daily_window(now)
    elif reason is ReadingReason.GAP_REPAIR:
        window = await _gaps_window(database, meter_id)
    elif part is not None:
        window = Window(clock.from_ms(part.starts_ms), clock.from_ms(part.ends_ms))
    return Work(
        reason,
        feed,
        meter_id,
        FetchedMeter(number, MeterType[type_], orjson.loads(settings or "{}")),
        due_ms,
        bool(is_consented) and failures is not None,
        window,
        PartOfBackfill(*part[:3]) if part is not None else None,
        part.attempts if part is not None else failures or 0,
    )


async def _gaps_window(database: Database, meter_id: str) -> Window | None:
    gaps: Any = await database.read(_DUE_GAPS.of(database.is_sqlite), {"meter_id": meter_id})
    if not gaps:
        return None
    first = gaps[0][0]
    most = first + REPAIRED_AT_ONCE
    after = min(max(after for start, after in gaps if start < most), most)
    return Window(start_of(first), start_of(after))
