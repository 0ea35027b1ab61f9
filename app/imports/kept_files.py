"""Kept files: in chunks in the database, so that any process may take a file and any worker may read it."""

import asyncio
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from sqlalchemy import bindparam, delete, select
from sqlmodel import col

from app.core import clock
from app.db.database import Database, secure_delete
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.imports.models import FileImportChunk

CHUNK_BYTES: Final = 256 * 1024
IN_MEMORY: Final = 4 * 1024 * 1024
"""Bytes up to which a file that is read does not touch the worker's disk."""
DELETED_AT_ONCE: Final = 64

_CHUNKS: Final = Table(FileImportChunk)
_CHUNK: Final = select(col(FileImportChunk.content)).where(
    col(FileImportChunk.import_id) == bindparam("import_id"),
    col(FileImportChunk.number) == bindparam("number"),
)


async def keep(database: Database, import_id: str, number: int, content: bytes) -> None:
    """Writes a chunk; chunks are numbered from 0."""

    def act(_: InTransaction) -> Script[None]:
        row = _CHUNKS.new(import_id=import_id, number=number, content=content, created_at=clock.now())
        yield from _CHUNKS.insert([row])

    await database.transact(act)


class FileIncomplete(Exception):
    """Chunks of a kept file are missing."""


async def open_kept(database: Database, import_id: str, size: int) -> BinaryIO:
    """The file as a temporary one, which goes when it is closed. Raises FileIncomplete if it has not this size."""
    file: Any = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        number = 0
        while found := await database.read(_CHUNK, {"import_id": import_id, "number": number}):
            await asyncio.to_thread(file.write, found[0][0])
            number += 1
        # The first part of a file would be taken for all of it.
        if file.tell() != size:
            raise FileIncomplete(import_id)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[no-any-return]


async def drop(database: Database, import_ids: Sequence[str]) -> None:
    """Deletes the chunks of these imports, and erases them from SQLite's file as well, a few at a time."""
    keys = (col(FileImportChunk.import_id), col(FileImportChunk.number))
    some = select(*keys).where(keys[0].in_(import_ids)).limit(DELETED_AT_ONCE)
    while True:
        async with database.transaction() as session:
            found = (await session.execute(some)).all()
            if not found:
                return
            async with secure_delete(session):
                for import_id, number in found:
                    await session.execute(
                        delete(FileImportChunk).where(keys[0] == import_id, keys[1] == number)
                    )
