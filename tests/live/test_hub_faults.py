"""Several processes over one database: a failure of any part costs time, and no event."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.auth.actor import Actor
from tests.events.broadcasters import cut_listeners, unanswered, url_of
from tests.live.listening import Collector, Listening, listening
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey
from tests.support import world as open_world


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[Valkey]:
    """A server that only these tests stop."""
    server = Valkey()
    yield server
    server.close()


@pytest.fixture(params=["valkey", "postgresql"])
def broadcaster(request: pytest.FixtureRequest) -> Service:
    name = {"valkey": "own_valkey", "postgresql": "own_postgres"}[request.param]
    server: Service = request.getfixturevalue(name)
    server.start()
    return server


@asynccontextmanager
async def processes(
    migrated_url: str, broadcast_url: str, count: int, poll_interval: float = 60
) -> AsyncIterator[list[Listening]]:
    """`count` hubs, each with its own connections to everything."""
    async with AsyncExitStack() as stack:
        hubs = []
        for _ in range(count):
            world = await stack.enter_async_context(open_world(migrated_url))
            hubs.append(
                await stack.enter_async_context(listening(world, broadcast_url, poll_interval=poll_interval))
            )
        yield hubs


async def owner(live: Listening) -> Actor:
    account = await live.world.account()
    return (await live.world.authenticator.authenticate(account.key)).actor


async def test_every_process_hears_of_every_commit(postgres_url: str, broadcaster: Service) -> None:
    async with processes(postgres_url, url_of(broadcaster), 3) as hubs:
        actor = await owner(hubs[0])
        sinks = [(await live.subscribe(actor))[1] for live in hubs for _ in range(3)]

        async def write(live: Listening) -> None:
            for _ in range(30):
                # Emails are unique within the account, so each process uses its own names.
                await live.customer(actor, f"P{hubs.index(live)}")

        await asyncio.gather(*map(write, hubs))
        await hubs[0].customers(actor, 100)
        for sink in sinks:
            await sink.count(190)
            assert sink.sequences == list(range(2, 192))


async def test_a_broadcaster_that_dies_costs_no_event(postgres_url: str, broadcaster: Service) -> None:
    async with processes(postgres_url, url_of(broadcaster), 2, poll_interval=0.2) as (near, far):
        actor = await owner(near)
        sinks = [(await live.subscribe(actor))[1] for live in (near, far)]
        for _ in range(5):
            await near.customer(actor)
        broadcaster.stop()
        for _ in range(5):
            await near.customer(actor)
        for sink in sinks:
            await sink.count(10)
        broadcaster.start()
        for _ in range(5):
            await near.customer(actor)
        for sink in sinks:
            await sink.count(15)
            assert sink.sequences == list(range(2, 17))


async def test_a_dead_listener_costs_no_event(postgres_url: str, broadcaster: Service) -> None:
    async with processes(postgres_url, url_of(broadcaster), 2) as (near, far):
        actor = await owner(near)
        _, sink = await far.subscribe(actor)
        for _ in range(5):
            await near.customer(actor)
            while not await cut_listeners(broadcaster):  # noqa: ASYNC110 - it may not be back from the last time
                await asyncio.sleep(0.01)
            await near.customer(actor)
        # The streams are not polled here: the listener itself reports that it was away.
        await sink.count(10)
        assert sink.sequences == list(range(2, 12))


async def test_a_database_that_restarts_costs_no_event(own_postgres: Postgres) -> None:
    own_postgres.start()
    url = await own_postgres.create_database()
    async with processes(url, "memory://", 1, poll_interval=0.2) as (live,):
        actor = await owner(live)
        _, quick = await live.subscribe(actor)
        slow_subscription, slow = await live.subscribe(actor, sink=Collector(capacity=1))
        await live.customers(actor, 150)
        await quick.count(150)
        own_postgres.stop()
        slow.take_all()
        joining = asyncio.create_task(live.subscribe(actor, after=quick.payloads[0].cursor))
        # The slow subscription can get no more than the page it already has.
        await slow.count(101)
        own_postgres.start()
        _, late = await joining
        await live.customers(actor, 50)
        for sink, first in ((quick, 2), (slow, 2), (late, 3)):
            await sink.until(lambda sink=sink, first=first: len(sink.payloads) >= 202 - first)
            assert sink.sequences == list(range(first, 202))
        slow_subscription.end()


async def test_a_look_that_is_never_answered_costs_no_event(migrated_postgres_url: str) -> None:
    async with (
        open_world(migrated_postgres_url) as world,
        # No doorbell rings after a commit: the hub only polls.
        listening(world, rings=False, poll_interval=0.02, poll_timeout=0.5) as live,
    ):
        actor = await owner(live)
        _, sink = await live.subscribe(actor)
        async with unanswered(migrated_postgres_url, "streams"):
            await live.customer(actor)
            await sink.count(1)
