"""Subscriptions get events in order, without gap or repeat, wherever they begin and whatever is lost on the way."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from app.auth.actor import Actor, Scope
from app.customers import actions as customers
from app.db.database import run_script
from app.events import cursors, log
from app.graphql.failures import RequestErrors
from app.live.subscription import Stage
from tests.events.broadcasters import becomes
from tests.live.listening import Collector, listening
from tests.support import World

NESTED = """
subscription($after: String) {
  events(after: $after) {
    id type name sequence cursor occurredAt
    ... on CustomerCreatedEvent { customer { id name meters(first: 5) { nodes { number } } } }
    ... on MeterCreatedEvent { meter { number customer { name } } }
  }
}
"""


async def owner(world: World) -> Actor:
    account = await world.account()
    return (await world.authenticator.authenticate(account.key)).actor


async def cursor_at(world: World, actor: Actor, sequence: int) -> str:
    async with world.database.reading() as session:
        stream = await log.stream(session, actor.account_id)
    return cursors.encode(world.services.keyring, actor.account_id, stream.epoch, sequence)


async def test_a_subscription_begins_now_and_gets_what_follows(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        subscription, sink = await live.subscribe(actor, NESTED)
        customer = await live.customer(actor)
        await live.meter(actor, customer)
        first, second = await sink.count(2)
        assert first["data"]["events"]["customer"]["id"] == customer.id
        assert first["data"]["events"]["cursor"] == sink.payloads[0].cursor
        assert second["data"]["events"] == second["data"]["events"] | {
            "type": "METER_CREATED",
            "name": "meter.created",
            "sequence": 3,
            "meter": {"number": "2499999999991", "customer": {"name": "Ada"}},
        }
        await becomes(lambda: subscription.reached == 3)
        assert subscription.cursor == sink.payloads[1].cursor
        assert subscription.stage is Stage.LIVE


async def test_a_resumed_subscription_gets_exactly_the_rest(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        await live.customers(actor, 250)
        for start in (0, 1, 100, 250, 251):
            _, sink = await live.subscribe(actor, variables={"after": await cursor_at(world, actor, start)})
            await sink.until(lambda sink=sink, start=start: len(sink.payloads) >= 251 - start)
            assert sink.sequences == list(range(start + 1, 252))


@pytest.mark.both_databases
async def test_nothing_is_lost_or_repeated_where_the_log_meets_live(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        begin = await cursor_at(world, actor, 0)
        sinks: list[Collector] = []

        async def write() -> None:
            for _ in range(150):
                await live.customer(actor)

        async def join() -> None:
            for _ in range(40):
                await asyncio.sleep(random.uniform(0, 0.01))
                _, sink = await live.subscribe(actor, variables={"after": begin})
                sinks.append(sink)

        await asyncio.gather(write(), join(), join(), join())
        for sink in sinks:
            await sink.until(lambda sink=sink: len(sink.payloads) >= 151)
            assert sink.sequences == list(range(1, 152))


async def test_a_lost_doorbell_costs_time_and_no_event(world: World) -> None:
    async with listening(world, rings=False, poll_interval=0.05) as live:
        actor = await owner(world)
        _, sink = await live.subscribe(actor)
        await live.customers(actor, 3)
        await live.customer(actor)
        await sink.count(4)
        assert sink.sequences == [2, 3, 4, 5]


async def test_the_doorbell_alone_is_enough(world: World) -> None:
    async with listening(world, local=False, poll_interval=60) as live:
        actor = await owner(world)
        _, sink = await live.subscribe(actor, NESTED)
        await live.customer(actor)
        await live.customers(actor, 200)
        await sink.count(201)
        assert sink.sequences == list(range(2, 203))


async def test_hubs_of_two_processes_give_the_same(world: World) -> None:
    async with listening(world) as near, listening(world, rings=False, poll_interval=0.02) as far:
        actor = await owner(world)
        sinks = [(await live.subscribe(actor, NESTED))[1] for live in (near, far)]
        for _ in range(30):
            await near.customer(actor)
        both = [await sink.count(30) for sink in sinks]
        assert both[0] == both[1]


async def test_equal_subscriptions_are_executed_once(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sinks = [(await live.subscribe(actor))[1] for _ in range(50)]
        begin = await cursor_at(world, actor, 1)
        sinks += [(await live.subscribe(actor, variables={"after": begin}))[1] for _ in range(50)]
        await live.customer(actor)
        for sink in sinks:
            await sink.count(1)
        assert live.hub.groups == 1
        assert live.hub.stats.executions == 1
        assert len({id(sink.payloads[0]) for sink in sinks}) == 1


@pytest.mark.both_databases
async def test_many_that_resume_at_once_share_what_they_read(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        await live.customers(actor, 500)
        places = [random.randrange(0, 500) for _ in range(100)]
        begins = {place: await cursor_at(world, actor, place) for place in places}
        joined = [live.subscribe(actor, variables={"after": begins[place]}) for place in places]
        sinks = [sink for _, sink in await asyncio.gather(*joined)]
        for place, sink in zip(places, sinks, strict=True):
            await sink.until(lambda sink=sink, place=place: len(sink.payloads) >= 501 - place)
            assert sink.sequences == list(range(place + 1, 502))
        assert live.hub.stats.pages < 100


async def test_a_filter_takes_what_it_names(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        ada, bob = await live.customer(actor, "Ada"), await live.customer(actor, "Bob")
        meter = await live.meter(actor, ada)
        begin = await cursor_at(world, actor, 1)
        filters: list[dict[str, Any]] = [
            {"types": ["METER_CREATED"]},
            {"customerIds": [bob.id]},
            {"meterIds": [meter.id]},
            {"meterIds": [meter.id], "types": ["CUSTOMER_CREATED"]},
            {"types": []},
            {"types": None},
        ]
        expected = [[4, 5], [3, 5], [4], [], [], [2, 3, 4, 5, 6]]
        before = [await live.subscribe(actor, variables={"filter": one, "after": begin}) for one in filters]
        await live.meter(actor, bob)
        await live.customer(actor, "Cyd")
        after = [await live.subscribe(actor, variables={"filter": one, "after": begin}) for one in filters]
        for subscription, sink in [*before, *after]:
            await becomes(lambda subscription=subscription: subscription.reached == 6)
            index = [*before, *after].index((subscription, sink)) % len(filters)
            assert sink.sequences == expected[index]
            # A quiet, filtered subscription resumes at the position through which it has read.
            assert subscription.cursor == await cursor_at(world, actor, 6)


async def test_a_viewer_bound_to_a_customer_sees_that_customer_only(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        ada, bob = await live.customer(actor, "Ada"), await live.customer(actor, "Bob")
        begin = await cursor_at(world, actor, 0)
        bound = Actor(
            actor.account_id, frozenset({Scope.READ}), actor.api_key_id, ada.id, is_stream_token=True
        )
        resumed = await live.subscribe(bound, NESTED, {"after": begin})
        fresh = await live.subscribe(bound, NESTED)
        await live.meter(actor, bob)
        await live.meter(actor, ada)
        for subscription, _ in (resumed, fresh):
            await becomes(lambda subscription=subscription: subscription.reached == 5)
        assert resumed[1].sequences == [2, 5]
        assert fresh[1].sequences == [5]
        shown = resumed[1].responses[0]["data"]["events"]
        assert shown["sequence"] is None
        assert shown["customer"]["name"] == "Ada"


async def test_another_accounts_events_are_not_seen(world: World) -> None:
    async with listening(world) as live:
        mine, theirs = await owner(world), await owner(world)
        _, sink = await live.subscribe(mine)
        _, other = await live.subscribe(theirs)
        await live.customer(theirs)
        await live.customer(theirs)
        await other.count(2)
        await live.customer(mine)
        await sink.count(1)
        assert sink.sequences == [2]


async def test_a_slow_consumer_goes_on_at_its_own_pace_and_comes_back(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        slow, sink = await live.subscribe(actor, sink=Collector(capacity=3))
        _, quick = await live.subscribe(actor)
        for _ in range(20):
            await live.customer(actor)
        await quick.count(20)
        assert sink.sequences == [2, 3, 4]
        assert slow.stage is Stage.CATCHING_UP
        assert slow.cursor == sink.payloads[-1].cursor
        sink.take(2)
        await sink.count(5)
        assert sink.sequences == [2, 3, 4, 5, 6]
        sink.take_all()
        await becomes(lambda: slow.stage is Stage.LIVE)
        await live.customer(actor)
        await sink.count(21)
        assert sink.sequences == quick.sequences == list(range(2, 23))


async def test_a_burst_is_read_from_the_log(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, sink = await live.subscribe(actor)
        await live.customers(actor, 1200)
        await sink.count(1200)
        assert sink.sequences == list(range(2, 1202))


async def test_what_is_nested_is_as_of_now(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        begin = await cursor_at(world, actor, 1)
        customer = await live.customer(actor)
        _, early = await live.subscribe(actor, NESTED, {"after": begin})
        await early.count(1)
        async with world.database.transaction() as session:
            await run_script(session, customers.update(actor, customer.id, {"name": "Ada King"}))
        _, late = await live.subscribe(actor, NESTED, {"after": begin})
        (response,) = await late.count(1)
        assert early.responses[0]["data"]["events"]["customer"]["name"] == "Ada"
        assert response["data"]["events"]["customer"]["name"] == "Ada King"


async def test_retention_that_passes_a_reader_is_told(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, slow = await live.subscribe(actor, sink=Collector(capacity=1))
        await live.customers(actor, 200)
        await becomes(lambda: live.hub.stats.pages == 1)
        expired = await cursor_at(world, actor, 2)
        async with world.database.transaction() as session:
            assert await log.trim(session, actor.account_id, timedelta(), through=198) == 198
        # The first sixteen were handed over together, and a kept page is still given; later events are gone.
        live.hub.runtime.recent.evict_expired(float("inf"))
        slow.take_all()
        await slow.until(lambda: slow.errors is not None)
        assert slow.sequences == list(range(2, 118))
        assert slow.errors is not None
        oldest = await cursor_at(world, actor, 198)
        assert slow.errors[0]["extensions"] == {"code": "CURSOR_EXPIRED", "oldestCursor": oldest}
        with pytest.raises(RequestErrors) as refused:
            await live.subscribe(actor, variables={"after": expired})
        assert refused.value.errors[0]["extensions"] == {"code": "CURSOR_EXPIRED", "oldestCursor": oldest}
        _, resumed = await live.subscribe(actor, after=oldest)
        await resumed.count(3)
        assert resumed.sequences == [199, 200, 201]


async def test_a_wrong_cursor_is_refused(world: World) -> None:
    async with listening(world) as live:
        actor, other = await owner(world), await owner(world)
        for cursor in ("", "nonsense", await cursor_at(world, other, 1)):
            with pytest.raises(RequestErrors) as refused:
                await live.subscribe(actor, variables={"after": cursor})
            assert refused.value.errors[0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert live.hub.subscriptions == 0


async def test_the_end_of_a_subscription_leaves_nothing_behind(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        first, sink = await live.subscribe(actor)
        second, _ = await live.subscribe(actor, NESTED)
        first.end()
        assert live.hub.groups == 1
        second.end()
        second.end()
        assert (live.hub.groups, live.hub.subscriptions, live.hub._feeds) == (0, 0, {})
        await live.customer(actor)
        _, again = await live.subscribe(actor)
        await live.customer(actor)
        await again.count(1)
        assert again.sequences == [3]
        assert sink.payloads == []


async def test_a_failing_field_is_told_and_the_stream_goes_on(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        query = (
            "subscription { events { sequence ... on CustomerCreatedEvent"
            " { customer { meters(first: 1000) { nodes { id } } } } } }"
        )
        _, sink = await live.subscribe(actor, query)
        await live.customer(actor)
        await live.customer(actor)
        for sequence, response in enumerate(await sink.count(2), 2):
            assert response["data"]["events"] == {"sequence": sequence, "customer": None}
            assert response["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
