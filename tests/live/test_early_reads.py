"""Events that are read within their transactions, and shown as those that are read after them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from app.auth.actor import Actor
from app.core import failpoints
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.raw_statements import Script
from app.db.scripts import Act, InTransaction
from app.events import log
from app.live.early_reads import MOST_EVENTS, MOST_GROUPS
from app.live.event_responses import respond
from app.meters import actions as meters
from tests.accounts.state import reads
from tests.live.listening import Collector, Listening, listening
from tests.live.test_hub import cursor_at, owner
from tests.live.test_hub_batches import Batches
from tests.support import World

pytestmark = pytest.mark.both_databases

EVENTS = """subscription($after: String) { events(after: $after) { id sequence cursor occurredAt
    ... on CustomerCreatedEvent { customer { id name } }
    ... on MeterCreatedEvent { meter { number hostedConsent { valid } customer { name } } } } }"""


def making(actor: Actor, *names: str) -> Act[list[Customer]]:
    """Makes customers with these names, which is one event each."""

    def act(transaction: InTransaction) -> Script[list[Customer]]:
        made = []
        for name in names:
            email = f"{name.lower()}@example.com"
            made.append((yield from customers.create(transaction, actor, name=name, email=email)))
        return made

    return act


def of_events(statements: Sequence[str]) -> list[str]:
    """The reads of events alone: now and then the end of the log is read as well."""
    return [one for one in statements if "page.sequence" in one]


@contextmanager
def failing(point: str) -> Iterator[None]:
    """Whatever reaches this point fails."""

    def fail(reached: str) -> None:
        if reached == point:
            raise RuntimeError(point)

    failpoints.watchers.append(fail)
    try:
        yield
    finally:
        failpoints.watchers.remove(fail)


async def prepared(live: Listening, actor: Actor, query: str = EVENTS) -> Collector:
    """A subscription whose events are read early from now on, where they are."""
    _, sink = await live.subscribe(actor, query)
    await live.customer(actor, "First")
    await sink.count(1)
    await live.settled()
    return sink


async def test_events_take_no_read_of_their_own_on_sqlite(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sink = await prepared(live, actor)
        with reads(world.database) as statements:
            for name in ("Ada", "Bob"):
                await world.database.transact(making(actor, name))
                await sink.count(2 if name == "Ada" else 3)
        assert len(of_events(statements)) == (0 if world.database.is_sqlite else 2)
        assert [one["data"]["events"]["customer"]["name"] for one in sink.responses] == [
            "First",
            "Ada",
            "Bob",
        ]
        assert live.hub.stats.executions == 3


async def test_an_event_has_the_same_payload_as_one_that_is_read_after_its_commit(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sink = await prepared(live, actor)
        (customer,) = await world.database.transact(making(actor, "Ada"))

        def meter(transaction: InTransaction) -> Script[Any]:
            return meters.create(transaction, actor, customer_id=customer.id, number="2499999999991")

        await world.database.transact(meter)
        await world.database.transact(making(actor, "Bob", "Cid"))
        await sink.count(5)
        async with world.database.reading() as session:
            stream = await log.stream(session, actor.account_id)
            records = await log.page(session, actor, 1, stream.last_sequence, 10)
        (group,) = next(iter(live.hub._feeds.values())).groups
        jobs = [(group.request, record) for record in records]
        assert sink.responses == await respond(world.services, world.engine, actor, stream.epoch, jobs)
        assert [payload.cursor for payload in sink.payloads] == [
            one["data"]["events"]["cursor"] for one in sink.responses
        ]


@pytest.mark.parametrize("point", ["transaction.before_commit", "subscription.execute"])
async def test_a_failure_on_the_way_loses_no_event_and_makes_none_up(world: World, point: str) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sink = await prepared(live, actor)
        with failing(point):
            writing = world.database.transact(making(actor, "Lost"))
            if point == "transaction.before_commit":
                with pytest.raises(RuntimeError):
                    await writing
            else:
                await writing
        await world.database.transact(making(actor, "Kept"))
        names = ["First", "Kept"] if point == "transaction.before_commit" else ["First", "Lost", "Kept"]
        await sink.count(len(names))
        assert [one["data"]["events"]["customer"]["name"] for one in sink.responses] == names
        assert sink.sequences == list(range(2, 2 + len(names)))


async def test_an_event_that_was_read_before_a_subscription_is_not_shown_to_it(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, early = await live.subscribe(actor, EVENTS, {"after": None}, Batches(first_takes=0.05))
        await live.customer(actor)
        await early.count(1)
        await live.settled()
        begin = await cursor_at(world, actor, 2)
        begun = world.services.writing.begin(actor.account_id)
        (customer,) = await world.database.transact(making(actor, "Bob"))
        await world.database.transact(
            lambda transaction: customers.update(actor, customer.id, {"name": "Bob King"})
        )
        _, late = await live.subscribe(actor, EVENTS, {"after": begin})
        (response,) = await late.count(1)
        assert response["data"]["events"]["customer"]["name"] == "Bob King"
        await early.count(2)
        assert early.sequences == [2, 3]
        begun.end()


async def test_many_groups_and_many_events_are_read_after_the_commit(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        first = await prepared(live, actor)
        with reads(world.database) as statements:
            await world.database.transact(making(actor, *(f"Many{n}" for n in range(MOST_EVENTS + 1))))
            await first.count(MOST_EVENTS + 2)
        assert len(of_events(statements)) == 2
        sinks = [first]
        for number in range(MOST_GROUPS):
            _, sink = await live.subscribe(actor, EVENTS.replace("subscription", f"subscription S{number}"))
            sinks.append(sink)
        for name in ("Ada", "Bob"):
            before = [len(sink.payloads) for sink in sinks]
            with reads(world.database) as statements:
                await world.database.transact(making(actor, name))
                await asyncio.gather(*(sink.count(n + 1) for sink, n in zip(sinks, before, strict=True)))
            await live.settled()
        # What was prepared before the other groups came is dropped after the first event.
        assert len(of_events(statements)) == MOST_GROUPS + 1
        assert all(sink.responses[-1]["data"]["events"]["customer"]["name"] == "Bob" for sink in sinks)


async def test_nothing_is_read_for_subscriptions_that_have_ended(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        subscription, sink = await live.subscribe(actor, EVENTS)
        await live.customer(actor)
        await sink.count(1)
        await live.settled()
        subscription.end()
        reached: list[str] = []
        failpoints.watchers.append(reached.append)
        try:
            await world.database.transact(making(actor, "Bob"))
            await asyncio.sleep(0)
        finally:
            failpoints.watchers.remove(reached.append)
        assert "transaction.committed" in reached
        assert "subscription.execute" not in reached
