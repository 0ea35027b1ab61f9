"""Removal from the log: the data of a deleted customer, and events past retention."""

import asyncio
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlmodel import col

from app.core import clock
from app.core.ids import new_id
from app.db.database import Database
from app.events import log
from app.events.models import EventMeter, EventRecord
from tests.events.appending import append, created, received, records, stream
from tests.support import World


async def test_redaction_reaches_every_event_of_the_customer_and_no_other(world: World) -> None:
    account, other = await world.account(), await world.account()
    customer_id = new_id("cus")
    # More than are read at once.
    await append(world, account.id, *(created(id=customer_id) for _ in range(1100)), created())
    await append(world, other.id, created(id=customer_id))
    async with world.database.transaction() as session:
        await log.redact(session, account.id, customer_id)
    events = await records(world.database, account.id)
    names = [event.data["name"] for event in events[1:]]
    assert names == ["[deleted]"] * 1100 + ["Ada Lovelace"]
    assert {event.data["id"] for event in events[1:-1]} == {customer_id}
    assert (await records(world.database, other.id))[1].data["name"] == "Ada Lovelace"


async def old_events(world: World, account_id: str, old: int, young: int) -> None:
    """Appends `old` events past retention, one of which is the account's first, then `young` events within it."""
    customer_id = new_id("cus")
    await append(world, account_id, *(received(customer_id, new_id("mtr")) for _ in range(old + young - 1)))
    async with world.database.transaction() as session:
        await session.execute(
            update(EventRecord)
            .where(col(EventRecord.account_id) == account_id, col(EventRecord.sequence) <= old)
            .values(occurred_at=clock.now() - timedelta(days=100))
        )


async def trim(world: World, account_id: str, through: int, days: int = 90) -> int:
    async with world.database.transaction() as session:
        return await log.trim(session, account_id, timedelta(days=days), through)


async def kept(world: World, account_id: str) -> tuple[int, int, list[int], int]:
    """Where the log begins and ends, which events are there, and how many of their meters are known."""
    end = await stream(world.database, account_id)
    named = select(func.count()).where(col(EventMeter.account_id) == account_id)
    async with world.database.reading() as session:
        meters = (await session.execute(named)).scalar_one()
    sequences = [event.sequence for event in await records(world.database, account_id)]
    return end.first_sequence, end.last_sequence, sequences, meters


async def test_trimming_removes_a_prefix_of_what_is_old_and_never_past_through(world: World) -> None:
    account, other = await world.account(), await world.account()
    await old_events(world, account.id, old=6, young=3)
    await old_events(world, other.id, old=2, young=0)
    assert await trim(world, account.id, through=0) == 0
    assert await kept(world, account.id) == (1, 9, list(range(1, 10)), 8)
    assert await trim(world, account.id, through=4) == 4
    assert await kept(world, account.id) == (5, 9, [5, 6, 7, 8, 9], 5)
    assert await trim(world, account.id, through=4) == 0
    assert await trim(world, account.id, through=2) == 0
    assert await kept(world, account.id) == (5, 9, [5, 6, 7, 8, 9], 5)
    assert await trim(world, account.id, through=100) == 2
    assert await kept(world, account.id) == (7, 9, [7, 8, 9], 3)
    assert await kept(world, other.id) == (1, 2, [1, 2], 1)


async def test_an_old_event_behind_a_young_one_stays(world: World) -> None:
    """Times of the log do not run backwards; should one do so all the same, no hole is made."""
    account = await world.account()
    await old_events(world, account.id, old=2, young=4)
    async with world.database.transaction() as session:
        await session.execute(
            update(EventRecord)
            .where(col(EventRecord.account_id) == account.id, col(EventRecord.sequence) == 4)
            .values(occurred_at=clock.now() - timedelta(days=100))
        )
    assert await trim(world, account.id, through=6) == 2
    assert await kept(world, account.id) == (3, 6, [3, 4, 5, 6], 4)


async def test_a_log_that_is_all_old_keeps_its_numbers(world: World) -> None:
    account = await world.account()
    await old_events(world, account.id, old=5, young=0)
    assert await trim(world, account.id, through=5) == 5
    assert await kept(world, account.id) == (6, 5, [], 0)
    await append(world, account.id, created())
    assert await kept(world, account.id) == (6, 6, [6], 0)
    assert await trim(world, account.id, through=6) == 0


async def test_trimming_while_others_append_removes_nothing_young(world: World, migrated_url: str) -> None:
    account = await world.account()
    other = Database(migrated_url)
    for _ in range(5):
        start = (await stream(world.database, account.id)).last_sequence
        await append(world, account.id, created(), created())
        async with world.database.transaction() as session:
            await session.execute(
                update(EventRecord)
                .where(col(EventRecord.account_id) == account.id)
                .values(occurred_at=clock.now() - timedelta(days=100))
            )

        async def append_elsewhere() -> None:
            async with other.transaction() as session:
                log.append(session, account.id, created())

        await asyncio.gather(append_elsewhere(), trim(world, account.id, through=2**40))
        first, last, sequences, _ = await kept(world, account.id)
        assert (last, sequences[-1]) == (start + 3, start + 3)
        assert sequences == list(range(first, last + 1))
    await other.dispose()
