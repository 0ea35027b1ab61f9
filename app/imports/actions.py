"""Actions on imports: begin one, write what a dry run showed, undo one. Each is a script, and none commits."""

from typing import Final

from sqlalchemy import bindparam, func, select
from sqlmodel import col

from app.auth.actor import Actor, Scoped
from app.core import clock
from app.core.errors import ErrorCode, Refusal, not_found
from app.customers import actions as customers
from app.db.raw_statements import Script
from app.imports.enums import ImportProblemRule, ImportStage, ImportStatus
from app.imports.leases import IMPORTS
from app.imports.leftovers import PREVIEW_KEPT, UNDO_KEPT
from app.imports.models import FileImport
from app.imports.options import ImportOptions
from app.imports.stages.checking import refusal
from app.imports.stages.work import SAVE

MOST_WAITING: Final = 50
"""Imports of one account that may wait or run."""
MOST_WAITING_BYTES: Final = 1024 * 1024 * 1024
"""Bytes of their files, beyond which no other file is taken."""

_LOCK: Final = Scoped(
    select(*IMPORTS.columns).where(col(FileImport.id) == bindparam("wanted_id")).with_for_update()
)
_WAITING: Final = select(func.count(), func.coalesce(func.sum(col(FileImport.size)), 0)).where(
    col(FileImport.account_id) == bindparam("account_id"), col(FileImport.queued_at).is_not(None)
)


def require_room(actor: Actor) -> Script[None]:
    """Raises LIMIT_REACHED where the account has as many imports under way as it may."""
    [[waiting, size]] = yield _WAITING, {"account_id": actor.account_id}
    if waiting >= MOST_WAITING or size >= MOST_WAITING_BYTES:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            "Too many files of this account are under way: wait until one of its imports has ended.",
        )


def require_customer(actor: Actor, options: ImportOptions) -> Script[None]:
    """Raises NOT_FOUND for a customer that the actor does not see."""
    customer_id = options.stored.get("customerId")
    if customer_id is not None:
        yield from customers.find(actor, customer_id, "customerId")


def begin(actor: Actor, import_id: str, options: ImportOptions, sha256: str, size: int) -> Script[FileImport]:
    """Makes the import of a kept file, which a worker then takes up."""
    row = IMPORTS.new(
        id=import_id,
        account_id=actor.account_id,
        file_name=options.file_name,
        sha256=sha256,
        size=size,
        options=options.stored,
        profile=options.stored.get("profile"),
        dry_run=options.dry_run,
        on_problem=options.on_problem.name,
    )
    yield from IMPORTS.insert([row])
    return row


def confirm(actor: Actor, import_id: str) -> Script[FileImport]:
    """Writes what a dry run showed. Raises NOT_FOUND or CONFLICT on `fileImportId`."""
    row = yield from _lock(actor, import_id)
    if row.status != ImportStatus.PREVIEW.name:
        raise _conflict("Only a dry run that ended in PREVIEW can be confirmed.")
    if _is_over(row, PREVIEW_KEPT.total_seconds()):
        raise _conflict("A preview is kept for a day: send the file again.")
    if row.problem_count and row.on_problem == ImportProblemRule.REFUSE.name:
        raise _conflict(f"{refusal(row)} Correct the file, or send it with onProblem=skip.")
    if not row.readings_accepted:
        raise _conflict("There is no reading that could be written.")
    row.dry_run, row.stage = False, ImportStage.WRITE.name
    yield from _queue(row)
    return row


def undo(actor: Actor, import_id: str) -> Script[FileImport]:
    """Puts back what was there before an import. Raises NOT_FOUND or CONFLICT on `fileImportId`."""
    row = yield from _lock(actor, import_id)
    if row.status != ImportStatus.COMPLETED.name:
        raise _conflict("Only an import that is COMPLETED can be undone.")
    if _is_over(row, UNDO_KEPT.total_seconds()):
        raise _conflict(f"An import can be undone for {UNDO_KEPT.days} days after its end.")
    row.stage, row.error = ImportStage.UNDO.name, None
    yield from _queue(row)
    return row


def _queue(row: FileImport) -> Script[None]:
    row.status, row.progress, row.tries = ImportStatus.RUNNING.name, 0.0, 0
    row.queued_at, row.completed_at = clock.now(), None
    yield from SAVE(row)


def _lock(actor: Actor, import_id: str) -> Script[FileImport]:
    found = yield _LOCK.by(actor, wanted_id=import_id)
    if not found:
        raise not_found("file import", "fileImportId")
    return IMPORTS.row(found[0])


def _is_over(row: FileImport, seconds: float) -> bool:
    return row.completed_at is not None and (clock.now() - row.completed_at).total_seconds() > seconds


def _conflict(sentence: str) -> Refusal:
    return Refusal(ErrorCode.CONFLICT, sentence, "fileImportId")
