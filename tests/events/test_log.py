"""The event log: gapless, in commit order, and there exactly when its change is there."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.accounts.models import Account
from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.ids import new_id
from app.customers.models import Customer
from app.db.database import Database, run_script
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.db.sql import Sql
from app.events import log
from app.events.catalogue import event_names
from app.events.log import Appended
from app.events.models import EventRecord, Stream
from app.events.record_filter import RecordFilter
from tests.events.appending import append, created, received, records, stream
from tests.events.writing import Outcome, Undone, write, write_elsewhere
from tests.support import World

pytestmark = pytest.mark.both_databases


class Follower:
    """Reads accounts' logs while they grow, and sees no number before the one that precedes it."""

    def __init__(self, url: str, account_ids: Sequence[str]) -> None:
        self._database = Database(url)
        self._account_ids = account_ids
        self._events: dict[str, list[EventRecord]] = {account_id: [] for account_id in account_ids}
        self._ending = asyncio.Event()
        self.polls = 0

    async def follow(self) -> dict[str, list[EventRecord]]:
        """All that was read, once `end` was called and nothing was left."""
        while True:
            last_look = self._ending.is_set()
            for account_id in self._account_ids:
                await self._poll(account_id)
            self.polls += 1
            if last_look:
                await self._database.dispose()
                return self._events

    def end(self) -> None:
        self._ending.set()

    async def _poll(self, account_id: str) -> None:
        seen = self._events[account_id]
        after = seen[-1].sequence if seen else 0
        statement = (
            select(EventRecord)
            .where(col(EventRecord.account_id) == account_id, col(EventRecord.sequence) > after)
            .order_by(col(EventRecord.sequence))
        )
        async with self._database.reading() as session:
            new = list((await session.execute(statement)).scalars())
            end = (await log.stream(session, account_id)).last_sequence
        # Both were read from one state: the counter is where the events end.
        assert [event.sequence for event in new] == list(range(after + 1, end + 1))
        times = [event.occurred_at for event in [*seen[-1:], *new]]
        assert times == sorted(times)
        seen.extend(new)


@pytest.mark.long(keep=3, of="turn")
@pytest.mark.parametrize("turn", range(30))
async def test_writers_at_once_leave_whole_numbers_in_commit_order(
    world: World, migrated_url: str, turn: int, seed: str
) -> None:
    """Tasks over several database objects and processes, with every way of ending badly, while others read."""
    accounts = [(await world.account()).id for _ in range(4)]
    begun = {account_id: await records(world.database, account_id) for account_id in accounts}
    others = [Database(migrated_url) for _ in range(2)]
    followers = [Follower(migrated_url, accounts) for _ in range(2)]
    following = [asyncio.create_task(one.follow()) for one in followers]
    outcome = Outcome()
    for one in await asyncio.gather(
        *(write(database, accounts, f"{seed}.{n}", 6, 10) for n, database in enumerate(others)),
        *(write_elsewhere(migrated_url, accounts, f"{seed}.p{n}", 3, 15) for n in range(2)),
    ):
        outcome.add(one)
    for follower in followers:
        follower.end()
    seen = await asyncio.gather(*following)
    for other in others:
        await other.dispose()

    async with world.database.reading() as session:
        rows = {row.id: row for row in (await session.execute(select(Customer))).scalars()}
    logs = {account_id: await records(world.database, account_id) for account_id in accounts}
    for one in seen:
        assert one == logs
    # What was answered is there, what was rolled back is not, what was cancelled is there whole or not at all.
    assert set(outcome.committed) <= rows.keys() <= {*outcome.committed, *outcome.unknown}
    assert not rows.keys() & set(outcome.undone)
    assert len(outcome.committed) > 200
    assert len(outcome.undone) > 20
    assert len(outcome.unknown) > 5
    for account_id, events in logs.items():
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        new = events[len(begun[account_id]) :]
        # An event exists when, and only when, its change does.
        assert Counter(event.subject_id for event in new) == Counter(
            row.id for row in rows.values() if row.account_id == account_id
        )
        assert_transactions_are_whole(new)
    assert len({event.id for events in logs.values() for event in events}) == sum(map(len, logs.values()))


def assert_transactions_are_whole(events: Sequence[EventRecord]) -> None:
    """Each transaction's events stand together, in the order they were appended."""
    by_transaction: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        labels = event.data["metadata"]
        by_transaction[labels["transaction"]].append((event.sequence, int(labels["place"])))
    for places in by_transaction.values():
        first = places[0][0]
        assert [sequence for sequence, _ in places] == list(range(first, first + len(places)))
        assert [place for _, place in places] == sorted(place for _, place in places)
    times = defaultdict(set)
    for event in events:
        times[event.data["metadata"]["transaction"]].add(event.occurred_at)
    assert all(len(one) == 1 for one in times.values())


async def test_what_is_appended_is_recorded_as_it_was_and_announced(world: World) -> None:
    account = await world.account()
    told: list[Appended] = []
    world.database.on_commit(lambda items: told.extend(one for one in items if isinstance(one, Appended)))
    meter_ids = [new_id("mtr"), new_id("mtr")]
    customer = created()
    before = clock.now()
    await append(world, account.id, customer, *(received(customer.id, one) for one in meter_ids))
    after = clock.now()

    events = await records(world.database, account.id)
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert [event.type for event in events[1:]] == ["customer.created"] + ["meter_data.received"] * 2
    assert [event.subject_id for event in events[1:]] == [customer.id, *meter_ids]
    assert {event.customer_id for event in events[1:]} == {customer.id}
    assert events[1].data == customer.data()
    assert all(before <= event.occurred_at <= after + timedelta(milliseconds=1) for event in events[1:])
    assert [one.record for one in told] == events[1:]
    assert [one.meter_ids for one in told] == [(), (meter_ids[0],), (meter_ids[1],)]
    end = await stream(world.database, account.id)
    assert (end.first_sequence, end.last_sequence, end.last_occurred_at) == (1, 4, events[-1].occurred_at)
    async with world.database.reading() as session:
        named = await log.meters_named(session, account.id, [1, 2, 3, 4])
    assert named == {1: [], 2: [], 3: [meter_ids[0]], 4: [meter_ids[1]]}


@pytest.mark.parametrize("with_events", [True, False])
async def test_what_is_written_along_is_there_with_the_events(world: World, with_events: bool) -> None:
    ids = [(await world.account()).id for _ in range(2)]
    rename = Sql("UPDATE accounts SET name = :name WHERE id = :id")
    show = Sql("UPDATE accounts SET logo_url = :name WHERE id = :id")

    def act(transaction: InTransaction) -> Script[None]:
        for account_id in ids:
            yield from log.write_along(transaction, (rename, {"id": account_id, "name": f"of {account_id}"}))
            if with_events:
                log.append(transaction, account_id, created())

    def fail(transaction: InTransaction) -> Script[None]:
        yield from log.write_along(transaction, (rename, {"id": ids[0], "name": "never"}))
        raise Undone

    await world.database.transact(act)
    async with world.database.transaction() as session:
        for account_id in ids:
            await run_script(session, log.write_along(session, (show, {"id": account_id, "name": "seen"})))
        if with_events:
            log.append(session, ids[1], created())
    with pytest.raises(Undone):
        await world.database.transact(fail)
    for account_id in ids:
        async with world.database.reading() as session:
            account = await session.get_one(Account, account_id)
        assert (account.name, account.logo_url) == (f"of {account_id}", "seen")
    counts = [len(await records(world.database, account_id)) for account_id in ids]
    assert counts == ([2, 3] if with_events else [1, 1])


async def test_a_rolled_back_event_leaves_neither_row_nor_number(world: World) -> None:
    account = await world.account()
    told: list[Any] = []
    world.database.on_commit(told.extend)

    async def act() -> None:
        async with world.database.transaction() as session:
            log.append(session, account.id, created())
            raise Undone

    for _ in range(3):
        with pytest.raises(Undone):
            await act()
    assert (told, (await stream(world.database, account.id)).last_sequence) == ([], 1)
    await append(world, account.id, created())
    assert [event.sequence for event in await records(world.database, account.id)] == [1, 2]


async def test_a_transaction_without_events_takes_no_number(world: World) -> None:
    account = await world.account()
    before = await stream(world.database, account.id)
    async with world.database.transaction():
        pass
    assert await stream(world.database, account.id) == before


async def test_time_never_runs_backwards_in_a_log(world: World) -> None:
    """A database whose clock is set back, or a standby's that is behind."""
    account = await world.account()
    ahead = clock.now() + timedelta(hours=1)
    async with world.database.transaction() as session:
        await session.execute(
            update(Stream).where(col(Stream.account_id) == account.id).values(last_occurred_at=ahead)
        )
    await append(world, account.id, created())
    await append(world, account.id, created())
    assert [event.occurred_at for event in await records(world.database, account.id)][1:] == [ahead, ahead]


async def test_an_event_for_an_account_that_is_not_there_fails_the_transaction(world: World) -> None:
    account = await world.account()

    async def act() -> None:
        async with world.database.transaction() as session:
            log.append(session, account.id, created())
            log.append(session, "acc_none", created())

    with pytest.raises(Exception, match="No row was found"):
        await act()
    assert (await stream(world.database, account.id)).last_sequence == 1


async def test_whoever_holds_the_position_knows_what_comes_after(world: World, migrated_url: str) -> None:
    """A destination made at this moment gets exactly the events that commit later."""
    account = await world.account()
    await append(world, account.id, created(), created())
    other = Database(migrated_url)

    async def append_elsewhere() -> None:
        async with other.transaction() as session:
            log.append(session, account.id, created())

    async with world.database.transaction() as session:
        position = await log.lock_position(session, account.id)
        writing = asyncio.create_task(append_elsewhere())
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert len(await records(other, account.id)) == position == 3
        assert not writing.done()
    await writing
    assert [event.sequence for event in await records(other, account.id)] == [1, 2, 3, 4]
    await other.dispose()


async def test_a_page_is_what_the_filter_takes_and_the_viewer_sees(world: World, seed: str) -> None:
    """The filter says the same of a record as it says in SQL, for whatever it is asked."""
    chance = random.Random(seed)
    account, other = await world.account(), await world.account()
    customer_ids = [new_id("cus") for _ in range(4)]
    meter_ids = {customer_id: [new_id("mtr") for _ in range(3)] for customer_id in customer_ids}
    for _ in range(60):
        customer_id = chance.choice(customer_ids)
        meter_id = chance.choice(meter_ids[customer_id])
        event = chance.choice([created(id=customer_id), received(customer_id, meter_id)])
        await append(world, chance.choice([account.id, account.id, other.id]), event)
    events = await records(world.database, account.id)
    async with world.database.reading() as session:
        named = await log.meters_named(session, account.id, [event.sequence for event in events])

    def some(values: Sequence[Any]) -> frozenset[Any] | None:
        return chance.choice([None, frozenset(chance.sample(values, chance.randint(0, len(values))))])

    for _ in range(60):
        chosen = RecordFilter(
            some(event_names()),
            some([one for many in meter_ids.values() for one in many]),
            some(customer_ids),
        )
        after, through = sorted(chance.choices(range(len(events) + 2), k=2))
        limit = chance.randint(1, 30)
        bound = chance.choice([None, *customer_ids])
        viewer = Actor(account.id, frozenset([Scope.READ]), customer_id=bound)
        async with world.database.reading() as session:
            found = await log.page(session, viewer, after, through, limit, chosen)
        assert (
            found
            == [
                event
                for event in events
                if after < event.sequence <= through
                and (bound is None or event.customer_id == bound)
                and chosen.takes(event, named[event.sequence])
            ][:limit]
        )
