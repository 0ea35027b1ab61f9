"""Reads and scripts on PostgreSQL by asyncpg alone, which converts values as SQLAlchemy would (see `raw_statements`).

No connection that reads is pinged before its use. A reading statement that fails because its connection is lost is
sent again over a new one: it has only read, and nobody has seen its rows.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core import failpoints
from app.core.outages import LOST_CONNECTION
from app.db.raw_statements import (
    Parameters,
    Readable,
    Rows,
    Script,
    Snapshot,
    StatementCache,
    StatementListener,
    ignore_statement,
)
from app.db.scripts import Act, Transaction, as_sqlalchemys, whole
from app.db.sql import Sql

AT_ONCE: Final = 5
"""Connections. A process computes on one core, which has no use for more."""

BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"

T = TypeVar("T")


class PostgresReader:
    """A few connections that read; `connect` opens one. `on_statement` is called with the text of each statement."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], dialect: Dialect) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: list[asyncpg.Connection] = []
        self._statements = StatementCache(dialect, converts=False)
        self.on_statement: StatementListener = ignore_statement

    async def fetch(self, statement: Readable, parameters: Parameters) -> Rows:
        """The rows of one statement, which sees one state of the database by itself."""
        async with self._slots:
            if self._idle:
                try:
                    async with self._returned(self._idle.pop()) as connection:
                        return await self._fetch_by(connection, statement, parameters)
                except LOST_CONNECTION:
                    # The other idle connections lead to the same server, which has gone meanwhile.
                    self._close_idle()
            async with self._returned(await self._open()) as connection:
                return await self._fetch_by(connection, statement, parameters)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """A single state of the database for several statements."""
        async with self._slots, self._returned(await self._begin()) as connection:
            yield Snapshot(partial(self._fetch_by, connection))
            try:
                await connection.execute("COMMIT")
            except LOST_CONNECTION:
                # The rows are good all the same: every statement that failed has raised its error.
                connection.terminate()

    async def _fetch_by(
        self, connection: asyncpg.Connection, statement: Readable, parameters: Parameters
    ) -> Rows:
        compiled = self._statements.compiled(statement, parameters)
        self.on_statement(compiled.text)
        rows: Rows = await connection.fetch(compiled.text, *compiled.arguments(parameters))
        return rows

    async def _begin(self) -> asyncpg.Connection:
        if self._idle:
            connection = self._idle.pop()
            try:
                await connection.execute(BEGIN)
                return connection
            except LOST_CONNECTION:
                connection.terminate()
                self._close_idle()
        connection = await self._open()
        await connection.execute(BEGIN)
        return connection

    @asynccontextmanager
    async def _returned(self, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
        """Returns the connection to the pool after the block; an error terminates it, as it may be mid-statement."""
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        if not connection.is_closed():
            self._idle.append(connection)

    async def _open(self) -> asyncpg.Connection:
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
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()


class Writer:
    """Runs transactions that are one script, over connections of the engine's pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._statements = StatementCache(engine.dialect, converts=False)

    async def run(self, act: Act[T]) -> tuple[T, Sequence[Any]]:
        """The value of a transaction that was committed, and the items that it announces."""
        pooled = await self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        transaction = Transaction(on_sqlite=False)
        try:
            await connection.execute("BEGIN")
            value = await self._run_script(connection, whole(act, transaction))
            failpoints.reach("transaction.before_commit")
            await connection.execute("COMMIT")
            failpoints.reach("transaction.committed")
        except BaseException as error:
            is_usable = False
            try:
                is_usable = await _is_rolled_back(connection, error)
            finally:
                # A task may be cancelled once more meanwhile.
                if is_usable:
                    pooled.close()
                else:
                    pooled.invalidate()
            raised = as_sqlalchemys(error, self._engine.dialect)
            if raised is error:
                raise
            raise raised from error
        pooled.close()
        return value, transaction.info.get("announced", ())

    async def _run_script(self, connection: asyncpg.Connection, script: Script[T]) -> T:
        rows: Any = None
        try:
            while True:
                rows = await self._execute(connection, *script.send(rows))
        except StopIteration as end:
            value: T = end.value
            return value

    async def _execute(
        self, connection: asyncpg.Connection, statement: Any, parameters: Parameters | Sequence[Parameters]
    ) -> Rows:
        if isinstance(statement, Sql):
            statement = statement.of(on_sqlite=False)
        if isinstance(parameters, Mapping):
            compiled = self._statements.compiled(statement, parameters)
            rows: Rows = await connection.fetch(compiled.text, *compiled.arguments(parameters))
            return rows
        if not parameters:
            return []
        compiled = self._statements.compiled(statement, parameters[0])
        arguments = [compiled.arguments(one) for one in parameters]
        if len(arguments) > 1 and not getattr(statement, "exported_columns", ()):
            # Without rows, all executions are one round trip.
            await connection.executemany(compiled.text, arguments)
            return []
        return [row for one in arguments for row in await connection.fetch(compiled.text, *one)]


async def _is_rolled_back(connection: asyncpg.Connection, error: BaseException) -> bool:
    """Rolls back after an error that left the connection usable."""
    # A task that is cancelled may have been amid a statement.
    if not isinstance(error, Exception) or isinstance(error, LOST_CONNECTION):
        return False
    try:
        await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, *LOST_CONNECTION):
        return False
    return True


# A jsonb on the wire begins with the version of its format.
def _to_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def _from_jsonb(raw: bytes) -> Any:
    return json.loads(raw[1:])
