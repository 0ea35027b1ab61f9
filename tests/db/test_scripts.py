"""Scripts within transactions, alike on SQLite and PostgreSQL."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import (
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from app.customers.models import Customer
from app.db.database import Database, run_script
from app.db.raw_statements import Script
from tests.db.tables import COUNTERS, INSTANTS, Undone, counter
from tests.support import World

pytestmark = pytest.mark.both_databases

NEW = insert(INSTANTS).returning(INSTANTS.c.id, INSTANTS.c.at)


def counting(by: int, ids: list[int]) -> Script[tuple[int, list[datetime]]]:
    """Increments the counter and stores instants; gives the new value and the stored instants."""
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
        value, instants = await run_script(session, counting(5, [1, 2]))
    assert (value, await counter(database)) == (5, 5)
    assert instants == [datetime(2026, 11, 25, hour, tzinfo=UTC) for hour in (13, 14)]

    async def act() -> None:
        async with database.transaction() as session:
            await session.execute(update(COUNTERS).values(value=COUNTERS.c.value + 1))
            assert await run_script(session, counting(1, [])) == (7, [])
            raise Undone

    with pytest.raises(Undone):
        await act()
    assert await counter(database) == 5


async def test_a_failed_script_raises_the_error_of_its_statement(database: Database) -> None:
    with pytest.raises(IntegrityError) as raised:
        async with database.transaction() as session:
            await run_script(session, counting(1, [1, 1]))
    assert raised.value.orig is not None
    assert await counter(database) == 0

    def broken() -> Script[None]:
        yield select(COUNTERS.c.value), {}
        raise Undone

    with pytest.raises(Undone):
        async with database.transaction() as session:
            await run_script(session, broken())
    # The connection stays usable.
    async with database.transaction() as session:
        assert await run_script(session, counting(1, [1])) == (1, [datetime(2026, 11, 25, 13, tzinfo=UTC)])


async def test_a_cancelled_script_is_rolled_back(database: Database) -> None:
    began = threading.Event()

    def slow() -> Script[None]:
        yield update(COUNTERS).values(value=COUNTERS.c.value + 1), {}
        began.set()
        yield update(COUNTERS).values(value=COUNTERS.c.value + 1), {}

    async def act() -> None:
        async with database.transaction() as session:
            await run_script(session, slow())
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as session:
        assert await run_script(session, counting(1, [])) == (1, [])


async def test_a_script_sees_the_changes_of_its_session(world: World) -> None:
    def names() -> Script[list[str]]:
        rows = yield select(Customer.name), {}
        return [name for (name,) in rows]

    account = await world.account()
    async with world.database.transaction() as session:
        customer = Customer(account_id=account.id, name="Ada", email="ada@example.com")
        session.add(customer)
        assert await run_script(session, names()) == ["Ada"]
        customer.name = "Bob"
        assert await run_script(session, names()) == ["Bob"]
