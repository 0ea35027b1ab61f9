"""Transactions, types and clocks of the database, alike on SQLite and PostgreSQL."""

import asyncio
import sqlite3
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Executable,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.outages import may_pass
from app.customers.models import Customer
from app.db.database import (
    Database,
    Text,
    UtcDateTime,
    announce,
    before_commit,
    carry_out,
    database_now,
    seconds_from_now,
)
from app.db.raw_statements import Script
from app.db.sqlite import READER_PAGES, WRITER_PAGES
from tests.delivery.outages import away
from tests.support import World

pytestmark = pytest.mark.both_databases

METADATA = MetaData()
COUNTERS = Table("counters", METADATA, Column("id", Integer, primary_key=True), Column("value", Integer))
PARTS = Table(
    "parts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("counter_id", ForeignKey("counters.id", deferrable=True, initially="DEFERRED")),
)
INSTANTS = Table("instants", METADATA, Column("id", Integer, primary_key=True), Column("at", UtcDateTime))
NAMES = Table("names", METADATA, Column("name", Text, primary_key=True), Column("note", String))

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


class Undone(Exception):
    """Ends a transaction that a test does not want."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    async with opened.transaction() as session:
        await (await session.connection()).run_sync(METADATA.create_all)
        await session.execute(insert(COUNTERS).values(id=1, value=0))
    yield opened
    await opened.dispose()


async def counter(database: Database) -> int:
    async with database.reading() as session:
        value: int = (await session.execute(select(COUNTERS.c.value))).scalar_one()
        return value


async def add_one(database: Database) -> None:
    """A read, a wait, and a write of what was read and one more."""
    async with database.transaction() as session:
        value = (await session.execute(select(COUNTERS.c.value).with_for_update())).scalar_one()
        await asyncio.sleep(0)
        await session.execute(update(COUNTERS).values(value=value + 1))


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


async def test_what_is_announced_is_told_once_and_only_after_the_commit(
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
    """Whatever moment the cancellation meets, COMMIT included: all of a transaction or nothing."""
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


MOMENTS = [
    datetime(1900, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 3, 31, 1, 0, 0, 1_000, UTC),
    datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC),
]


async def stored(database: Database, value: datetime | None) -> Any:
    async with database.transaction() as session:
        await session.execute(insert(INSTANTS).values(at=value))
    async with database.reading() as session:
        newest = select(INSTANTS.c.at).order_by(INSTANTS.c.id.desc()).limit(1)
        return (await session.execute(newest)).scalar_one()


async def test_instants_come_back_as_they_were(database: Database) -> None:
    for moment in MOMENTS:
        back = await stored(database, moment)
        assert back == moment
        assert back.tzinfo is UTC
    assert await stored(database, None) is None
    async with database.reading() as session:
        ordered = select(INSTANTS.c.at).where(INSTANTS.c.at.is_not(None)).order_by(INSTANTS.c.at)
        assert list((await session.execute(ordered)).scalars()) == MOMENTS
        exact = select(INSTANTS.c.id).where(INSTANTS.c.at == MOMENTS[4])
        assert (await session.execute(exact)).scalar_one() == 5


async def test_instants_lose_what_is_below_a_millisecond_and_become_utc(database: Database) -> None:
    late = datetime(2026, 11, 24, 22, 29, 55, 123_999, UTC)
    assert await stored(database, late) == late.replace(microsecond=123_000)
    early = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    assert await stored(database, early) == early.replace(microsecond=999_000)
    there = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    back = await stored(database, there)
    assert (back, back.tzinfo) == (there, UTC)


async def test_a_naive_instant_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="Only aware datetimes are stored"):
        await stored(database, datetime(2026, 11, 24))  # noqa: DTZ001 - the mistake that is refused


async def test_the_databases_clock_is_this_machines_and_moves_within_a_transaction(
    database: Database,
) -> None:
    async with database.transaction() as session:
        before = clock.now()
        first = (await session.execute(select(database_now()))).scalar_one()
        after = clock.now()
        # SQLite rounds to the millisecond, our clock cuts off.
        assert before <= first <= after + timedelta(milliseconds=1)
        assert first.microsecond % 1000 == 0
        await asyncio.sleep(0.005)
        assert (await session.execute(select(database_now()))).scalar_one() > first


@pytest.mark.parametrize("seconds", [0, 0.25, 90, 1_000_000.5, -3600])
async def test_seconds_from_now(database: Database, seconds: float) -> None:
    statement = select(database_now(), seconds_from_now(seconds), database_now())
    async with database.transaction() as session:
        before, later, after = (await session.execute(statement)).one()
        await session.execute(insert(INSTANTS).values(at=seconds_from_now(seconds)))
    delta = timedelta(seconds=seconds)
    assert before + delta <= later <= after + delta + timedelta(milliseconds=1)
    async with database.reading() as session:
        kept = (await session.execute(select(INSTANTS.c.at))).scalar_one()
    assert later <= kept <= later + timedelta(minutes=1)


async def test_texts_sort_by_byte(database: Database) -> None:
    names = ["B", "a", "Z", "z", "_", "é", "ab", "a b", "A"]
    async with database.transaction() as session:
        await session.execute(insert(NAMES), [{"name": name} for name in names])
    async with database.reading() as session:
        ordered = list((await session.execute(select(NAMES.c.name).order_by(NAMES.c.name))).scalars())
    assert ordered == sorted(names, key=str.encode)


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


NEW = insert(INSTANTS).returning(INSTANTS.c.id, INSTANTS.c.at)


def counting(by: int, ids: list[int]) -> Script[tuple[int, list[datetime]]]:
    """Move the counter on, and note instants: what it is now, and the instants as the database has them."""
    ((value,),) = yield (
        update(COUNTERS).values(value=COUNTERS.c.value + bindparam("by")).returning(COUNTERS.c.value),
        {"by": by},
    )
    at = datetime(2026, 11, 25, 12, tzinfo=UTC)
    rows = yield NEW, [{"id": one, "at": at + timedelta(hours=one)} for one in ids]
    nothing = yield NEW, []
    assert list(nothing) == []
    return value, sorted(at for _, at in rows)


async def test_a_script_is_part_of_its_transaction(database: Database) -> None:
    async with database.transaction() as session:
        value, instants = await carry_out(session, counting(5, [1, 2]))
    assert (value, await counter(database)) == (5, 5)
    assert instants == [datetime(2026, 11, 25, hour, tzinfo=UTC) for hour in (13, 14)]

    async def act() -> None:
        async with database.transaction() as session:
            await session.execute(update(COUNTERS).values(value=COUNTERS.c.value + 1))
            assert await carry_out(session, counting(1, [])) == (7, [])
            raise Undone

    with pytest.raises(Undone):
        await act()
    assert await counter(database) == 5


async def test_a_script_that_fails_raises_what_a_statement_would(database: Database) -> None:
    with pytest.raises(IntegrityError) as raised:
        async with database.transaction() as session:
            await carry_out(session, counting(1, [1, 1]))
    assert raised.value.orig is not None
    assert await counter(database) == 0

    def broken() -> Script[None]:
        yield select(COUNTERS.c.value), {}
        raise Undone

    with pytest.raises(Undone):
        async with database.transaction() as session:
            await carry_out(session, broken())
    # The connection is as good as new.
    async with database.transaction() as session:
        assert await carry_out(session, counting(1, [1])) == (1, [datetime(2026, 11, 25, 13, tzinfo=UTC)])


async def test_a_script_that_is_cancelled_is_undone(database: Database) -> None:
    began = threading.Event()

    def slow() -> Script[None]:
        yield update(COUNTERS).values(value=COUNTERS.c.value + 1), {}
        began.set()
        yield update(COUNTERS).values(value=COUNTERS.c.value + 1), {}

    async def act() -> None:
        async with database.transaction() as session:
            await carry_out(session, slow())
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as session:
        assert await carry_out(session, counting(1, [])) == (1, [])


async def test_a_script_sees_what_the_session_holds(world: World) -> None:
    def names() -> Script[list[str]]:
        rows = yield select(Customer.name), {}
        return [name for (name,) in rows]

    account = await world.account()
    async with world.database.transaction() as session:
        customer = Customer(account_id=account.id, name="Ada", email="ada@example.com")
        session.add(customer)
        assert await carry_out(session, names()) == ["Ada"]
        customer.name = "Bob"
        assert await carry_out(session, names()) == ["Bob"]


def test_what_is_new_was_created_and_updated_at_one_moment() -> None:
    for _ in range(5000):
        made = Customer(account_id="acc_1", name="Ada", email="ada@example.com")
        assert made.created_at == made.updated_at
    at, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    known = Customer(account_id="acc_1", name="Ada", email="a@example.com", created_at=at, updated_at=later)
    assert (known.created_at, known.updated_at) == (at, later)


async def fails(attempt: Awaitable[Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        await attempt
    return caught.value


async def test_what_a_database_refuses_does_not_pass_and_an_outage_does(
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
    assert [may_pass(await fails(one)) for one in refused] == [False] * len(refused)
    nowhere = text("SELECT * FROM nowhere")
    passing = [await fails(write(nowhere)), await fails(database.read(nowhere, {}))]
    if not database.is_sqlite:
        async with away(database_url):
            passing += [await fails(write(select(1))), await fails(database.read(select(1), {}))]
    assert [may_pass(one) for one in passing] == [True] * len(passing)
    assert [may_pass(one) for one in (ConnectionResetError(), ssl.SSLCertVerificationError())] == [True] * 2
    assert [may_pass(one) for one in (KeyError("body"), TypeError())] == [False] * 2
