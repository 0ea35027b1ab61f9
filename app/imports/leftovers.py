"""Leftovers of imports: waiting days, meters with what an undo needs, and kept files. Each goes in small parts."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.core import clock
from app.db.database import Database
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.db.sql import Sql
from app.imports import kept_files
from app.imports.enums import ImportStatus
from app.imports.models import FileImport

PREVIEW_KEPT: Final = timedelta(days=1)
UNDO_KEPT: Final = timedelta(days=30)
UPLOAD_KEPT: Final = timedelta(hours=2)
"""Since the last chunk of a file that has no import: by then its upload was cut off."""
GRACE: Final = timedelta(minutes=30)
"""Kept beyond the time that is promised: a process whose clock is behind may still confirm or undo an import."""
ROWS_AT_ONCE: Final = 200

_FORGET_DAYS: Final = Sql("""
    DELETE FROM file_import_days WHERE import_id = :id AND (place, channel, number) IN (
        SELECT place, channel, number FROM file_import_days WHERE import_id = :id
        ORDER BY place, channel, number LIMIT :most
    ) RETURNING 1
""")
_FORGET_CHANGES: Final = Sql("""
    DELETE FROM file_import_changes WHERE import_id = :id AND (place, channel, number) IN (
        SELECT place, channel, number FROM file_import_changes WHERE import_id = :id
        ORDER BY place, channel, number LIMIT :most
    ) RETURNING 1
""")
_FORGET_METERS: Final = Sql("""
    DELETE FROM file_import_meters WHERE import_id = :id AND place IN (
        SELECT place FROM file_import_meters WHERE import_id = :id ORDER BY place LIMIT :most
    ) RETURNING 1
""")
# It goes from one import with meters to the next: most imports of an account have nothing left.
LEFT_OVER: Final = Sql("""
    WITH RECURSIVE kept(import_id) AS (
        SELECT MIN(import_id) FROM file_import_meters
        UNION ALL
        SELECT (SELECT MIN(later.import_id) FROM file_import_meters AS later WHERE later.import_id > kept.import_id)
        FROM kept WHERE kept.import_id IS NOT NULL
    )
    SELECT import_id, what FROM (
        SELECT kept.import_id, (
            SELECT CASE
                WHEN file_imports.status IN ('FAILED', 'UNDONE')
                    OR (file_imports.status = 'PREVIEW' AND file_imports.completed_at < @instant(:preview_ms))
                    OR (file_imports.status = 'COMPLETED' AND file_imports.completed_at < @instant(:undo_ms))
                THEN 'ALL'
                WHEN file_imports.status = 'COMPLETED'
                    AND EXISTS (SELECT 1 FROM file_import_days AS days WHERE days.import_id = kept.import_id)
                THEN 'DAYS'
            END
            FROM file_imports WHERE file_imports.id = kept.import_id AND file_imports.queued_at IS NULL
        ) AS what
        FROM kept WHERE kept.import_id IS NOT NULL
    ) AS found WHERE what IS NOT NULL
""")
"""Ended imports that have something left, and whether ALL of it may go, or the DAYS."""
_ENDED: Final = select(col(FileImport.status)).where(
    col(FileImport.id) == bindparam("id"), col(FileImport.queued_at).is_(None)
)
# The ids alone are read from the index of the key: SQLite finds `created_at` only behind the content of a chunk.
_UNUSED_FILES: Final = Sql("""
    SELECT kept.import_id FROM (SELECT DISTINCT import_id FROM file_import_chunks) AS kept
    LEFT JOIN file_imports ON file_imports.id = kept.import_id
    WHERE file_imports.stage <> 'READ' OR (file_imports.queued_at IS NULL AND file_imports.id IS NOT NULL)
        OR (file_imports.id IS NULL AND NOT EXISTS (
            SELECT 1 FROM file_import_chunks AS young
            WHERE young.import_id = kept.import_id AND young.created_at >= @instant(:upload_ms)
        ))
""")


async def forget(
    database: Database,
    import_id: str,
    status: ImportStatus | None = None,
    *,
    require: Callable[[], Script[Any]] | None = None,
) -> None:
    """Deletes what an import with this status needs no more; without one, everything but its kept file.

    Each transaction begins with `require`, which may raise.
    """
    statements = [_FORGET_DAYS]
    if status is not ImportStatus.COMPLETED:
        statements += [_FORGET_CHANGES, _FORGET_METERS]
    for statement in statements:

        def act(_: InTransaction, statement: Sql = statement) -> Script[int]:
            if require is not None:
                yield from require()
            return len((yield statement, {"id": import_id, "most": ROWS_AT_ONCE}))

        while await database.transact(act) == ROWS_AT_ONCE:
            pass


async def tidy(database: Database, import_id: str, status: ImportStatus) -> None:
    """Deletes what an import needs no more that has ended so."""
    if status is not ImportStatus.PREVIEW:
        await forget(database, import_id, status)
    await kept_files.drop(database, [import_id])


async def ended_as(database: Database, import_id: str) -> ImportStatus | None:
    """The status of an import that has ended; None of any other."""
    found = await database.read(_ENDED, {"id": import_id})
    return ImportStatus[found[0][0]] if found else None


async def keep_house(database: Database) -> None:
    """Deletes previews after a day, what undos need after 30 days, and files that nothing reads any more."""
    now = clock.now()
    ages = {
        "preview_ms": clock.to_ms(now - PREVIEW_KEPT - GRACE),
        "undo_ms": clock.to_ms(now - UNDO_KEPT - GRACE),
    }
    for import_id, what in await database.read(LEFT_OVER.of(database.is_sqlite), ages):
        await forget(database, import_id, ImportStatus.COMPLETED if what == "DAYS" else None)
    unused = await database.read(
        _UNUSED_FILES.of(database.is_sqlite), {"upload_ms": clock.to_ms(now - UPLOAD_KEPT)}
    )
    if unused:
        await kept_files.drop(database, [import_id for (import_id,) in unused])
