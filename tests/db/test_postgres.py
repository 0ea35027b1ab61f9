"""Connections to PostgreSQL: values, concurrency, and connections that are lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from sqlalchemy import Date, Integer, String, bindparam, cast, column, func, literal, select, text, values
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from app.core.outages import is_database_away
from app.db.database import Database
from app.db.engine import TRUSTED_SECONDS
from app.db.postgres import AT_ONCE
from app.db.types import Json, UtcDateTime

AT = datetime(2026, 11, 24, 22, 29, 55, 123000, tzinfo=UTC)
PID = select(func.pg_backend_pid())


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    opened = Database(postgres_url)
    yield opened
    await opened.dispose()


async def read(database: Database, statement: Any, **given: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.read(statement, given)]


async def test_values_come_back_as_by_sqlalchemy(database: Database) -> None:
    statement = select(
        literal("ä", String()),
        literal(7, Integer()),
        literal(True),
        literal(AT, UtcDateTime()),
        literal(date(2026, 11, 24), Date()),
        literal({"a": [1, 2.5, None]}, Json),
        cast(None, JSONB()),
    )
    found = await read(database, statement)
    assert found == [("ä", 7, True, AT, date(2026, 11, 24), {"a": [1, 2.5, None]}, None)]
    assert found[0][3].utcoffset() == AT.utcoffset()
    async with database.reading() as session:
        assert [tuple(row) for row in (await session.execute(statement)).all()] == found


async def test_parameters_by_name_fixed_ones_and_lists_of_any_length(database: Database) -> None:
    numbers = values(column("n", Integer()), name="numbers").data([(n,) for n in range(10)])
    statement = (
        select(numbers.c.n, bindparam("at", type_=UtcDateTime()))
        .where(numbers.c.n.in_(bindparam("wanted", expanding=True)), numbers.c.n.not_in([3, 4]))
        .order_by(numbers.c.n)
    )
    for wanted, found in (([1, 3, 5], [1, 5]), ([2], [2]), ([4, 5, 6], [5, 6]), ([], [])):
        assert await read(database, statement, wanted=wanted, at=AT) == [(n, AT) for n in found]


async def test_more_than_there_are_connections_wait_for_their_turn(database: Database) -> None:
    pids = await asyncio.gather(*(read(database, PID) for _ in range(4 * AT_ONCE)))
    assert len({pid for [(pid,)] in pids}) <= AT_ONCE
    # Sequential reads use the same connection.
    assert await read(database, PID) == await read(database, PID)


async def test_a_lost_connection_is_replaced(database: Database) -> None:
    await asyncio.gather(*(read(database, select(func.pg_sleep(0.01))) for _ in range(AT_ONCE)))
    await end_others(database)
    assert await read(database, select(literal(1))) == [(1,)]
    await end_others(database)
    async with database.snapshot() as snapshot:
        assert [tuple(row) for row in await snapshot.fetch(select(literal(2)), {})] == [(2,)]


async def test_a_snapshot_that_loses_its_connection_fails_once(database: Database) -> None:
    async with database.snapshot() as snapshot:
        await snapshot.fetch(select(literal(1)), {})
        await end_others(database)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await snapshot.fetch(select(literal(2)), {})
    # A connection that is lost after the last read does not spoil the rows.
    async with database.snapshot() as snapshot:
        await snapshot.fetch(select(literal(1)), {})
        await end_others(database)
    assert await read(database, select(literal(3))) == [(3,)]


async def test_writers_are_replaced_as_well(database: Database) -> None:
    await asyncio.gather(*(write(database) for _ in range(4)))
    await end_others(database)
    await asyncio.gather(*(write(database) for _ in range(4)))


async def test_a_connection_that_went_silently_is_replaced(postgres_url: str) -> None:
    async with Router(postgres_url) as router:
        database = Database(router.url)
        try:
            before = await write(database)
            assert await write(database) == before
            router.forget()
            # Unused for so long that it is pinged first.
            await asyncio.sleep(TRUSTED_SECONDS + 0.1)
            assert await write(database) != before
        finally:
            await database.dispose()


async def write(database: Database) -> int:
    """The connection of a transaction."""
    async with database.transaction() as session:
        return int((await session.execute(PID)).scalar_one())


class Router:
    """A proxy to PostgreSQL that may forget connections; clients notice when they send again."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)
        self.forgotten: set[asyncio.StreamWriter] = set()
        self.clients: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Router":
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self.parts._replace(netloc=f"{self.parts.username}@127.0.0.1:{port}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for client in self.clients:
            client.transport.abort()

    def forget(self) -> None:
        self.forgotten |= self.clients

    async def carry(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.clients.add(client)
        from_server, server = await asyncio.open_connection(self.parts.hostname, self.parts.port)
        back = asyncio.create_task(self.copy(from_server, client))
        while (data := await reader.read(65536)) and client not in self.forgotten:
            server.write(data)
        client.transport.abort()
        server.transport.abort()
        await back

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


async def end_others(database: Database) -> None:
    """Terminates all other connections to the database."""
    async with database.transaction() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


async def test_a_failed_statement_affects_no_other(database: Database) -> None:
    wrong = select(literal(1, Integer()) / literal(0, Integer()))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await read(database, wrong)
    assert await read(database, select(literal(1))) == [(1,)]


async def test_nothing_is_written(database: Database) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await read(database, select(func.lo_create(0)))


async def test_a_cancelled_read_leaves_no_half_read_answer(database: Database) -> None:
    [(pid,)] = await read(database, PID)
    reading = asyncio.create_task(read(database, select(func.pg_sleep(60))))
    async with database.reading() as session:
        active = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
        while not (await session.execute(active, {"pid": pid})).scalar_one():
            await session.rollback()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await read(database, PID) != [(pid,)]


async def test_a_snapshot_sees_one_state_throughout(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE notes (n integer)"))
    count = select(func.count()).select_from(text("notes"))
    async with database.snapshot() as snapshot:
        before = [tuple(row) for row in await snapshot.fetch(count, {})]
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO notes VALUES (1)"))
        assert [tuple(row) for row in await snapshot.fetch(count, {})] == before == [(0,)]
    assert await read(database, count) == [(1,)]


@contextlib.asynccontextmanager
async def mid_answer(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Leaves the connection in the middle of an answer, so that the driver cannot "switch to" another operation."""
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def take(_data: bytes) -> None:
        reached.set()
        await goes_on.wait()

    query = "SELECT generate_series(1, 100000)"
    copying = asyncio.create_task(connection.copy_from_query(query, output=take))
    await reached.wait()
    try:
        yield
    finally:
        connection.terminate()
        goes_on.set()
        await asyncio.gather(copying, return_exceptions=True)


async def test_a_read_on_a_connection_that_is_mid_answer_is_done_on_another(database: Database) -> None:
    for read_once in (False, True):
        [(before,)] = await read(database, PID)
        async with mid_answer(database.reads._idle[-1]):
            if read_once:
                async with database.snapshot() as snapshot:
                    [[after]] = await snapshot.fetch(PID, {})
            else:
                [(after,)] = await read(database, PID)
        assert after != before
        assert before not in {
            pid for [(pid,)] in await asyncio.gather(*(read(database, PID) for _ in range(9)))
        }


async def test_a_transaction_on_a_connection_that_is_mid_answer_says_that_the_database_is_away(
    database: Database,
) -> None:
    async with database.transaction() as session:
        before = (await session.execute(PID)).scalar_one()
        driver = (await (await session.connection()).get_raw_connection()).driver_connection
    async with mid_answer(driver):
        with pytest.raises(
            (asyncpg.InternalClientError, DBAPIError), match="cannot switch to state"
        ) as raised:
            async with database.transaction() as session:
                await session.execute(PID)
        assert is_database_away(raised.value)
        # The next transaction does not get it.
        async with database.transaction() as session:
            assert (await session.execute(PID)).scalar_one() != before
    assert driver.is_closed()
