"""One code for SQLite and PostgreSQL: the engine, transactions and the few types and functions that differ.

`transaction()` is the only way to write. Code that has to act at its end leaves a hook with `before_commit`: hooks run
after the flush and just before COMMIT, inside the transaction, which is where the event log writes what was appended.
"""

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import JSON, BigInteger, CursorResult, DateTime, Executable, String, event, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock, failpoints
from app.core.outages import LOST_CONNECTION, DatabaseAway, DatabaseRefuses, report
from app.db import postgres, sqlite
from app.db.raw_statements import Reads, Rows, Script, Snapshot

CONNECT_SECONDS = 5
"""A server that has not let us in by then is away."""

_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.exceptions.ClientConfigurationError,
)

IDLE_SECONDS = 5
"""A transaction that does nothing for so long is ended by PostgreSQL, and its locks with it.

Else a process that stands still, or a machine that the network has lost, would hold up all others for as long.
"""

TRUSTED_SECONDS = 1.0
"""Pooled connections that were used within so many seconds are not pinged before their next use."""

COMPILED_SIZE = 256
"""Statements that SQLAlchemy keeps compiled; of half as many more it drops the oldest."""
COMPILED_KEPT, COMPILED_WEIGHT = COMPILED_SIZE * 3 // 2, 44_000
"""The most there may be, and the bytes of each, as measured."""

SQLITE_READERS = 4
"""Connections of sessions that read; one more writes."""

T = TypeVar("T")
Hook = Callable[[AsyncSession], Awaitable[None]]
Committed = Callable[[Sequence[Any]], None]

# Ids and names compare by byte, so that keyset pages are the same whatever the server's locale.
Text = String().with_variant(String(collation="C"), "postgresql")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant with milliseconds: TIMESTAMPTZ on PostgreSQL, milliseconds since 1970 on SQLite.

    What is below a millisecond is cut off, as `clock.now` does. Raises ValueError for a naive datetime.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("Only aware datetimes are stored.")
        if dialect.name != "postgresql":
            return clock.to_ms(value)
        below = value.microsecond % 1000
        return value.replace(microsecond=value.microsecond - below) if below else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return clock.from_ms(value)


@event.listens_for(SQLModel, "init", propagate=True)
def _at_one_moment(row: SQLModel, _args: Any, values: dict[str, Any]) -> None:
    """What is new has not been updated: its two times are one, which two looks at the clock are not always."""
    if "updated_at" in type(row).model_fields:
        created_at = values.setdefault("created_at", clock.now())
        values.setdefault("updated_at", created_at)


class database_now(FunctionElement[datetime]):
    """The database's own clock, in milliseconds; it moves on within a transaction."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "date_trunc('milliseconds', clock_timestamp())"


@compiles(database_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)"


class seconds_from_now(FunctionElement[datetime]):
    """The database's clock plus a number of seconds, given as a bound parameter or an expression."""

    type = UtcDateTime()
    inherit_cache = True
    name = "seconds_from_now"


@compiles(seconds_from_now, "postgresql")
def _later_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    return (
        "date_trunc('milliseconds', clock_timestamp())"
        f" + CAST({seconds} AS DOUBLE PRECISION) * INTERVAL '1 second'"
    )


@compiles(seconds_from_now, "sqlite")
def _later_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    return f"CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 + {seconds} * 1000 AS INTEGER)"


class Database:
    """The engine and the ways into it: `transaction()` to write, `reading()` to read one consistent state.

    `read()` is for what one statement reads, `snapshot()` for a few, both without ORM objects.
    """

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self.is_held = False
        """Whether it counts as away whatever it does, as before it has this version's tables."""
        self._listeners: list[Committed] = []
        if self.is_sqlite:
            path = self._path = url.removeprefix("sqlite:///")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.engine = _sqlite_engine(path, begin="BEGIN IMMEDIATE", size=1)
            self._readers = _sqlite_engine(path, begin="BEGIN", size=SQLITE_READERS, reads_only=True)
            self.reads: Reads = sqlite.Reads(path, self.engine.dialect)
            self._writer = asyncio.Lock()
        else:
            self.engine = _postgres_engine(url, pool_size)
            self._readers = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self.reads = postgres.Reads(partial(_connect_postgres, url), self.engine.dialect)

    def on_commit(self, listener: Committed) -> None:
        """Call `listener(items)` after every commit that left something with `announce`; its errors are logged."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One write transaction: COMMIT at the end, ROLLBACK on any exception."""
        if self.is_sqlite:
            # SQLite has one writer; waiting in a fair queue here is cheaper than in its busy loop.
            async with self._writer, self._transaction() as session:
                yield session
        else:
            async with self._transaction() as session:
                yield session

    def _require_open(self) -> None:
        if self.is_held:
            raise DatabaseAway("it is waited for since the start")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        self._require_open()
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session
            await session.flush()
            for hook in session.info.get("hooks", ()):
                await hook(session)
            failpoints.reach("transaction.before_commit")
            await session.commit()
            failpoints.reach("transaction.committed")
        if announced := session.info.get("announced"):
            self._tell(announced)
        if "leaves_no_traces" in session.info:
            await self._empty_log()

    def _tell(self, announced: Sequence[Any]) -> None:
        for listener in self._listeners:
            try:
                listener(announced)
            except Exception as error:
                # The caller must not see this error: the change is committed.
                report("a listener of commits failed", error)

    async def _empty_log(self) -> None:
        try:
            await asyncio.to_thread(sqlite.empty_log, self._path)
        except Exception as error:
            # The caller must not see this error: the change is committed.
            report("the write-ahead log was not emptied", error)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A read-only session that sees one state of the database throughout."""
        self._require_open()
        async with AsyncSession(self._readers, expire_on_commit=False, autoflush=False) as session:
            yield session

    async def read(self, statement: Executable, parameters: dict[str, Any]) -> Rows:
        """The rows of one statement, which sees one state without a transaction around it."""
        self._require_open()
        return await self.reads.rows(statement, parameters)

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Several statements that see one state of the database."""
        self._require_open()
        return self.reads.snapshot()

    async def dispose(self) -> None:
        await self.reads.dispose()
        await self._readers.dispose()
        await self.engine.dispose()


def before_commit(session: AsyncSession, hook: Hook) -> None:
    """Run the hook just before this session's transaction commits; each hook once."""
    hooks = session.info.setdefault("hooks", [])
    if hook not in hooks:
        hooks.append(hook)


async def carry_out(session: AsyncSession, script: Script[T]) -> T:
    """Run a script in the session's transaction, where it sees what the session holds.

    Its errors are SQLAlchemy's on both databases. On PostgreSQL each statement is a way to the server in any case.
    """
    if session.new or session.dirty or session.deleted:
        await session.flush()
    dialect = session.get_bind().dialect
    if dialect.name == "sqlite":
        driver = await session.run_sync(lambda sync: sync.connection().connection.driver_connection)
        assert isinstance(driver, sqlite.Connection)  # noqa: S101 - the engine makes no other
        try:
            return await driver.carry_out(script, dialect)
        except sqlite3.Error as error:
            raise DBAPIError.instance(None, None, error, sqlite3.Error, dialect=dialect) from error
    rows: Rows | None = None
    try:
        while True:
            statement, given = next(script) if rows is None else script.send(rows)
            rows = []
            if isinstance(given, Mapping) or given:
                result = await session.execute(statement, given)
                brings_none = isinstance(result, CursorResult) and not result.returns_rows
                rows = [] if brings_none else result.all()
    except StopIteration as end:
        value: T = end.value
        return value


@asynccontextmanager
async def without_traces(session: AsyncSession) -> AsyncIterator[None]:
    """Rows deleted or redacted in this block are gone from SQLite's files as well once the transaction has committed.

    PostgreSQL's vacuum sees to it there.
    """
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    await session.execute(text("PRAGMA secure_delete=ON"))
    try:
        yield
    finally:
        # The connection outlives the transaction, however that ends. After an error of the database it says nothing
        # but that, which must not stand for the error.
        with suppress(SQLAlchemyError):
            await session.execute(text("PRAGMA secure_delete=FAST"))
    session.info["leaves_no_traces"] = True


def announce(session: AsyncSession, items: Sequence[Any]) -> None:
    """Hand the items to the `on_commit` listeners once the transaction has committed."""
    session.info.setdefault("announced", []).extend(items)


async def _connect_postgres(url: str) -> asyncpg.Connection:
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except _REFUSALS as error:
        raise DatabaseRefuses(f"{error}".partition("\n")[0]) from error
    except TimeoutError as error:
        raise DatabaseAway(f"no answer within {CONNECT_SECONDS} s") from error
    except (asyncpg.PostgresError, *LOST_CONNECTION) as error:
        raise DatabaseAway(f"{error}".partition("\n")[0] or type(error).__name__) from error
    try:
        # Not in the startup message, where connection poolers take only what they know.
        await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    except BaseException:
        connection.terminate()
        raise
    return connection


def _postgres_engine(url: str, size: int) -> AsyncEngine:
    # The driver reads the URL itself, so that libpq's options (?sslmode=require) mean what they always do.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(_connect_postgres, url),
        pool_size=size,
        max_overflow=0,
        hide_parameters=True,
        query_cache_size=COMPILED_SIZE,
    )

    @event.listens_for(engine.sync_engine, "checkin")
    def note(connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    # Instead of the pool's own ping before each transaction, which is three more ways to the server: what has gone is
    # seen without asking, unless this process or the network stood still meanwhile.
    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: Any, record: Any, proxy: Any) -> None:
        if record.driver_connection.is_closed():
            raise InvalidatePoolError("the server has closed it")
        if time.monotonic() - record.info.get("used_at", math.inf) > TRUSTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except (engine.dialect.loaded_dbapi.Error, *LOST_CONNECTION) as error:
                raise InvalidatePoolError("it does not answer") from error

    # SQLAlchemy knows only errors of a driver's usual kinds; after these the connection is of no use either.
    @event.listens_for(engine.sync_engine, "handle_error")
    def discard(context: Any) -> None:
        error = context.original_exception
        if any(isinstance(one, asyncpg.InternalClientError | OSError) for one in (error, error.__cause__)):
            context.is_disconnect = True

    return engine


def _sqlite_engine(path: str, begin: str, size: int, reads_only: bool = False) -> AsyncEngine:
    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=partial(sqlite.connect, path, reads_only=reads_only),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
        # Errors are logged, and what a statement was about may be personal or secret.
        hide_parameters=True,
        query_cache_size=COMPILED_SIZE,
        # Whoever takes a connection ends its transaction; one more ROLLBACK would be one more way to the thread.
        pool_reset_on_return=None,
    )

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:
        connection.connection.driver_connection.begin(begin)

    return engine
