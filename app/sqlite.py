"""aiosqlite, with one way to the connection's thread and back for each statement.

A statement by aiosqlite itself is four of them: make a cursor, execute, fetch, close. Each costs two switches of
threads, which is more than SQLite takes for most statements.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite

TIMEOUT = 30.0
"""Seconds that a statement waits for another process's lock."""


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

    def __init__(self, path: str) -> None:
        # The driver's own transactions lose updates silently, so it is told to begin none (isolation_level).
        connect = partial(sqlite3.connect, path, timeout=TIMEOUT, isolation_level=None, factory=_Transactions)
        super().__init__(connect, iter_chunk_size=64)
        # A process that is to end does not wait for it.
        self._thread.daemon = True
        self._begin: str | None = None

    def begin(self, sql: str) -> None:
        """Execute this BEGIN before the next statement."""
        self._begin = sql

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


async def connect(path: str) -> Connection:
    """A new connection to the database in this file."""
    connection = Connection(path)
    await connection
    return connection
