"""Events that cannot be executed for a fault of ours wait, in order, and are never shown with a null instead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from app.auth.actor import Actor
from app.graphql.engine import Engine
from tests.events.broadcasters import becomes
from tests.live.listening import Collector, Listening, listening
from tests.live.outages import Attempts, watched
from tests.live.test_event_responses import WIDE
from tests.services.postgres import Postgres
from tests.support import World, the_schema
from tests.support import world as open_world

pytestmark = pytest.mark.both_databases

COMPILED = """subscription($after: String) { events(after: $after) { sequence
    ... on CustomerCreatedEvent { customer { meters(first: 5) { nodes { number } } } } } }"""
# A list of values over time is not compiled.
PARTLY = """subscription($after: String) { events(after: $after) { sequence
    ... on CustomerCreatedEvent { customer { meters(first: 5) { nodes { number
        intervalData(granularity: DAY, lookback: "1w") { total } } } } } } }"""
FLAT = "subscription($after: String) { events(after: $after) { sequence type } }"
WAYS = {"compiled": COMPILED, "partly": PARTLY, "ordinary": COMPILED}


@asynccontextmanager
async def hub_of(world: World, way: str) -> AsyncIterator[Listening]:
    world.engine = Engine(the_schema(), WIDE, compiled=way != "ordinary")
    async with listening(world, poll_interval=0.2) as live:
        yield live


async def owner(live: Listening) -> Actor:
    account = await live.world.account()
    return (await live.world.authenticator.authenticate(account.key)).actor


async def rename(world: World, table: str, before: str, after: str) -> None:
    async with world.database.transaction() as session:
        await session.execute(text(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}"))


def shown(sink: Collector) -> list[int]:
    """The sequences of the responses, none of which may be incomplete."""
    for response in sink.responses:
        assert "errors" not in response
        assert response["data"]["events"]["customer"] is not None
    return sink.sequences


@pytest.mark.parametrize("way", WAYS)
async def test_a_live_event_waits_for_a_database_that_is_away(own_postgres: Postgres, way: str) -> None:
    own_postgres.start()
    url = await own_postgres.create_database()
    async with open_world(url) as world, hub_of(world, way) as live:
        actor = await owner(live)
        one, first = await live.subscribe(actor, WAYS[way])
        _, second = await live.subscribe(actor, WAYS[way])
        _, flat = await live.subscribe(actor, FLAT)
        with watched(Attempts(own_postgres.kill)):
            await live.customers(actor, 3)
            # Both go on through the log, and get nothing.
            await becomes(lambda: bool(first.payloads) or live.hub.stats.catch_ups == 2)
            assert (first.payloads, second.payloads) == ([], [])
            assert one.reached == 1
            # Events that need no database arrive meanwhile.
            assert [one["data"]["events"]["sequence"] for one in await flat.count(3)] == [2, 3, 4]
            own_postgres.start()
            await asyncio.gather(first.count(3), second.count(3))
        await live.customers(actor, 1)
        await asyncio.gather(first.count(4), second.count(4))
        assert shown(first) == shown(second) == [2, 3, 4, 5]
        assert flat.sequences == [2, 3, 4, 5]


@pytest.mark.parametrize("way", WAYS)
async def test_a_page_of_the_log_waits_for_a_database_that_is_away(own_postgres: Postgres, way: str) -> None:
    own_postgres.start()
    url = await own_postgres.create_database()
    async with open_world(url) as world, hub_of(world, way) as live:
        actor = await owner(live)
        _, flat = await live.subscribe(actor, FLAT)
        await live.customers(actor, 120)
        await flat.count(120)
        with watched(Attempts(own_postgres.kill)) as attempts:
            late, sink = await live.subscribe(actor, WAYS[way], after=flat.payloads[0].cursor)
            await becomes(lambda: bool(sink.payloads) or late.retry is not None)
            assert (sink.payloads, late.reached, attempts.count > 0) == ([], 2, True)
            own_postgres.start()
            await sink.count(119)
        assert shown(sink) == list(range(3, 122))


@pytest.mark.parametrize("way", WAYS)
async def test_what_fails_for_a_while_arrives_when_it_is_mended(world: World, way: str) -> None:
    async with hub_of(world, way) as live:
        actor = await owner(live)
        subscription, sink = await live.subscribe(actor, WAYS[way])
        await rename(world, "meters", "number", "nummer")
        with watched(Attempts()) as attempts:
            await live.customers(actor, 2)
            await becomes(lambda: bool(sink.payloads) or attempts.count >= 4)
            assert (sink.payloads, subscription.reached) == ([], 1)
            await rename(world, "meters", "nummer", "number")
            await sink.count(2)
        assert shown(sink) == [2, 3]


@pytest.mark.parametrize("way", WAYS)
async def test_what_always_fails_ends_its_stream_before_the_event_and_no_other(
    world: World, way: str
) -> None:
    async with hub_of(world, way) as live:
        actor, stranger = await owner(live), await owner(live)
        broken, sink = await live.subscribe(actor, WAYS[way])
        _, same_viewer = await live.subscribe(actor, FLAT)
        _, other_account = await live.subscribe(stranger, FLAT)
        await rename(world, "meters", "number", "nummer")
        for _ in range(3):
            await live.customer(actor)
        await live.customer(stranger)
        await asyncio.gather(same_viewer.count(3), other_account.count(1))
        await sink.until(lambda: bool(sink.payloads) or sink.errors is not None)
        assert (sink.payloads, broken.reached) == ([], 1)
        assert sink.errors is not None
        assert {error["extensions"]["code"] for error in sink.errors} == {"INTERNAL"}
        assert not any("retryAfter" in error["extensions"] for error in sink.errors)
        await rename(world, "meters", "nummer", "number")
        _, again = await live.subscribe(actor, WAYS[way], after=broken.cursor)
        await again.count(3)
        assert shown(again) == [2, 3, 4]
        assert same_viewer.sequences == [2, 3, 4]


async def test_the_events_before_one_that_always_fails_are_given(world: World) -> None:
    """Executed together, the failed event would break the transaction of the others."""
    query = """subscription($after: String) { events(after: $after) { sequence
        ... on CustomerCreatedEvent { customer { name } }
        ... on MeterCreatedEvent { meter { hostedConsent { id } } } } }"""
    async with hub_of(world, "ordinary") as live:
        actor = await owner(live)
        start, _ = await live.subscribe(actor, FLAT)
        after = start.cursor
        customer = await live.customer(actor)
        await live.customer(actor)
        await live.meter(actor, customer)
        await live.customer(actor)
        await rename(world, "hosted_consents", "revoked_at", "widerrufen")
        stuck, sink = await live.subscribe(actor, query, after=after)
        await sink.until(lambda: len(sink.payloads) > 2 or sink.errors is not None)
        assert (sink.sequences, stuck.reached) == ([2, 3], 3)
        assert all("errors" not in response for response in sink.responses)
        assert sink.errors is not None
