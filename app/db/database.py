"""Transactions and reads, alike on SQLite and PostgreSQL.

There are two ways to write. `transact()` runs a whole transaction as one script, with prebuilt statements and plain
rows; `transaction()` opens a session. Scripts left with `write_before_commit` run just before COMMIT, inside the
transaction: that is where the event log writes the appended events.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import CursorResult, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import configure_mappers
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import DatabaseAway, report
from app.db import postgres, sqlite
from app.db.engine import connect_postgres, postgres_engine, sqlite_engine
from app.db.group_commit import EarlyReading, GroupCommit
from app.db.postgres import PostgresReader
from app.db.raw_statements import Readable, RebuiltStatement, Rows, Script, Snapshot
from app.db.scripts import Act, as_sqlalchemys, ended
from app.db.sql import Sql
from app.db.sqlite import SqliteReader

SQLITE_READERS: Final = 4
"""Connections of sessions that read; one more writes."""

T = TypeVar("T")
Hook = Callable[[AsyncSession], Awaitable[None]]
CommitListener = Callable[[Sequence[Any]], None]
EarlyRead = Callable[[Sequence[Any]], Script[bool]]


class Database:
    """The engines and the ways into them: `transact()` and `transaction()` to write, `reading()` to read one state.

    `read()` runs one reading statement, `snapshot()` a few, both without ORM objects.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self.awaits_migration = False
        """While true the database counts as away: it does not have this version's tables yet."""
        self._listeners: list[CommitListener] = []
        self._early_reads: list[EarlyRead] = []
        self._preparing: list[CommitListener] = []
        # Rows of scripts need it, and they are made without a query of the ORM's.
        configure_mappers()
        if self.is_sqlite:
            path = self._path = url.removeprefix("sqlite:///")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sqlite_engine(path, begin="BEGIN IMMEDIATE", pool_size=1)
            self._readers = sqlite_engine(path, begin="BEGIN", pool_size=SQLITE_READERS, reads_only=True)
            self.reads: SqliteReader | PostgresReader = SqliteReader(path, self.engine.dialect)
            self._writer = asyncio.Lock()
            # The pool's one connection, until it is closed: asking the pool costs as much as a transaction.
            self._driver: sqlite.Connection | None = None
            event.listen(self.engine.sync_engine, "close", self._forget_driver)
            self._group = GroupCommit(
                self._writer,
                self._raw_writer,
                self.engine.dialect,
                self._notify,
                EarlyReading(self._read_early, self._prepare),
            )
        else:
            self.engine = postgres_engine(url)
            self._readers = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self.reads = PostgresReader(partial(connect_postgres, url), self.engine.dialect)
            self._scripts = postgres.Writer(self.engine)

    def on_commit(self, listener: CommitListener) -> None:
        """Calls `listener(items)` after every commit with announced items; its errors are logged."""
        self._listeners.append(listener)

    def read_early(self, read: EarlyRead, prepare: CommitListener) -> None:
        """Runs a script that only reads over the announced items of each `transact()`, before its COMMIT.

        If it has read anything, `prepare` is called with them while the COMMIT is under way. This is so on SQLite only,
        in the writer's thread: PostgreSQL reads as soon over another connection, and holds no lock meanwhile. Errors of
        the script are logged and change nothing.
        """
        self._early_reads.append(read)
        self._preparing.append(prepare)

    async def transact(self, act: Act[T]) -> T:
        """Runs a whole transaction, which `act` makes as a script: COMMIT at its end, ROLLBACK on any exception.

        Its errors are SQLAlchemy's on both databases.
        """
        self._require_tables()
        if self.is_sqlite:
            return await self._group.run(act)
        value, announced = await self._scripts.run(act)
        if announced:
            self._notify(announced)
        return value

    def _read_early(self, announced: Sequence[Any]) -> Script[bool]:
        has_read = False
        for read in self._early_reads:
            has_read = (yield from read(announced)) or has_read
        return has_read

    def _prepare(self, announced: Sequence[Any]) -> None:
        for prepare in self._preparing:
            prepare(announced)

    async def _raw_writer(self) -> sqlite.Connection:
        """The one connection that writes; the caller holds its lock."""
        if self._driver is None:
            pooled = await self.engine.raw_connection()
            driver = pooled.driver_connection
            pooled.close()
            assert isinstance(driver, sqlite.Connection)  # noqa: S101 - the engine makes no other
            self._driver = driver
        return self._driver

    def _forget_driver(self, *_: Any) -> None:
        self._driver = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A write transaction: COMMIT at the end, ROLLBACK on any exception."""
        if self.is_sqlite:
            # SQLite has one writer; waiting in a fair queue here is cheaper than in its busy loop.
            async with self._writer, self._transaction() as session:
                yield session
        else:
            async with self._transaction() as session:
                yield session

    def _require_tables(self) -> None:
        if self.awaits_migration:
            raise DatabaseAway("it is waited for since the start")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        self._require_tables()
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session
            await session.flush()
            for hook in session.info.get("hooks", ()):
                await hook(session)
            if "endings" in session.info:
                await run_script(session, ended(session))
            failpoints.reach("transaction.before_commit")
            await session.commit()
            failpoints.reach("transaction.committed")
        if announced := session.info.get("announced"):
            self._notify(announced)
        if "truncates_wal" in session.info:
            await self._truncate_wal()

    def _notify(self, announced: Sequence[Any]) -> None:
        for listener in self._listeners:
            try:
                listener(announced)
            except Exception as error:
                # The caller must not see this error: the change is committed.
                report("a listener of commits failed", error)

    async def _truncate_wal(self) -> None:
        try:
            await asyncio.to_thread(sqlite.truncate_wal, self._path)
        except Exception as error:
            # The caller must not see this error: the change is committed.
            report("the write-ahead log was not emptied", error)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A read-only session that sees one state of the database throughout."""
        self._require_tables()
        async with AsyncSession(self._readers, expire_on_commit=False, autoflush=False) as session:
            yield session

    async def read(self, statement: Readable, parameters: dict[str, Any]) -> Rows:
        """The rows of one statement, which sees one state without a transaction around it."""
        self._require_tables()
        return await self.reads.fetch(statement, parameters)

    async def read_in(self, session: AsyncSession, statement: Readable, parameters: dict[str, Any]) -> Rows:
        """The rows of one statement in the state that the session sees, without ORM objects."""
        if isinstance(self.reads, SqliteReader):
            return await self.reads.fetch_by(await _sqlite_connection(session), statement, parameters)
        kept = statement.keep() if isinstance(statement, RebuiltStatement) else statement
        rows: Rows = (await (await session.connection()).execute(kept, parameters)).all()
        return rows

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Several statements that see one state of the database."""
        self._require_tables()
        return self.reads.snapshot()

    async def dispose(self) -> None:
        if self.is_sqlite:
            await self._group.close()
        await self.reads.dispose()
        await self._readers.dispose()
        await self.engine.dispose()


def before_commit(session: AsyncSession, hook: Hook) -> None:
    """Runs the hook when this session's transaction is about to commit; each hook once."""
    hooks = session.info.setdefault("hooks", [])
    if hook not in hooks:
        hooks.append(hook)


async def run_script(session: AsyncSession, script: Script[T]) -> T:
    """Runs a script in the session's transaction, after flushing the session's changes.

    Its errors are SQLAlchemy's on both databases. On PostgreSQL each statement is a round trip; on SQLite the whole
    script is one.
    """
    if session.new or session.dirty or session.deleted:
        await session.flush()
    dialect = session.get_bind().dialect
    if dialect.name == "sqlite":
        driver = await _sqlite_connection(session)
        try:
            return await driver.run_script(script, dialect)
        except sqlite3.Error as error:
            raise as_sqlalchemys(error, dialect) from error
    rows: Any = None
    try:
        while True:
            statement, parameters = script.send(rows)
            rows = []
            if isinstance(statement, Sql):
                statement = statement.on(session)
            elif isinstance(statement, RebuiltStatement):
                statement = statement.keep()
            if isinstance(parameters, Mapping) or parameters:
                result = await session.execute(statement, parameters)
                has_no_rows = isinstance(result, CursorResult) and not result.returns_rows
                rows = [] if has_no_rows else result.all()
    except StopIteration as end:
        value: T = end.value
        return value


async def _sqlite_connection(session: AsyncSession) -> sqlite.Connection:
    """The driver's connection of a session, in its transaction."""
    driver = await session.run_sync(lambda sync: sync.connection().connection.driver_connection)
    assert isinstance(driver, sqlite.Connection)  # noqa: S101 - the engine makes no other
    return driver


@asynccontextmanager
async def secure_delete(session: AsyncSession) -> AsyncIterator[None]:
    """Erases the rows deleted or redacted in this block from SQLite's files as well, once the transaction commits.

    On PostgreSQL this is vacuum's work.
    """
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    await session.execute(text("PRAGMA secure_delete=ON"))
    try:
        yield
    finally:
        # The connection outlives the transaction, however that ends. A broken transaction refuses this statement, and
        # its error must not replace the first one.
        with suppress(SQLAlchemyError):
            await session.execute(text("PRAGMA secure_delete=FAST"))
    session.info["truncates_wal"] = True
