"""Takes back what an import wrote, some days at a time, each part a transaction of its own; see `writing`.

Meters of which an event has told get another one, of a correction. What no event has told of goes in silence.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from app.core import clock, failpoints
from app.db.raw_statements import Script
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql, rows
from app.events import log
from app.imports.enums import ImportStage, ImportStatus
from app.imports.leases import LEASE_SECONDS, LeaseLost, held
from app.imports.stages.ending import end, fail
from app.imports.stages.packed_days import ChangedDay, unpack_changed
from app.imports.stages.restoring import Written, restore_days
from app.imports.stages.summaries import Summary, sum_up
from app.imports.stages.work import Work
from app.readings import actions as readings
from app.readings.day_rows import MeterDay
from app.readings.enums import ReadingChannel, ReadingReason

ROWS_AT_ONCE: Final = 32
DAYS_AT_ONCE: Final = 200

_CHANNELS: Final = {channel.code: channel for channel in ReadingChannel}
_NEXT: Final = Sql("""
    SELECT changes.place, changes.channel, changes.number, changes.at_ms, changes.packed,
        meters.meter_id, CAST(meters.written AS TEXT)
    FROM file_import_changes AS changes
    JOIN file_import_meters AS meters ON meters.import_id = changes.import_id AND meters.place = changes.place
    WHERE changes.import_id = :id ORDER BY changes.place, changes.channel, changes.number LIMIT :limit
""")
_COUNT: Final = Sql("SELECT COUNT(*) FROM file_import_changes WHERE import_id = :id")
_UNTOLD: Final = Sql("""
    SELECT place, meter_id, CAST(written AS TEXT) FROM file_import_meters
    WHERE import_id = :id AND CAST(written AS TEXT) <> '{}'
""")
_DONE: Final = Sql("""
    DELETE FROM file_import_changes WHERE import_id = :id AND (place, channel, number) IN (
        SELECT given.place, given.channel, given.number FROM @lists(place bigint, channel bigint, number bigint)
    )
""")
_HELD: Final = Sql("""
    UPDATE file_imports SET leased_until = @later(:seconds), progress = :progress, tries = 0
    WHERE id = :id AND fence = :fence AND queued_at IS NOT NULL RETURNING id
""")


class Change(NamedTuple):
    """The half-hours of a meter's channel that one part of the import changed. `written` is that of its meter."""

    place: int
    channel: int
    number: int
    days: list[ChangedDay]
    meter_id: str
    written: dict[str, list[int]]

    @property
    def series(self) -> tuple[int, int]:
        return self.place, self.channel


async def take_back(work: Work) -> None:
    """Takes back all that is left, and ends the import: UNDONE, or FAILED for the reason that it has."""
    database = work.database
    [[left]] = await database.read(_COUNT.of(database.is_sqlite), {"id": work.id})
    total = max(left, 1)
    while found := await database.read(
        _NEXT.of(database.is_sqlite), {"id": work.id, "limit": ROWS_AT_ONCE + 1}
    ):
        changes, unfinished = await asyncio.to_thread(_part_of, found)
        left -= len(changes)
        work.progress = min(1 - left / total, 1.0)
        await database.transact(lambda transaction: _take_back(transaction, work, changes, unfinished))  # noqa: B023
        failpoints.reach("import.part_undone")
    await database.transact(lambda transaction: _end(transaction, work))
    failpoints.reach("import.undone")


def _part_of(found: Sequence[Sequence[Any]]) -> tuple[list[Change], tuple[int, int] | None]:
    """The changes of one part, and the meter's channel of which more are left."""
    changes: list[Change] = []
    count = 0
    for place, channel, number, at_ms, packed, meter_id, written in found:
        days = list(unpack_changed(packed, at_ms))
        if changes and (len(changes) == ROWS_AT_ONCE or count + len(days) > DAYS_AT_ONCE):
            return changes, (place, channel) if (place, channel) == changes[-1].series else None
        count += len(days)
        changes.append(Change(place, channel, number, days, meter_id, orjson.loads(written)))
    return changes, None


def _take_back(
    transaction: InTransaction, work: Work, changes: Sequence[Change], unfinished: tuple[int, int] | None
) -> Script[None]:
    locked = yield from readings.lock_meters(work.actor, {one.meter_id for one in changes})
    meters = {meter.id: meter for meter in locked}
    now_ms = clock.to_ms(clock.now())
    sums: dict[tuple[int, int], Summary | None] = {}
    for one in changes:
        if one.meter_id not in meters:
            continue
        written = [
            Written(MeterDay(one.meter_id, day), changed, recorded_ms)
            for day, changed, recorded_ms in one.days
        ]
        restored = yield from restore_days(
            is_on_sqlite(transaction), written, _CHANNELS[one.channel], ReadingReason.IMPORT, now_ms
        )
        sums[one.series] = Summary.of(restored, sums.get(one.series) or one.written.get(_taken_back(one)))
    for one in {one.series: one for one in changes if one.series in sums}.values():
        summary = sums[one.series]
        if str(one.channel) in one.written:
            continue
        if one.series == unfinished:
            left: Mapping[str, Sequence[int]] = (
                one.written if summary is None else {**one.written, _taken_back(one): summary}
            )
            yield from sum_up(work.id, one.place, left)
        elif summary is not None:
            event = summary.event(meters[one.meter_id], _CHANNELS[one.channel], ReadingReason.CORRECTION)
            log.append(transaction, work.claim.account_id, event)
    yield _DONE, {"id": work.id, "rows": rows([one.place, one.channel, one.number] for one in changes)}
    values = {"id": work.id, "fence": work.claim.fence, "seconds": LEASE_SECONDS, "progress": work.progress}
    if not (yield _HELD, values):
        raise LeaseLost(work.id)


def tell_of_unfinished(transaction: InTransaction, work: Work) -> Script[None]:
    """Tells of meters that stay as they are, between the parts of an import that ends before its time."""
    found = yield _UNTOLD, {"id": work.id}
    locked = yield from readings.lock_meters(work.actor, [meter_id for _, meter_id, _ in found if meter_id])
    meters = {meter.id: meter for meter in locked}
    for place, meter_id, written in found:
        if meter_id not in meters:
            continue
        for key, summed_up in orjson.loads(written).items():
            channel = _CHANNELS[int(key.lstrip("-"))]
            reason = ReadingReason.CORRECTION if key.startswith("-") else ReadingReason.IMPORT
            event = Summary(*summed_up).event(meters[meter_id], channel, reason)
            log.append(transaction, work.claim.account_id, event)
        yield from sum_up(work.id, place, {})


def _taken_back(one: Change) -> str:
    """The key of what was taken back of a channel, among the sums of its meter."""
    return f"-{one.channel}"


def _end(transaction: InTransaction, work: Work) -> Script[None]:
    row = yield from held(work.claim)
    if row.stage == ImportStage.FAIL.name:
        yield from fail(transaction, row, row.error or "The import failed.")
    else:
        yield from end(transaction, row, ImportStatus.UNDONE)
