"""Ends of an import: complete, a preview, failed or undone."""

from app.core import clock
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.events import log
from app.imports.enums import ImportStatus
from app.imports.events import ImportCompleted
from app.imports.models import FileImport
from app.imports.stages.work import SAVE


def end(transaction: InTransaction, row: FileImport, status: ImportStatus) -> Script[None]:
    """Ends an import that the transaction has locked, and tells of it; its `leftovers` go afterwards."""
    yield from _rest(row, status)
    if status in (ImportStatus.COMPLETED, ImportStatus.FAILED) and not row.dry_run:
        log.append(transaction, row.account_id, ImportCompleted.of(row))


def stop_undo(row: FileImport) -> Script[None]:
    """Leaves a locked import COMPLETED, of which it has told before; what an undo still needs stays."""
    yield from _rest(row, ImportStatus.COMPLETED)


def _rest(row: FileImport, status: ImportStatus) -> Script[None]:
    row.status = status.name
    row.completed_at = clock.now()
    row.queued_at = row.leased_until = None
    row.writes_meters = False
    row.progress = 1.0
    row.tries = 0
    yield from SAVE(row)


def fail(transaction: InTransaction, row: FileImport, error: str) -> Script[None]:
    """Fails an import of which nothing is written."""
    row.error = error
    row.readings_accepted = row.readings_changed = 0
    yield from end(transaction, row, ImportStatus.FAILED)
