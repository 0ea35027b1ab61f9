"""SQLAlchemy's engines for PostgreSQL and SQLite: how connections are opened, checked and given up."""

import math
import time
from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.core.outages import LOST_CONNECTION, DatabaseAway, DatabaseRefuses
from app.db import sqlite

CONNECT_SECONDS: Final = 5
"""Seconds within which a server accepts a connection, or else is away."""

POSTGRES_CONNECTIONS: Final = 10
"""Connections of sessions and scripts."""

IDLE_SECONDS: Final = 5
"""Seconds after which PostgreSQL ends an idle transaction and releases its locks.

Else a process that stands still, or a machine that the network has lost, would block all others for as long.
"""

TRUSTED_SECONDS: Final = 1.0
"""Pooled connections that were used within these seconds are not pinged before their next use."""

COMPILED_SIZE: Final = 256
"""Statements that SQLAlchemy keeps compiled; at half as many more it drops the oldest."""
COMPILED_KEPT, COMPILED_WEIGHT = COMPILED_SIZE * 3 // 2, 44_000
"""The most compiled statements at a time, and the bytes of each, as measured."""

_REFUSALS: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.exceptions.ClientConfigurationError,
)


async def connect_postgres(url: str) -> asyncpg.Connection:
    """Raises DatabaseRefuses or DatabaseAway."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except _REFUSALS as error:
        raise DatabaseRefuses(f"{error}".partition("\n")[0]) from error
    except TimeoutError as error:
        raise DatabaseAway(f"no answer within {CONNECT_SECONDS} s") from error
    except (asyncpg.PostgresError, *LOST_CONNECTION) as error:
        raise DatabaseAway(f"{error}".partition("\n")[0] or type(error).__name__) from error
    try:
        # Not in the startup message, where connection poolers take only the parameters they know.
        await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    except BaseException:
        connection.terminate()
        raise
    return connection


def postgres_engine(url: str) -> AsyncEngine:
    # The driver reads the URL itself, so that libpq's options (?sslmode=require) mean what they always do.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect_postgres, url),
        pool_size=POSTGRES_CONNECTIONS,
        max_overflow=0,
        hide_parameters=True,
        query_cache_size=COMPILED_SIZE,
    )

    @event.listens_for(engine.sync_engine, "checkin")
    def note_use(connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    # The pool's own ping before each transaction would be three more round trips. A closed connection is noticed
    # without one, unless this process or the network stood still meanwhile.
    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: Any, record: Any, proxy: Any) -> None:
        if record.driver_connection.is_closed():
            raise InvalidatePoolError("the server has closed it")
        if time.monotonic() - record.info.get("used_at", math.inf) > TRUSTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except (engine.dialect.loaded_dbapi.Error, *LOST_CONNECTION) as error:
                raise InvalidatePoolError("it does not answer") from error

    # SQLAlchemy takes only a driver's usual errors for a disconnect; after these the connection is useless as well.
    @event.listens_for(engine.sync_engine, "handle_error")
    def discard(context: Any) -> None:
        error = context.original_exception
        if any(isinstance(one, asyncpg.InternalClientError | OSError) for one in (error, error.__cause__)):
            context.is_disconnect = True

    return engine


def sqlite_engine(path: str, begin: str, pool_size: int, reads_only: bool = False) -> AsyncEngine:
    """`begin`: the statement that begins each transaction."""
    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=partial(sqlite.connect, path, reads_only=reads_only),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        # Errors are logged, and a statement's parameters may be personal or secret.
        hide_parameters=True,
        query_cache_size=COMPILED_SIZE,
        # Every session ends its own transaction; one more ROLLBACK would be one more round trip to the thread.
        pool_reset_on_return=None,
    )

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:
        connection.connection.driver_connection.begin(begin)

    return engine
