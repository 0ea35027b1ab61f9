"""aiosqlite, with one round trip to the connection's thread for each statement.

aiosqlite itself makes four: open a cursor, execute, fetch, close. Each costs two switches of threads, which is more
than SQLite takes for most statements.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any, Self, TypeVar

import aiosqlite
from sqlalchemy.engine import Dialect

from app.db.raw_statements import (
    CompiledStatement,
    Parameters,
    Readable,
    Rows,
    Script,
    Snapshot,
    StatementCache,
    StatementListener,
    ignore_statement,
)
from app.db.sql import Sql

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a statement waits for another process's lock."""

AT_ONCE = 4
"""Connections that only read."""

# FAST: deleted content is overwritten where that costs no further write.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=FAST")

WAL_WAIT = 1.0
"""Seconds that truncating the write-ahead log waits for its readers; after that it is left to be overwritten later."""

WRITER_PAGES, READER_PAGES = 8_000_000, 2_000_000
"""Bytes of the database that a connection keeps in memory; beyond them the system's cache of the file serves."""

TEXTS_KEPT, TEXT_WEIGHT = 128, 20_000
"""Statements that a connection keeps prepared, and the bytes of each, as measured."""


class _Transactions(sqlite3.Connection):
    """Ends its transaction, and with it the one write lock, when a COMMIT fails and when it is closed."""

    def commit(self) -> None:
        try:
            super().commit()
        except BaseException:
            # SQLite keeps the transaction open, but SQLAlchemy takes it for ended, as with every other database.
            self.rollback()
            raise

    def close(self) -> None:
        # A statement that was cancelled midway would keep the closed connection, and its lock, alive.
        self.rollback()
        super().close()


class Cursor:
    """The result of one statement, fetched together with its execution."""

    arraysize = 1

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        await self._connection.run(lambda connection: self._take(connection.execute(sql, parameters)))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        await self._connection.run(lambda connection: self._take(connection.executemany(sql, parameters)))
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Does nothing: the driver's cursor was closed once it was read."""

    def _take(self, cursor: sqlite3.Cursor) -> None:
        self.description, self.lastrowid = cursor.description, cursor.lastrowid
        if self.description is not None:
            self._rows = cursor.fetchall()
        # SQLite knows it only once all rows of a RETURNING have been read.
        self.rowcount = cursor.rowcount
        cursor.close()


class Connection(aiosqlite.Connection):
    """Sends BEGIN along with a transaction's first statement, which saves a round trip to the thread."""

    def __init__(self, path: str, *, reads_only: bool = False) -> None:
        super().__init__(partial(_open, path, reads_only), iter_chunk_size=64)
        # The end of the process does not wait for it.
        self._thread.daemon = True
        self._begin: str | None = None
        self._runner: StatementRunner | None = None

    def begin(self, sql: str) -> None:
        """Executes this BEGIN before the next statement."""
        self._begin = sql

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        return await self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    async def run_script(self, script: Script[T], dialect: Dialect) -> T:
        """Runs a script inside the transaction, in one round trip to the thread. Raises sqlite3.Error."""
        runner = self._runner = self._runner or StatementRunner(dialect)
        return await self.run(lambda connection: runner.run(connection, script))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does the work in the connection's thread, after the BEGIN that was asked for."""
        begin, self._begin = self._begin, None

        def whole() -> T:
            if begin is not None:
                self._conn.execute(begin)
            return work(self._conn)

        value: T = await self._execute(whole)  # type: ignore[no-untyped-call]
        return value

    def cursor(self) -> Cursor:  # type: ignore[override]
        return Cursor(self)

    async def commit(self) -> None:
        if self._is_begun():
            await super().commit()

    async def rollback(self) -> None:
        if self._is_begun():
            await super().rollback()

    def _is_begun(self) -> bool:
        begun, self._begin = self._begin is None, None
        return begun


async def connect(path: str, *, reads_only: bool = False) -> Connection:
    """A new connection to the database in this file."""
    connection = Connection(path, reads_only=reads_only)
    opening = asyncio.ensure_future(connection)
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(partial(_close_when_open, connection))
        raise
    return connection


def _close_when_open(connection: Connection, opening: asyncio.Future[Any]) -> None:
    # After a cancellation the driver would forget the connection that its thread opens, and leave it open.
    if not opening.cancelled() and opening.exception() is None:
        connection.stop()


def _open(path: str, reads_only: bool) -> sqlite3.Connection:
    # The driver's own transactions lose updates silently; without an isolation level it begins none.
    connection = sqlite3.connect(
        path,
        timeout=TIMEOUT,
        isolation_level=None,
        factory=_Transactions,
        cached_statements=TEXTS_KEPT,
    )
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    # Negative for KiB instead of pages.
    connection.execute(f"PRAGMA cache_size=-{(READER_PAGES if reads_only else WRITER_PAGES) // 1024}")
    if reads_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


class StatementRunner:
    """Executes SQLAlchemy's statements by the driver alone, and converts their values; in one thread."""

    def __init__(self, dialect: Dialect) -> None:
        self.statements = StatementCache(dialect, converts=True)

    def run(self, connection: sqlite3.Connection, script: Script[T]) -> T:
        """Executes a script's statements. Raises sqlite3.Error."""
        rows: Any = None
        try:
            while True:
                rows = self.execute(connection, *script.send(rows))
        except StopIteration as end:
            value: T = end.value
            return value

    def execute(
        self,
        connection: sqlite3.Connection,
        statement: Readable | Sql,
        parameters: Parameters | Sequence[Parameters],
    ) -> Rows:
        """The rows of a statement, or those of its executions with each of several parameters."""
        several = [parameters] if isinstance(parameters, Mapping) else parameters
        if not several:
            return []
        if isinstance(statement, Sql):
            statement = statement.of(on_sqlite=True)
        compiled = self.statements.compiled(statement, several[0])
        rows: list[tuple[Any, ...]] = []
        for one in several:
            rows += connection.execute(compiled.text, compiled.arguments(one))
        return converted(compiled, rows)


def converted(compiled: CompiledStatement, rows: list[tuple[Any, ...]]) -> Rows:
    """The rows with SQLAlchemy's conversions: SQLite itself knows no times, no JSON and no booleans."""
    if not compiled.conversions:
        return rows
    converted: list[list[Any]] = list(map(list, rows))
    for at, convert in compiled.conversions:
        for row in converted:
            row[at] = convert(row[at])
    return converted


def truncate_wal(path: str) -> None:
    """Moves the write-ahead log's content into the database's file, and empties the log."""
    with closing(sqlite3.connect(path, timeout=WAL_WAIT)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class SqliteReader:
    """A few connections that read, past SQLAlchemy (see `raw_statements`), as `PostgresReader` does."""

    def __init__(self, path: str, dialect: Dialect) -> None:
        self._path = path
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: list[Connection] = []
        self._runner = StatementRunner(dialect)
        self.on_statement: StatementListener = ignore_statement

    async def fetch(self, statement: Readable, parameters: Parameters) -> Rows:
        async with self._taken() as connection:
            return await self.fetch_by(connection, statement, parameters)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        async with self._taken() as connection:
            connection.begin("BEGIN")
            try:
                yield Snapshot(partial(self.fetch_by, connection))
            finally:
                await asyncio.shield(connection.rollback())

    async def fetch_by(self, connection: Connection, statement: Readable, parameters: Parameters) -> Rows:
        compiled = self._runner.statements.compiled(statement, parameters)
        self.on_statement(compiled.text)
        rows = await connection.fetch(compiled.text, compiled.arguments(parameters))
        return converted(compiled, rows)

    async def dispose(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def _taken(self) -> AsyncIterator[Connection]:
        async with self._slots:
            connection = self._idle.pop() if self._idle else await connect(self._path, reads_only=True)
            try:
                yield connection
            finally:
                # A statement that was cancelled midway is finished in the thread before any other.
                self._idle.append(connection)
