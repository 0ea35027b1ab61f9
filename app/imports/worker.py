"""The worker of imports: claims waiting ones by lease and takes each through its stages.

A worker that dies leaves its leases to expire, and another goes on from what is committed.
"""

import asyncio
import contextlib
from typing import Final

import structlog

from app.core import failpoints
from app.core.outages import error_name, is_conflict, is_database_away, is_transient
from app.core.periodic import Bell
from app.db.database import Database
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.imports import leases, leftovers
from app.imports.enums import ImportStage, ImportStatus
from app.imports.leases import Claim, LeaseLost, held
from app.imports.models import FileImport
from app.imports.stages.checking import check_meters
from app.imports.stages.ending import end, fail, stop_undo
from app.imports.stages.reading import MeterGone, read_file
from app.imports.stages.undoing import take_back, tell_of_unfinished
from app.imports.stages.work import SAVE, Work
from app.imports.stages.writing import begin_to_write, write_meters
from app.imports.stats import ImportStats

AT_ONCE: Final = 3
"""Imports that a worker works on at the same time; more than one account may have at once."""
RENEW_EVERY: Final = 1.0
REST_SECONDS: Final = 1.0
MOST_TRIES: Final = 5
"""Claims of an import without any progress, after which it fails: its file may be what ends the workers."""
BROKEN: Final = "Voltwire could not finish this import: tell the people who run it, and send the file again."
UNDO_BROKEN: Final = (
    "Voltwire could not undo all of this import: tell the people who run it, and undo it again to go on."
)
STAYS: Final = "Voltwire could not take back what this import had written: tell the people who run it."

log = structlog.get_logger(__name__)


class AnotherFirst(Exception):
    """Another import of the same meters has to be written first."""


class ImportWorker:
    """`turn` begins as many imports as there is room for; `bell` rings when there is room again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.bell = Bell()
        self.stats = ImportStats()
        self._running: dict[str, asyncio.Task[None]] = {}

    async def turn(self) -> bool:
        """Claims one import if there is room and one waits; False if not."""
        await self.stats.count_waiting(self._database)
        if len(self._running) >= AT_ONCE:
            return False
        claim = await leases.claim_next(self._database, tuple(self._running))
        if claim is None:
            return False
        failpoints.reach("import.claimed")
        task = asyncio.create_task(self._run(claim), name=f"import {claim.id}")
        self._running[claim.id] = task
        self.stats.under_way = len(self._running)
        # A task that is cancelled before it has begun would keep its lease.
        await asyncio.sleep(0)
        return True

    async def aclose(self) -> None:
        """Gives the imports that are under way back, for another worker."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, claim: Claim) -> None:
        work = Work(self._database, claim, claim.row.progress, self.stats)
        renewing = asyncio.create_task(self._renew(work))
        working = asyncio.create_task(self._work(work))
        try:
            await asyncio.wait([renewing, working], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (renewing, working):
                task.cancel()
            results = await asyncio.gather(renewing, working, return_exceptions=True)
            await self._give_back(claim, results[1])
            # Not under the lease, which ends with the import. If it is cut off, housekeeping goes on.
            if results[1] is None:
                await self._tidy(claim)
            self._running.pop(claim.id, None)
            self.stats.under_way = len(self._running)
            self.bell.ring()

    async def _renew(self, work: Work) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await leases.renew(self._database, work.claim, work.progress)

    async def _give_back(self, claim: Claim, outcome: BaseException | None) -> None:
        if outcome is None or isinstance(outcome, LeaseLost):
            return
        has_failed = isinstance(outcome, Exception) and not isinstance(outcome, AnotherFirst)
        if isinstance(outcome, Exception) and has_failed:
            if is_transient(outcome) or isinstance(outcome, MeterGone):
                log.warning("import_interrupted", import_id=claim.id, error=error_name(outcome))
            else:
                log.error("import_failed", import_id=claim.id, exc_info=outcome)
        # If the database is away, the lease expires.
        with contextlib.suppress(Exception):
            rest_seconds = REST_SECONDS if isinstance(outcome, Exception) else 0.0
            counts = has_failed and not is_conflict(outcome) and not is_database_away(outcome)
            await leases.release(self._database, claim, rest_seconds, has_failed=counts)

    async def _tidy(self, claim: Claim) -> None:
        try:
            status = await leftovers.ended_as(self._database, claim.id)
            if status is not None:
                self.stats.ended[status.name] += 1
                await leftovers.tidy(self._database, claim.id, status)
        except Exception as error:
            log.warning("import_not_tidied", import_id=claim.id, error=error_name(error))

    async def _work(self, work: Work) -> None:
        if work.claim.row.tries > MOST_TRIES:
            await self._database.transact(lambda transaction: _give_up(transaction, work))
            log.error("import_given_up", import_id=work.id, stage=work.claim.row.stage)
        while True:
            row = await self._database.transact(lambda _: held_or_none(work))
            if row is None:
                break
            work.claim = Claim(row, work.claim.fence)
            stage = ImportStage[row.stage]
            if stage is ImportStage.READ:
                await read_file(work)
            elif stage is ImportStage.CHECK:
                await check_meters(work)
            elif not await begin_to_write(work):
                raise AnotherFirst
            elif stage is ImportStage.WRITE:
                await write_meters(work)
            else:
                await take_back(work)


def held_or_none(work: Work) -> Script[FileImport | None]:
    try:
        return (yield from held(work.claim))
    except LeaseLost:
        return None


def _give_up(transaction: InTransaction, work: Work) -> Script[None]:
    """Fails an import, after what it wrote is taken back. An undo ends where it is: the import stays COMPLETED."""
    if work.claim.row.stage in (ImportStage.UNDO.name, ImportStage.FAIL.name):
        # Meters before the import, as when a part is written.
        yield from tell_of_unfinished(transaction, work)
    row = yield from held(work.claim)
    if row.stage == ImportStage.UNDO.name:
        row.error = UNDO_BROKEN
        yield from stop_undo(row)
    elif row.stage == ImportStage.FAIL.name:
        row.error = STAYS if row.error is None else f"{row.error} {STAYS}"
        yield from end(transaction, row, ImportStatus.FAILED)
    elif row.writes_meters:
        row.error, row.stage, row.tries = BROKEN, ImportStage.FAIL.name, 0
        yield from SAVE(row)
    else:
        yield from fail(transaction, row, BROKEN)
