"""aiosqlite, with one way to the connection's thread and back for each statement.

A statement by aiosqlite itself is four of them: make a cursor, execute, fetch, close. Each costs two switches of
threads, which is more than SQLite takes for most statements.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import aiosqlite
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect

from app.db.raw_statements import Given, Rows, Script, Statements, Watch, as_it_is

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a statement waits for another process's lock."""

AT_ONCE = 4
"""Connections that only read."""

_Turn = tuple[int, Callable[[Any], Any]]

# FAST: what is deleted is overwritten where that costs no further write.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=FAST")

LOG_WAIT = 1.0
"""Seconds that emptying the log waits for those who read from it; else it is overwritten later, as it always is."""

WRITER_PAGES, READER_PAGES = 32_000_000, 4_000_000
"""Bytes of the database that a connection keeps in memory; the system has all of it for those that read."""

TEXTS_KEPT, TEXT_WEIGHT = 128, 20_000
"""Statements that a connection keeps prepared, and the bytes of each, as measured."""


class _Transactions(sqlite3.Connection):
    """Never keeps a transaction, and with it the one write lock, longer than whoever began it."""

    def commit(self) -> None:
        try:
            super().commit()
        except BaseException:
            # The transaction is still open, but SQLAlchemy takes it for ended, as it is with every other database.
            self.rollback()
            raise

    def close(self) -> None:
        # A statement that was cancelled half-way would keep the closed connection, and its lock, alive.
        self.rollback()
        super().close()


class Cursor:
    """What one statement brought, fetched with it."""

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
        """Nothing is held any more: it was closed where it was read."""

    def _take(self, cursor: sqlite3.Cursor) -> None:
        self.description, self.lastrowid = cursor.description, cursor.lastrowid
        if self.description is not None:
            self._rows = cursor.fetchall()
        # Known only when all rows of a RETURNING have been read.
        self.rowcount = cursor.rowcount
        cursor.close()


class Connection(aiosqlite.Connection):
    """A transaction begins with its first statement, so that BEGIN is no way of its own."""

    def __init__(self, path: str, *, reads_only: bool = False) -> None:
        super().__init__(partial(_open, path, reads_only), iter_chunk_size=64)
        # A process that is to end does not wait for it.
        self._thread.daemon = True
        self._begin: str | None = None
        self._texts: Texts | None = None

    def begin(self, sql: str) -> None:
        """Execute this BEGIN before the next statement."""
        self._begin = sql

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        rows: list[tuple[Any, ...]] = []
        await self.run(lambda connection: rows.extend(connection.execute(sql, parameters)))
        return rows

    async def carry_out(self, script: Script[T], dialect: Dialect) -> T:
        """Run a script inside the transaction, all of it in one way to the thread. Raises sqlite3.Error."""
        results: list[T] = []
        texts = self._texts = self._texts or Texts(dialect)

        def whole(connection: sqlite3.Connection) -> None:
            rows: Rows | None = None
            try:
                while True:
                    statement, given = next(script) if rows is None else script.send(rows)
                    rows = texts.execute(connection, statement, given)
            except StopIteration as end:
                results.append(end.value)

        await self.run(whole)
        return results[0]

    async def run(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do the work in the connection's thread, inside the transaction that was to begin."""
        begin, self._begin = self._begin, None

        def whole() -> None:
            if begin is not None:
                self._conn.execute(begin)
            work(self._conn)

        await self._execute(whole)  # type: ignore[no-untyped-call]

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
        opening.add_done_callback(partial(_abandoned, connection))
        raise
    return connection


def _abandoned(connection: Connection, opening: asyncio.Future[Any]) -> None:
    # The driver itself would forget what its thread opens after a cancellation, and leave it open.
    if not opening.cancelled() and opening.exception() is None:
        connection.stop()


def _open(path: str, reads_only: bool) -> sqlite3.Connection:
    # The driver's own transactions lose updates silently, so it is told to begin none (isolation_level).
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


class Texts:
    """What the driver is told and what it answers, of statements as SQLAlchemy has them; in one thread."""

    def __init__(self, dialect: Dialect) -> None:
        self.statements = Statements(dialect)
        self._dialect = dialect
        self._turning: WeakKeyDictionary[Executable, list[_Turn]] = WeakKeyDictionary()

    def execute(
        self, connection: sqlite3.Connection, statement: Executable, given: Given | Sequence[Given]
    ) -> Rows:
        """The rows of a statement, or of all its executions with each of a list."""
        several = [given] if isinstance(given, Mapping) else given
        if not several:
            return []
        prepared = self.statements.prepared(statement, several[0])
        rows: list[tuple[Any, ...]] = []
        for one in several:
            rows += connection.execute(prepared.text, prepared.arguments(one))
        return self.turned(statement, rows)

    def turned(self, statement: Executable, rows: list[tuple[Any, ...]]) -> Rows:
        """With the values that SQLAlchemy would turn turned: SQLite knows no times, no JSON and no truth."""
        turns = self._turning.get(statement)
        if turns is None:
            turns = self._turning[statement] = self._turns_of(statement)
        return _turned(rows, turns)

    def _turns_of(self, statement: Any) -> list[_Turn]:
        # Of one that is written as text only what it declares is known.
        columns = getattr(statement, "exported_columns", ())
        kinds = [column.type.dialect_impl(self._dialect) for column in columns]
        all_of_them = [kind.result_processor(self._dialect, None) for kind in kinds]
        return [(at, turn) for at, turn in enumerate(all_of_them) if turn is not None]


def empty_log(path: str) -> None:
    """Move what the write-ahead log holds into the database's file, and leave nothing of it."""
    with closing(sqlite3.connect(path, timeout=LOG_WAIT)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class Reads:
    """A few connections that read, past SQLAlchemy (see `direct`)."""

    def __init__(self, path: str, dialect: Dialect) -> None:
        self._path = path
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._free: list[Connection] = []
        self._texts = Texts(dialect)
        self.watch: Watch = as_it_is

    async def rows(self, statement: Executable, given: Given) -> Rows:
        async with self._held() as connection:
            return await self.fetch(connection, statement, given)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Snapshot"]:
        async with self._held() as connection:
            connection.begin("BEGIN")
            try:
                yield Snapshot(self, connection)
            finally:
                await asyncio.shield(connection.rollback())

    async def fetch(self, connection: Connection, statement: Executable, given: Given) -> Rows:
        prepared = self._texts.statements.prepared(statement, given)
        self.watch(prepared.text)
        rows = await connection.fetch(prepared.text, prepared.arguments(given))
        return self._texts.turned(statement, rows)

    async def dispose(self) -> None:
        while self._free:
            await self._free.pop().close()

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[Connection]:
        async with self._turns:
            connection = self._free.pop() if self._free else await connect(self._path, reads_only=True)
            try:
                yield connection
            finally:
                # What was cancelled half-way is finished in its thread before anything else.
                self._free.append(connection)


class Snapshot:
    """One state of the database, until the block ends that it was opened for."""

    def __init__(self, reads: Reads, connection: Connection) -> None:
        self._reads = reads
        self._connection = connection

    async def rows(self, statement: Executable, given: Given) -> Rows:
        return await self._reads.fetch(self._connection, statement, given)


def _turned(rows: list[tuple[Any, ...]], turns: list[_Turn]) -> Rows:
    if not turns:
        return rows
    turned: list[list[Any]] = list(map(list, rows))
    for at, turn in turns:
        for row in turned:
            row[at] = turn(row[at])
    return turned
