"""The third stage: writes the days, some at a time, each part a transaction of its own.

A part deletes the waiting days that it writes, so that what is left says where to go on after any crash. The last part
of a meter's channel appends its event, which tells of all parts; until then the meter's row sums up what they changed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from app.auth.actor import Actor
from app.consents.coverage import meters_with_valid_consent
from app.core import clock, failpoints
from app.core.errors import Refusal
from app.customers import actions as customers
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql, rows
from app.events import log
from app.imports.enums import ImportProblemRule, ImportStage, ImportStatus
from app.imports.leases import LEASE_SECONDS, LeaseLost, held
from app.imports.models import FileImport, FileImportChange
from app.imports.problems import add_problems
from app.imports.stages.checking import ImportedMeter, consent_required, refusal
from app.imports.stages.ending import end
from app.imports.stages.packed_days import ChangedDay, pack_changed, unpack_waiting
from app.imports.stages.parts import Part, Series, Sums, WaitingDays
from app.imports.stages.summaries import Summary, sum_up
from app.imports.stages.work import SAVE, Work
from app.meters import actions as meter_actions
from app.readings import actions as readings
from app.readings.day_rows import Change, MeterDay, write_days
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.packing import summary as summary_of


class PartSizes(NamedTuple):
    """Days of a part: at first, at least and at most; and the seconds that one is to take."""

    first: int
    least: int
    most: int
    seconds: float


ON_SQLITE: Final = PartSizes(100, 50, 1_000, 0.02)
"""The one writer is everybody's."""
ON_POSTGRES: Final = PartSizes(300, 200, 600, 0.15)
"""Round trips take most of the time, and nobody waits for them but writers of the same meters."""
CREATED_AT_ONCE: Final = 20

_CHANGES: Final = Table(FileImportChange)
_CHANNELS: Final = {channel.code: channel for channel in ReadingChannel}
_LEFT: Final = Sql("SELECT COALESCE(SUM(days), 0) FROM file_import_days WHERE import_id = :id")
_LOCK_ACCOUNT: Final = Sql("SELECT id FROM accounts WHERE id = :id FOR NO KEY UPDATE", sqlite="SELECT 1")
# An import waits for another that writes one of its meters, and for those that came before it: the last file counts.
# Meters that are to be created have no id yet; two imports may both create one.
_OTHERS: Final = Sql("""
    SELECT 1 FROM file_imports AS others WHERE others.account_id = :account_id AND others.id <> :id
    AND others.queued_at IS NOT NULL AND (others.writes_meters OR (others.id < :id AND NOT others.dry_run))
    AND (others.stage = 'READ' OR EXISTS (
        SELECT 1 FROM file_import_meters AS theirs JOIN file_import_meters AS mine ON mine.meter_id = theirs.meter_id
        WHERE theirs.import_id = others.id AND mine.import_id = :id
        UNION ALL
        SELECT 1 FROM file_import_meters AS theirs
        JOIN file_import_meters AS mine ON mine.customer_id = theirs.customer_id AND mine.number = theirs.number
        WHERE theirs.import_id = others.id AND mine.import_id = :id
    )) LIMIT 1
""")
_DONE: Final = Sql("""
    DELETE FROM file_import_days WHERE import_id = :id AND (place, channel, number) IN (
        SELECT given.place, given.channel, given.number FROM @lists(place bigint, channel bigint, number bigint)
    )
""")
_OF_METER: Final = Sql("SELECT packed FROM file_import_days WHERE import_id = :id AND place = :place")
_WRITTEN: Final = Sql(
    "SELECT CAST(written AS TEXT) FROM file_import_meters WHERE import_id = :id AND place = :place"
)
_LEAVE: Final = Sql("DELETE FROM file_import_days WHERE import_id = :id AND place = :place")
_NAME: Final = Sql(
    "UPDATE file_import_meters SET meter_id = :meter_id WHERE import_id = :id AND place = :place"
)
_PART_DONE: Final = Sql("""
    UPDATE file_imports SET readings_changed = readings_changed + :changed, progress = :progress, tries = 0,
        leased_until = @later(:seconds)
    WHERE id = :id AND fence = :fence AND queued_at IS NOT NULL RETURNING id
""")


class ConsentGone(Exception):
    """The consents of these meters were revoked while the import was under way."""

    def __init__(self, meters: Sequence[ImportedMeter]) -> None:
        super().__init__()
        self.meters = meters


async def begin_to_write(work: Work) -> bool:
    """Takes the import's meters for itself; False while another import has to come first."""

    given = {"account_id": work.claim.account_id, "id": work.id}
    if not work.claim.row.writes_meters and await work.database.read(
        _OTHERS.of(work.database.is_sqlite), given
    ):
        # Not under the account's lock: an import that waits asks each second.
        return False

    def act(_: InTransaction) -> Script[bool]:
        row = yield from held(work.claim)
        if row.writes_meters:
            return True
        # The account's lock makes sure that of two imports that begin, one sees the other.
        yield _LOCK_ACCOUNT, {"id": row.account_id}
        if (yield _OTHERS, given):
            return False
        row.writes_meters = True
        yield from SAVE(row)
        return True

    return await work.database.transact(act)


async def write_meters(work: Work) -> None:
    """Writes all days that are left, and ends the import."""
    database = work.database
    first_progress = max(work.claim.row.progress, work.progress)
    [[left]] = await database.read(_LEFT.of(database.is_sqlite), {"id": work.id})
    total = left = max(int(left), 1)
    sizes = ON_SQLITE if database.is_sqlite else ON_POSTGRES
    size, waiting = sizes.first, WaitingDays(work)
    while (part := await waiting.take(size)) is not None:
        if any(meter.meter_id is None for meter in part.meters.values()):
            await _create_meters(work, part.meters.values())
            waiting = WaitingDays(work)
            continue
        work.progress = first_progress + (1 - first_progress) * (1 - max(left - part.day_count, 0) / total)
        began_at = time.monotonic()
        try:
            waiting.sums, changed = await database.transact(
                lambda transaction: _write_part(transaction, work, part)
            )
        except ConsentGone as gone:
            if not await _leave_out(work, gone.meters):
                return
            waiting = WaitingDays(work)
            continue
        work.stats.half_hours += changed
        left -= part.day_count
        seconds = time.monotonic() - began_at
        if part.day_count >= size / 2:
            wanted = int(size * min(max(sizes.seconds / max(seconds, 0.001), 0.5), 1.5))
            size = min(max(wanted, sizes.least), sizes.most)
        failpoints.reach("import.part_written")
    await database.transact(lambda transaction: _complete(transaction, work))
    failpoints.reach("import.completed")


async def _leave_out(work: Work, meters: Sequence[ImportedMeter]) -> bool:
    """Drops the days of meters whose consent is gone; False if the import fails for it, and has to be taken back."""
    return await work.database.transact(lambda transaction: _without_consent(transaction, work, meters))


def _write_part(transaction: InTransaction, work: Work, part: Part) -> Script[tuple[Sums, int]]:
    """Gives the sums of its meters and how many half-hours changed.

    Raises ConsentGone before anything is written, LeaseLost after it.
    """
    places = {meter.meter_id: place for place, meter in part.meters.items() if meter.meter_id is not None}
    # Meters that were deleted meanwhile have taken their days along.
    locked = yield from readings.lock_meters(work.actor, places)
    meters = {places[one.id]: one for one in locked}
    now = clock.now()
    ids = [one.id for one in locked]
    consented = (yield from meters_with_valid_consent(ids, now)) if ids else set()
    if revoked := [part.meters[place] for place, one in meters.items() if one.id not in consented]:
        raise ConsentGone(revoked)
    changed = 0
    sums = {place: dict(of_meter) for place, of_meter in part.sums.items()}
    for code, channel in _CHANNELS.items():
        series = [one for one in part.runs if one[1] == code and one[0] in meters]
        if not series:
            continue
        by_meter = yield from _write_channel(
            transaction, work, part, channel, {one: meters[one[0]].id for one in series}
        )
        for one in series:
            changes = by_meter.get(meters[one[0]].id, ())
            changed += sum(change.changed.bit_count() for change in changes)
            of_meter = sums[one[0]]
            summary = Summary.of(changes, of_meter.pop(str(code), None))
            if summary is None:
                continue
            if one == part.unfinished:
                of_meter[str(code)] = summary
            else:
                meter = meters[one[0]]
                log.append(transaction, meter.account_id, summary.event(meter, channel, ReadingReason.IMPORT))
    for place, of_meter in sums.items():
        if of_meter != part.sums[place]:
            yield from sum_up(work.id, place, of_meter)
    done = rows([run.meter.place, run.channel, run.number] for runs in part.runs.values() for run in runs)
    yield _DONE, {"id": work.id, "rows": done}
    values = {"id": work.id, "fence": work.claim.fence, "seconds": LEASE_SECONDS}
    if not (yield _PART_DONE, {**values, "changed": changed, "progress": work.progress}):
        raise LeaseLost(work.id)
    return sums, changed


def _write_channel(
    transaction: InTransaction,
    work: Work,
    part: Part,
    channel: ReadingChannel,
    meter_ids: Mapping[Series, str],
) -> Script[dict[str, list[Change]]]:
    """Writes the days of one channel, and notes down what an undo needs; gives the changes by meter."""
    new = {
        MeterDay(meter_id, day): value
        for series, meter_id in meter_ids.items()
        for day, value in part.days[series].items()
    }
    now_ms = clock.to_ms(clock.now())
    changes = yield from write_days(is_on_sqlite(transaction), new, channel, ReadingReason.IMPORT, now_ms)
    by_meter: dict[str, list[Change]] = {}
    for change in changes:
        by_meter.setdefault(change.of.meter_id, []).append(change)
    yield from _CHANGES.insert(
        [
            _CHANGES.new(
                import_id=work.id,
                place=place,
                channel=code,
                number=part.runs[place, code][0].number,
                at_ms=now_ms,
                packed=pack_changed(map(_changed_day, by_meter[meter_id]), now_ms),
            )
            for (place, code), meter_id in meter_ids.items()
            if meter_id in by_meter
        ]
    )
    return by_meter


def _changed_day(change: Change) -> ChangedDay:
    return ChangedDay(change.of.day, change.changed, change.recorded_ms)


def _without_consent(transaction: InTransaction, work: Work, meters: Sequence[ImportedMeter]) -> Script[bool]:
    """Leaves the meters out, or fails the import: then it is False."""
    # Meters before the import, as when a part is written.
    yield from readings.lock_meters(work.actor, [meter.meter_id or "" for meter in meters])
    row = yield from held(work.claim)
    add_problems(row, [consent_required(meter) for meter in meters])
    if row.on_problem == ImportProblemRule.REFUSE.name:
        row.error, row.stage, row.tries = refusal(row), ImportStage.FAIL.name, 0
        yield from SAVE(row)
        return False
    for meter in meters:
        yield from _drop_days(transaction, row, meter)
    yield from SAVE(row)
    return True


def _drop_days(transaction: InTransaction, row: FileImport, imported: ImportedMeter) -> Script[None]:
    """Drops the days of a meter that are left. An event tells of those that were written before."""
    place = {"id": row.id, "place": imported.place}
    for (packed,) in (yield _OF_METER, place):
        for one in unpack_waiting(packed):
            row.readings_accepted -= summary_of(one.packed).present.bit_count()
            row.rows_refused += 1
    yield _LEAVE, place
    locked = yield from readings.lock_meters(Actor(row.account_id, frozenset()), [imported.meter_id or ""])
    written = yield _WRITTEN, place
    for meter in locked:
        for code, summed_up in orjson.loads(written[0][0]).items():
            event = Summary(*summed_up).event(meter, _CHANNELS[int(code)], ReadingReason.IMPORT)
            log.append(transaction, row.account_id, event)
    yield from sum_up(row.id, imported.place, {})


async def _create_meters(work: Work, meters: Iterable[ImportedMeter]) -> None:
    """Creates the first of the missing meters, which are all of one customer."""
    missing = [meter for meter in meters if meter.meter_id is None][:CREATED_AT_ONCE]
    customer_id = missing[0].customer_id or ""

    def act(transaction: InTransaction) -> Script[None]:
        # The customer before the import, as in a customer's deletion, so that the two cannot deadlock.
        try:
            customer = yield from customers.find(work.actor, customer_id, "customerId", lock=True)
        except Refusal:
            # A customer that was deleted meanwhile has taken the meters along.
            return
        yield from held(work.claim)
        numbers = [meter.number for meter in missing]
        created = yield from meter_actions.find_or_create(transaction, customer, numbers)
        ids = {meter.number: meter.id for meter in created}
        for meter in missing:
            yield _NAME, {"id": work.id, "place": meter.place, "meter_id": ids[meter.number]}

    await work.database.transact(act)
    failpoints.reach("import.meters_created")


def _complete(transaction: InTransaction, work: Work) -> Script[None]:
    row = yield from held(work.claim)
    yield from end(transaction, row, ImportStatus.COMPLETED)
