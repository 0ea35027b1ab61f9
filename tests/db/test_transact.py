"""Transactions that are one script, and their group commit on SQLite."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.core import failpoints
from app.core.outages import DatabaseAway, is_database_away
from app.db.database import Database
from app.db.group_commit import LONGEST
from app.db.raw_statements import Script
from app.db.scripts import Act, InTransaction, announce, write_before_commit
from app.db.sql import Sql
from tests.db.tables import COUNTERS, NAMES, PARTS, Undone, add_one, counter

pytestmark = pytest.mark.both_databases

ADD = update(COUNTERS).values(value=COUNTERS.c.value + bindparam("by")).returning(COUNTERS.c.value)
NAME = insert(NAMES)
PART = insert(PARTS)


def adding(by: int = 1, name: str | None = None) -> Act[int]:
    """Adds to the counter, announces that, and perhaps inserts a name; gives the new value."""

    def act(transaction: InTransaction) -> Script[int]:
        ((value,),) = yield ADD, {"by": by}
        announce(transaction, [by])
        if name is not None:
            yield NAME, {"name": name, "note": None}
        return int(value)

    return act


def refused(_transaction: InTransaction) -> Script[None]:
    yield ADD, {"by": 100}
    raise Undone


def lingering(by: int = 1) -> Act[int]:
    """Adds to the counter, and takes longer than a group may."""

    def act(transaction: InTransaction) -> Script[int]:
        ends_at = time.monotonic() + LONGEST
        value = yield from adding(by)(transaction)
        while time.monotonic() <= ends_at:
            yield select(COUNTERS.c.value), {}
        return value

    return act


def orphan(transaction: InTransaction) -> Script[None]:
    """A part of no counter, which only the COMMIT refuses."""
    announce(transaction, ["orphan"])
    yield PART, {"id": 1, "counter_id": 404}


@contextmanager
def points() -> Iterator[list[str]]:
    """The failpoints that are reached in this block."""
    reached: list[str] = []
    failpoints.watchers.append(reached.append)
    try:
        yield reached
    finally:
        failpoints.watchers.remove(reached.append)


@asynccontextmanager
async def held(database: Database) -> AsyncIterator[None]:
    """Holds the counter's row, and on SQLite the writer, so that the block's transactions wait together."""
    async with database.transaction() as session:
        await session.execute(select(COUNTERS).with_for_update())
        yield


async def together(database: Database, *acts: Act[Any]) -> list[Any]:
    """The values or errors of transactions that wait for the writer at once."""
    async with held(database):
        waiting = [asyncio.create_task(database.transact(act)) for act in acts]
        for _ in range(5):
            await asyncio.sleep(0)
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_transaction_gives_its_value_and_announces_once_committed(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.append)
    assert await database.transact(adding(5)) == 5
    assert (told, await counter(database)) == ([[5]], 5)


async def test_a_script_that_fails_changes_and_announces_nothing(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.append)

    def late(transaction: InTransaction) -> Script[int]:
        write_before_commit(transaction, refused)
        return (yield from adding(1)(transaction))

    for _ in range(3):
        with pytest.raises(Undone):
            await database.transact(late)
        with pytest.raises(IntegrityError):
            await database.transact(lambda _: iter_names("a", "a"))
        with pytest.raises(DBAPIError):
            await database.transact(lambda _: broken())
    assert (told, await counter(database)) == ([], 0)
    assert await database.transact(adding(1)) == 1


def iter_names(*names: str) -> Script[None]:
    yield NAME, [{"name": name, "note": None} for name in names]


def broken() -> Script[None]:
    yield text("SELECT * FROM nowhere"), {}


async def test_scripts_run_before_the_commit_in_their_order_and_once_each(database: Database) -> None:
    ran: list[str] = []

    def first(_transaction: InTransaction) -> Script[None]:
        ran.append("first")
        write_before_commit(_transaction, second)
        yield ADD, {"by": 1}

    def second(_transaction: InTransaction) -> Script[None]:
        ran.append("second")
        yield ADD, {"by": 1}

    def act(transaction: InTransaction) -> Script[None]:
        write_before_commit(transaction, first)
        write_before_commit(transaction, first)
        assert ran == []
        yield ADD, {"by": 1}

    await database.transact(act)
    assert (ran, await counter(database)) == (["first", "second"], 3)
    async with database.transaction() as session:
        write_before_commit(session, first)
    assert (ran, await counter(database)) == (["first", "second"] * 2, 5)


async def test_a_statement_of_both_dialects_is_that_of_the_database(database: Database) -> None:
    statement = Sql("SELECT name FROM @rows(name text) ORDER BY name")

    def act(_transaction: InTransaction) -> Script[list[str]]:
        return [name for (name,) in (yield statement, {"rows": '[{"name": "b"}, {"name": "a"}]'})]

    assert await database.transact(act) == ["a", "b"]


async def test_one_bad_writer_harms_no_other(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)
    values = await together(database, adding(1, "x"), refused, adding(2, "x"), adding(4, "y"))
    assert isinstance(values[1], Undone)
    # On PostgreSQL either of the two may be first.
    (twice,) = (one for one in values if isinstance(one, IntegrityError))
    kept = [by for by, value in zip((1, 0, 2, 4), values, strict=True) if isinstance(value, int)]
    assert (len(kept), twice in values[::2]) == (2, True)
    assert (sorted(told), await counter(database)) == (kept, sum(kept))


async def test_writers_that_wait_together_are_committed_together_on_sqlite(database: Database) -> None:
    with points() as reached:
        values = await together(database, *(adding() for _ in range(6)))
    assert sorted(values) == [1, 2, 3, 4, 5, 6]
    # One is that of the transaction that held them.
    commits = 2 if database.is_sqlite else 7
    assert [reached.count(f"transaction.{one}") for one in ("before_commit", "committed")] == [commits] * 2


async def test_a_writer_that_takes_long_ends_its_group(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)
    with points() as reached:
        acts = (adding(1), lingering(2), adding(4), refused, adding(8), lingering(16), adding(32))
        values = await together(database, *acts)
    assert isinstance(values.pop(3), Undone)
    if database.is_sqlite:
        # In the order of arrival, and none without its place: the groups are 1-2, 4-16 and 32.
        assert (values, told) == ([1, 3, 7, 15, 31, 63], [1, 2, 4, 8, 16, 32])
        assert reached.count("transaction.committed") == 1 + 3
    assert (max(values), sorted(told)) == (63, [1, 2, 4, 8, 16, 32])


async def test_a_session_has_its_turn_between_groups(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)

    async def write() -> None:
        async with database.transaction() as transaction:
            announce(transaction, ["session"])
            await transaction.execute(update(COUNTERS).values(value=COUNTERS.c.value + 1))

    async with held(database):
        waiting = [asyncio.create_task(database.transact(act)) for act in (lingering(2), adding(4))]
        for _ in range(5):
            await asyncio.sleep(0)
        session = asyncio.create_task(write())
        for _ in range(5):
            await asyncio.sleep(0)
    await asyncio.gather(session, *waiting)
    if database.is_sqlite:
        assert told == [2, "session", 4]
    assert await counter(database) == 7


async def test_closing_ends_the_present_writer_and_begins_no_other(
    database_url: str, database: Database
) -> None:
    if not database.is_sqlite:
        pytest.skip("each transaction has its own connection")
    told: list[Any] = []
    database.on_commit(told.extend)
    begun, may_end = threading.Event(), threading.Event()

    def present(transaction: InTransaction) -> Script[int]:
        value = yield from lingering(1)(transaction)
        begun.set()
        may_end.wait()
        return value

    async with held(database):
        kept, *others = (
            asyncio.create_task(database.transact(act)) for act in (present, adding(2), adding(4))
        )
        for _ in range(5):
            await asyncio.sleep(0)
    await asyncio.to_thread(begun.wait)
    others.append(asyncio.create_task(database.transact(adding(8))))
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.dispose())
    await asyncio.wait(others[-1:])
    others.append(asyncio.create_task(database.transact(adding(16))))
    may_end.set()
    await closing
    assert await kept == 1
    errors = await asyncio.gather(*others, return_exceptions=True)
    assert [type(error) for error in errors] == [DatabaseAway] * 4
    again = Database(database_url)
    assert (told, await counter(again)) == ([1], 1)
    await again.dispose()


async def test_writers_that_all_fail_commit_nothing(database: Database) -> None:
    with points() as reached:
        values = await together(database, refused, refused)
    assert [type(value) for value in values] == [Undone, Undone]
    assert reached.count("transaction.before_commit") == 1


async def test_a_commit_that_fails_announces_nothing(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            await database.transact(orphan)
    assert told == []
    assert await database.transact(adding(1)) == 1


async def test_a_group_whose_commit_fails_fails_whole(tmp_path: Path, database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)
    values = await together(database, adding(1), refused, orphan, adding(2))
    assert isinstance(values[1], Undone)
    if database.is_sqlite:
        assert [type(values[one]) for one in (0, 2, 3)] == [IntegrityError] * 3
        assert (told, await counter(database)) == ([], 0)
    else:
        assert isinstance(values[2], IntegrityError)
        assert (sorted(told), await counter(database)) == ([1, 2], 3)
    before = await counter(database)
    assert await database.transact(adding(1)) == before + 1


async def test_a_writer_for_whom_the_disk_is_full_harms_no_other(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'voltwire.db'}")
    told: list[Any] = []
    database.on_commit(told.extend)
    async with database.transaction() as session:
        await (await session.connection()).run_sync(COUNTERS.metadata.create_all)
        await session.execute(insert(COUNTERS).values(id=1, value=0))
    async with database.transaction() as session:
        pages = (await session.execute(text("PRAGMA page_count"))).scalar_one()
        await session.execute(text(f"PRAGMA max_page_count={pages + 2}"))

    def large(transaction: InTransaction) -> Script[None]:
        announce(transaction, ["large"])
        yield NAME, {"name": "large", "note": "x" * 100_000}

    before, full, after = await together(database, adding(1), large, adding(2))
    assert (sorted((before, after)), sorted(told), await counter(database)) == ([1, 3], [1, 2], 3)
    assert isinstance(full, OperationalError)
    assert is_database_away(full)
    await add_one(database)
    assert await database.transact(adding(1)) == 5
    await database.dispose()


async def test_a_waiting_writer_that_is_cancelled_writes_nothing(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)
    async with held(database):
        gone, stays = (asyncio.create_task(database.transact(adding(by))) for by in (10, 1))
        for _ in range(5):
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
    assert await stays == 1
    assert (told, await counter(database)) == ([1], 1)


async def test_cancelled_writers_leave_whole_transactions_and_a_usable_database(database: Database) -> None:
    told: list[Any] = []
    database.on_commit(told.extend)

    def both(transaction: InTransaction) -> Script[None]:
        yield ADD, {"by": 1}
        announce(transaction, [1])
        yield ADD, {"by": 1}

    for turn in range(60):
        writers = [asyncio.create_task(database.transact(both)) for _ in range(3)]
        for _ in range(turn % 20):
            await asyncio.sleep(0)
        await asyncio.sleep(turn // 20 / 2000)
        writers[turn % 3].cancel()
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in outcomes)
    value = await counter(database)
    assert value % 2 == 0
    assert value >= 60 * 2 * 2
    if database.is_sqlite:
        # A transaction that was kept is announced, even if its caller has gone.
        assert 2 * len(told) == value
    await add_one(database)


async def test_sessions_and_scripts_lose_no_update_among_each_other(
    database_url: str, database: Database
) -> None:
    other = Database(database_url)
    await asyncio.gather(
        *(add_one(one) for one in (database, other) for _ in range(30)),
        *(one.transact(adding()) for one in (database, other) for _ in range(60)),
    )
    assert await counter(database) == 180
    await other.dispose()
