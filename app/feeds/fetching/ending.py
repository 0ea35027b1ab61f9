"""The end of a backfill: when no part of it is left, and the event that tells of it."""

from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.core import clock
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.db.sql import Sql
from app.events import log
from app.feeds.enums import BackfillStatus
from app.feeds.events import BackfillCompleted
from app.feeds.models import Backfill
from app.meters.models import Meter

_BACKFILLS: Final = Table(Backfill)

PART_DONE: Final = Sql("""
    UPDATE backfill_parts SET status = CASE WHEN :missing = 0 THEN 'COMPLETE' ELSE 'COMPLETE_WITH_GAPS' END,
        readings_changed = :changed, missing = :missing, attempts = attempts + 1, error = NULL
    WHERE backfill_id = :backfill_id AND number = :part
""")
_SKIP_BEFORE: Final = Sql("""
    UPDATE backfill_parts SET status = 'COMPLETE' WHERE backfill_id = :backfill_id
        AND status IN ('WAITING', 'RUNNING') AND ends_at <= @instant(:starts_ms)
""")
# It queues behind the backfills that are due already.
_GO_ON: Final = Sql("""
    UPDATE backfills SET status = 'RUNNING', readings_changed = readings_changed + :changed, due_at = @now
    WHERE id = :backfill_id RETURNING (
        SELECT COUNT(*) FROM backfill_parts
        WHERE backfill_id = backfills.id AND backfill_parts.status IN ('WAITING', 'RUNNING')
    )
""")
_SUM: Final = Sql("""
    SELECT SUM(CASE WHEN status = 'FAILED' THEN 1 ELSE 0 END), SUM(missing) FROM backfill_parts
    WHERE backfill_id = :backfill_id
""")
_ROW: Final = select(*_BACKFILLS.columns).where(col(Backfill.id) == bindparam("backfill_id"))
_END: Final = _BACKFILLS.updating("status", "completed_at")


def skip_before(backfill_id: str, starts_at: datetime) -> Script[None]:
    """Completes the parts of a time before which the source has nothing."""
    yield _SKIP_BEFORE, {"backfill_id": backfill_id, "starts_ms": clock.to_ms(starts_at)}


def end_if_done(
    transaction: InTransaction, meter: Meter, backfill_id: str, changed: int, starts_at: datetime | None
) -> Script[None]:
    """Counts what a part changed, and ends the backfill if no part is left.

    It is FAILED if a part is, with the part's error. `starts_at` is the instant before which the source has nothing.
    """
    [[left]] = yield _GO_ON, {"backfill_id": backfill_id, "changed": changed}
    if left:
        return
    [[failed, missing]] = yield _SUM, {"backfill_id": backfill_id}
    [row] = yield _ROW, {"backfill_id": backfill_id}
    backfill = _BACKFILLS.row(row)
    if failed:
        status = BackfillStatus.FAILED
    else:
        status = BackfillStatus.COMPLETE_WITH_GAPS if missing else BackfillStatus.COMPLETE
    backfill.status, backfill.completed_at = status.name, clock.now()
    yield from _END(backfill)
    begins_at = max(backfill.starts_at, min(starts_at, backfill.ends_at)) if starts_at else backfill.starts_at
    event = BackfillCompleted.of(backfill, meter.customer_id, begins_at, int(missing or 0))
    log.append(transaction, backfill.account_id, event)
