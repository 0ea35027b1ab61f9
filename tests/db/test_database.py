"""Transactions and reading sessions, alike on SQLite and PostgreSQL."""

import asyncio
import sqlite3
import ssl
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Executable,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.outages import is_transient
from app.db.database import Database, before_commit
from app.db.scripts import announce
from app.db.sqlite import READER_PAGES, WRITER_PAGES
from tests.db.tables import COUNTERS, INSTANTS, METADATA, PARTS, Undone, add_one, counter
from tests.delivery.outages import away

pytestmark = pytest.mark.both_databases

WRITER = """
import asyncio, sys
from sqlalchemy import text
from app.db.database import Database

async def main(url, count):
    database = Database(url)
    for _ in range(count):
        async with database.transaction() as session:
            lock = "" if database.is_sqlite else " FOR UPDATE"
            value = (await session.execute(text("SELECT value FROM counters WHERE id = 1" + lock))).scalar_one()
            await session.execute(text("UPDATE counters SET value = :value WHERE id = 1"), {"value": value + 1})
    await database.dispose()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_no_update_is_lost_among_concurrent_ones(database_url: str, database: Database) -> None:
    others = [Database(database_url) for _ in range(3)]
    await asyncio.gather(*(add_one(one) for one in [database, *others] for _ in range(80)))
    assert await counter(database) == 320
    for other in others:
        await other.dispose()


async def test_no_update_is_lost_among_processes(database_url: str, database: Database) -> None:
    command = (sys.executable, "-W", "ignore", "-c", WRITER, database_url, "60")
    processes = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    for _ in range(40):
        await add_one(database)
    assert [await process.wait() for process in processes] == [0, 0]
    assert await counter(database) == 160


async def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    ran, told = [], []
    database.on_commit(told.append)

    async def hook(session: AsyncSession) -> None:
        ran.append("hook")

    async def act() -> None:
        async with database.transaction() as session:
            before_commit(session, hook)
            announce(session, ["it"])
            await session.execute(update(COUNTERS).values(value=7))
            raise Undone

    with pytest.raises(Undone):
        await act()
    assert (ran, told, await counter(database)) == ([], [], 0)


async def test_a_hook_that_fails_takes_the_transaction_with_it(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.append)

    async def write(session: AsyncSession) -> None:
        await session.execute(update(COUNTERS).values(value=8))

    async def fail(session: AsyncSession) -> None:
        raise Undone

    async def act() -> None:
        async with database.transaction() as session:
            before_commit(session, write)
            before_commit(session, fail)
            announce(session, ["it"])

    with pytest.raises(Undone):
        await act()
    assert (told, await counter(database)) == ([], 0)


async def test_a_commit_that_fails_announces_nothing(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.append)

    async def act() -> None:
        async with database.transaction() as session:
            await session.execute(update(COUNTERS).values(value=9))
            # Looked at by COMMIT only.
            await session.execute(insert(PARTS).values(id=1, counter_id=404))
            announce(session, ["it"])

    for _ in range(3):
        with pytest.raises(IntegrityError):
            await act()
    assert (told, await counter(database)) == ([], 0)
    await add_one(database)
    assert await counter(database) == 1


async def test_hooks_run_once_each_in_their_order_and_may_leave_others(database: Database) -> None:
    ran = []

    async def second(session: AsyncSession) -> None:
        ran.append("second")

    async def first(session: AsyncSession) -> None:
        ran.append("first")
        before_commit(session, second)

    async with database.transaction() as session:
        before_commit(session, first)
        before_commit(session, first)
        assert ran == []
    assert ran == ["first", "second"]


async def test_listeners_get_announced_items_once_and_only_after_the_commit(
    database_url: str, database: Database
) -> None:
    other = Database(database_url)
    told: list[list[Any]] = []
    database.on_commit(lambda items: told.append(list(items)))
    async with database.transaction() as session:
        await session.execute(update(COUNTERS).values(value=5))
        announce(session, ["a"])
        announce(session, ["b", "c"])
        await session.flush()
        assert told == []
        assert await counter(other) == 0
    assert told == [["a", "b", "c"]]
    assert await counter(other) == 5
    await add_one(database)
    assert told == [["a", "b", "c"]]
    await other.dispose()


async def test_a_listener_that_fails_undoes_no_commit_and_silences_no_other(database: Database) -> None:
    told: list[Any] = []

    def fail(_items: object) -> None:
        raise Undone

    database.on_commit(fail)
    database.on_commit(told.extend)
    async with database.transaction() as session:
        await session.execute(update(COUNTERS).values(value=6))
        announce(session, ["it"])
    assert (told, await counter(database)) == (["it"], 6)


async def test_cancelled_writers_leave_the_database_usable(database: Database) -> None:
    """A transaction is kept whole or not at all at any moment of its cancellation, COMMIT included."""
    for turn in range(120):
        writer = asyncio.create_task(add_one(database))
        for _ in range(turn % 20):
            await asyncio.sleep(0)
        await asyncio.sleep(turn // 20 / 2000)
        writer.cancel()
        (outcome,) = await asyncio.gather(writer, return_exceptions=True)
        # Not "database is locked", which a transaction left open would cause.
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    before = await counter(database)
    await asyncio.gather(*(add_one(database) for _ in range(20)))
    assert await counter(database) == before + 20


async def test_a_reading_session_sees_one_state_and_writes_nothing(database: Database) -> None:
    async with database.reading() as session:
        assert (await session.execute(select(COUNTERS.c.value))).scalar_one() == 0
        await add_one(database)
        assert (await session.execute(select(COUNTERS.c.value))).scalar_one() == 0
    async with database.reading() as session:
        assert (await session.execute(select(COUNTERS.c.value))).scalar_one() == 1

    async def act() -> None:
        async with database.reading() as session:
            await session.execute(update(COUNTERS).values(value=0))
            await session.commit()

    with pytest.raises(DBAPIError):
        await act()
    assert await counter(database) == 1


async def test_sqlite_is_set_up_to_keep_what_it_commits(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new' / 'folder' / 'voltwire.db'}")
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    for session_of in (database.transaction, database.reading):
        async with session_of() as session:
            found = {name: (await session.execute(text(f"PRAGMA {name}"))).scalar_one() for name in wanted}
        assert found == wanted
    await database.dispose()


async def test_each_sqlite_connection_keeps_so_many_bytes_of_the_database(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'voltwire.db'}")
    asked = text("SELECT cache_size FROM pragma_cache_size")
    async with database.transaction() as session:
        assert (await session.execute(asked)).scalar_one() == -(WRITER_PAGES // 1024)
    async with database.reading() as session:
        assert (await session.execute(asked)).scalar_one() == -(READER_PAGES // 1024)
    assert await database.read(asked, {}) == [(-(READER_PAGES // 1024),)]
    await database.dispose()


async def test_a_sqlite_writer_waits_for_another_program(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'voltwire.db'}")
    async with database.transaction() as session:
        await (await session.connection()).run_sync(METADATA.create_all)
        await session.execute(insert(COUNTERS).values(id=1, value=0))
    other = sqlite3.connect(tmp_path / "voltwire.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE counters SET value = value + 1")
    waiting = asyncio.create_task(add_one(database))
    assert await counter(database) == 0
    assert not waiting.done()
    other.execute("COMMIT")
    await waiting
    assert await counter(database) == 2
    other.close()
    await database.dispose()


async def test_postgresql_urls_may_carry_what_libpq_knows(postgres_url: str) -> None:
    database = Database(f"{postgres_url}?sslmode=prefer&application_name=meters")
    async with database.reading() as session:
        name = (await session.execute(text("SELECT current_setting('application_name')"))).scalar_one()
    assert name == "meters"
    await database.dispose()


async def fails(attempt: Awaitable[Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        await attempt
    return caught.value


async def test_an_outage_is_transient_and_a_refused_value_is_not(
    database: Database, database_url: str
) -> None:
    async def write(statement: Executable) -> None:
        async with database.transaction() as session:
            await session.execute(statement)

    refused = [
        write(insert(COUNTERS).values(id=1, value=0)),
        write(insert(INSTANTS).values(id=1, at=clock.now().replace(tzinfo=None))),
    ]
    if not database.is_sqlite:
        refused += [
            write(text('SELECT CAST(\'{"a": "\\u0000"}\' AS jsonb)')),
            write(text("SELECT CAST(40000000000 AS integer)")),
            database.read(text("SELECT CAST(40000000000 AS integer)"), {}),
        ]
    assert [is_transient(await fails(one)) for one in refused] == [False] * len(refused)
    nowhere = text("SELECT * FROM nowhere")
    passing = [await fails(write(nowhere)), await fails(database.read(nowhere, {}))]
    if not database.is_sqlite:
        async with away(database_url):
            passing += [await fails(write(select(1))), await fails(database.read(select(1), {}))]
    assert [is_transient(one) for one in passing] == [True] * len(passing)
    assert [is_transient(one) for one in (ConnectionResetError(), ssl.SSLCertVerificationError())] == [
        True
    ] * 2
    assert [is_transient(one) for one in (KeyError("body"), TypeError())] == [False] * 2
