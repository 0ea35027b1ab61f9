"""A database that is away: SQLite's one write lock is taken, PostgreSQL cuts its connections and takes none."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from urllib.parse import urlsplit, urlunsplit

import asyncpg

# Waits for each to end, or a test's own connection would end while it is used. New ones are refused to superusers, too.
_CUT = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1"


@asynccontextmanager
async def away(url: str) -> AsyncIterator[None]:
    """Take the database of this URL away until the block ends."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with closing(
            sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        ) as connection:
            # In a thread of its own, for a transaction that is open now ends on this one.
            await asyncio.to_thread(connection.execute, "BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
        return
    name = urlsplit(url).path.removeprefix("/")
    async with _beside(url) as connection:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await connection.execute(_CUT, name)
        yield
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


async def cut_connections(url: str) -> None:
    """End all connections to a PostgreSQL database, as a network does that fails for a moment."""
    async with _beside(url) as connection:
        await connection.execute(_CUT, urlsplit(url).path.removeprefix("/"))


@asynccontextmanager
async def _beside(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the same server's other database."""
    connection = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres", query="")))
    try:
        yield connection
    finally:
        await connection.close()
