"""Servers to broadcast over, and ways to hurt them, for the tests of backends and doorbell."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import asyncpg
from redis.asyncio import Redis

from app.events.broadcast.linked import LinkedBackend
from app.events.broadcast.postgres import PostgresBackend
from app.events.broadcast.valkey import ValkeyBackend
from app.events.doorbell import Doorbell, Listener
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey

NETWORKED = ["valkey", "postgresql"]


def url_of(server: Service) -> str:
    """The URL of a server, as the doorbell takes it."""
    if isinstance(server, Postgres):
        return server.url()
    assert isinstance(server, Valkey)
    return server.url


def backend_of(
    server: Service, *, port: int | None = None, deadline: float = 1.0, heartbeat: float = 0.2
) -> LinkedBackend:
    """A backend that notices silence sooner than the real ones; `port`: of a relay before the server."""
    make = PostgresBackend if isinstance(server, Postgres) else ValkeyBackend
    url = url_of(server).replace(str(server.port), str(port or server.port))
    return make(url, deadline=deadline, heartbeat=heartbeat)


async def becomes(condition: Callable[[], bool]) -> None:
    """Waits for a state that is announced to nobody."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


def tasks() -> set[asyncio.Task[object]]:
    """The tasks beside the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def query(server: Service, statement: str) -> list[object]:
    """The first column of what PostgreSQL answers."""
    connection = await asyncpg.connect(url_of(server))
    try:
        return [row[0] for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def command(server: Service, *words: str) -> object:
    """Valkey's answer to a command."""
    async with Redis.from_url(url_of(server), protocol=2) as client:
        return await client.execute_command(*words)


async def cut_listeners(server: Service) -> int:
    """Has the server end every listening connection; how many there were."""
    if isinstance(server, Valkey):
        return int(str(await command(server, "CLIENT", "KILL", "TYPE", "pubsub")))
    ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    return len(await query(server, ended))


async def process_of(server: Service, statement: str) -> int:
    """The process that serves the connection which last ran a PostgreSQL statement like this, or Valkey's process."""
    if isinstance(server, Valkey):
        return server.pid
    (pid,) = await query(server, f"SELECT pid FROM pg_stat_activity WHERE query LIKE '{statement}'")
    return int(str(pid))


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process keeps its connections, and says and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Lock a table. The yielded function waits for a reader of it; returns the process that serves the reader."""
    locking, watching = await asyncpg.connect(url), await asyncpg.connect(url)
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    async def reader() -> int:
        while (pid := await watching.fetchval(waiting)) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)
        return int(pid)

    try:
        async with locking.transaction():
            await locking.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield reader
    finally:
        await locking.close()
        await watching.close()


@contextlib.asynccontextmanager
async def unanswered(url: str, table: str) -> AsyncIterator[None]:
    """The next read of the table is never answered, while others are: of all connections that one says nothing."""
    with contextlib.ExitStack() as stack:
        async with locked(url, table) as reader:
            stack.enter_context(frozen(await reader()))
        yield


@contextlib.asynccontextmanager
async def two_processes(url: str) -> AsyncIterator[tuple[Doorbell, Doorbell]]:
    """A doorbell that listens and one that publishes; in memory both are the same."""
    async with Doorbell.from_url(url) as here:
        if url.startswith("memory"):
            yield here, here
            return
        async with Doorbell.from_url(url) as there:
            yield here, there


async def until(listener: Listener, last: str) -> AsyncIterator[str]:
    async for message in listener:
        yield message
        if message == last:
            return


async def take(listener: Listener) -> list[str]:
    return [message async for message in listener]
