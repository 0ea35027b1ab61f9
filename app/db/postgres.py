"""Reads on PostgreSQL by asyncpg alone, which turns values as SQLAlchemy would (see `direct`).

Whether a connection is still alive shows when it is used: what has only read, and has told nobody yet, is read again
over a new one. Nothing is asked of the server before that.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect

from app.core.outages import LOST_CONNECTION
from app.db.raw_statements import Given, Rows, Statements, Watch, as_it_is

AT_ONCE: Final = 5
"""Connections. A process with one core to compute on makes no use of more."""

BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"


class Reads:
    """A few connections that read; `connect` opens one."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], dialect: Dialect) -> None:
        self._connect = connect
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._free: list[asyncpg.Connection] = []
        self._statements = Statements(dialect)
        self.watch: Watch = as_it_is

    async def rows(self, statement: Executable, given: Given) -> Rows:
        """Of one statement, which sees one state of the database by itself."""
        async with self._turns:
            if self._free:
                try:
                    async with self._held(self._free.pop()) as connection:
                        return await self.fetch(connection, statement, given)
                except LOST_CONNECTION:
                    # The others were opened to the same server, which has gone meanwhile.
                    self._close_free()
            async with self._held(await self._opened()) as connection:
                return await self.fetch(connection, statement, given)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Snapshot"]:
        """One state of the database for several statements."""
        async with self._turns, self._held(await self._begun()) as connection:
            yield Snapshot(self, connection)
            try:
                await connection.execute("COMMIT")
            except LOST_CONNECTION:
                # Nothing was to be written: what was read is good, and whatever failed has said so.
                connection.terminate()

    async def fetch(self, connection: asyncpg.Connection, statement: Executable, given: Given) -> Rows:
        prepared = self._statements.prepared(statement, given)
        self.watch(prepared.text)
        rows: Rows = await connection.fetch(prepared.text, *prepared.arguments(given))
        return rows

    async def _begun(self) -> asyncpg.Connection:
        if self._free:
            connection = self._free.pop()
            try:
                await connection.execute(BEGIN)
                return connection
            except LOST_CONNECTION:
                connection.terminate()
                self._close_free()
        connection = await self._opened()
        await connection.execute(BEGIN)
        return connection

    @asynccontextmanager
    async def _held(self, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
        """Free again afterwards; one that was left in the middle of something is not worth waiting for."""
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        if not connection.is_closed():
            self._free.append(connection)

    async def _opened(self) -> asyncpg.Connection:
        connection = await self._connect()
        try:
            await connection.execute("SET default_transaction_read_only = on")
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=_to_jsonb, decoder=_from_jsonb, format="binary"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def dispose(self) -> None:
        self._close_free()

    def _close_free(self) -> None:
        while self._free:
            self._free.pop().terminate()


class Snapshot:
    """One state of the database, until the block ends that it was opened for."""

    def __init__(self, reads: Reads, connection: asyncpg.Connection) -> None:
        self._reads = reads
        self._connection = connection

    async def rows(self, statement: Executable, given: Given) -> Rows:
        return await self._reads.fetch(self._connection, statement, given)


# A jsonb on the wire begins with the version of its format.
def _to_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def _from_jsonb(raw: bytes) -> Any:
    return json.loads(raw[1:])
