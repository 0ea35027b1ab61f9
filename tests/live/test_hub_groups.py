"""Equal subscriptions share executions, viewers never do, and finding an event's groups is cheap."""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.auth.actor import Actor, Scope
from app.core.clock import now
from app.events import cursors, log
from app.events.catalogue import event_names
from app.events.log import Appended
from app.events.models import EventRecord
from app.events.record_filter import RecordFilter
from app.graphql.document_cache import ACCOUNTS_BOUNDS, LONGEST
from app.graphql.failures import RequestErrors
from app.live.group_index import GroupIndex
from app.live.subscription import Subscription
from app.live.subscription_request import hashable
from tests.events.broadcasters import becomes
from tests.live.listening import Collector, Listening, listening
from tests.support import World

READ = frozenset({Scope.READ})


async def keys_of(live: Listening, actor: Actor, *asked: tuple[str, dict[str, Any] | None]) -> list[object]:
    """The groups of these subscriptions."""
    joined = [await live.subscribe(actor, query, variables) for query, variables in asked]
    return [subscription.group for subscription, _ in joined]


async def owner(world: World) -> Actor:
    account = await world.account()
    return (await world.authenticator.authenticate(account.key)).actor


async def test_only_equal_subscriptions_share_a_group(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        plain = (
            "subscription($t: [EventType!], $n: Int = 1) { events(filter: {types: $t}) { id"
            " ... on CustomerCreatedEvent { customer { meters(first: $n) { nodes { id } } } } } }"
        )
        one, same, defaulted, other, absent, null = await keys_of(
            live,
            actor,
            (plain, {"t": ["USER_CREATED"]}),
            (plain, {"t": ["USER_CREATED"], "unknown": 1}),
            (plain, {"t": ["USER_CREATED"], "n": 1}),
            (plain, {"t": ["USER_CREATED"], "n": 2}),
            (plain, None),
            (plain, {"t": None}),
        )
        assert one is same is defaulted
        assert len({one, other, absent, null}) == 4


async def test_a_document_is_equal_by_its_text_kept_or_not(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        plain = "subscription A { events { id } } subscription B { events { sequence } }"
        long = plain + " #" + "x" * LONGEST

        async def operation(text: str, name: str) -> Subscription:
            prepared = world.engine.prepare(text, name, authenticated=True)
            return await live.hub.subscribe(prepared, None, actor, Collector())

        first, other = await operation(plain, "A"), await operation(plain, "B")
        longer, same = await operation(long, "A"), await operation(long, "A")
        for number in range(ACCOUNTS_BOUNDS.operations[0]):
            world.engine.prepare(f"{{ a{number}: __typename }}", None, authenticated=True)
        again = await operation(plain, "A")
        assert again.group is first.group
        assert longer.group is same.group
        assert len({first.group, other.group, longer.group}) == live.hub.groups == 3
        assert again.group.request.prepared is not world.engine.prepare(plain, "A", authenticated=True)


async def test_only_the_cursor_may_differ_within_a_group(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        async with world.database.reading() as session:
            stream = await log.stream(session, actor.account_id)
        old, new = (
            cursors.encode(world.services.keyring, actor.account_id, stream.epoch, sequence)
            for sequence in (0, 1)
        )
        alone = "subscription($c: String) { events(after: $c) { id } }"
        nested = (
            "subscription($c: String) { events(after: $c) { id"
            " ... on CustomerCreatedEvent { customer { meters(first: 1, after: $c) { nodes { id } } } } } }"
        )
        first, second, third = await keys_of(
            live, actor, (alone, None), (alone, {"c": old}), (alone, {"c": new})
        )
        assert first is second is third
        first, second = await keys_of(live, actor, (nested, {"c": old}), (nested, {"c": new}))
        assert first is not second


async def test_two_operations_of_a_document_are_two_groups(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        document = "subscription A { events { id } } subscription B { events { id type } }"
        sinks = []
        for name in ("A", "B"):
            sink = Collector()
            prepared = world.engine.prepare(document, name, authenticated=True)
            await live.hub.subscribe(prepared, None, actor, sink)
            sinks.append(sink)
        await live.customer(actor)
        (a,), (b,) = [await sink.count(1) for sink in sinks]
        assert list(a["data"]["events"]) == ["id"]
        assert list(b["data"]["events"]) == ["id", "type"]


def viewers(account_id: str, customers: list[str]) -> Iterator[Actor]:
    for customer, key, scopes, is_token in itertools.product(
        [None, *customers], ["key_1", "key_2"], [READ, frozenset(Scope)], [True, False]
    ):
        yield Actor(account_id, scopes, key, customer, is_stream_token=is_token)


async def test_no_two_viewers_share_what_either_may_not_see(world: World) -> None:
    """Every kind of viewer beside every other, each with the same document, over the events of three customers."""
    async with listening(world) as live:
        mine, theirs = await owner(world), await owner(world)
        customers = [await live.customer(mine, name) for name in ("Ada", "Bob", "Cyd")]
        ids = [customer.id for customer in customers]
        everyone = [*viewers(mine.account_id, ids), *viewers(theirs.account_id, ids)]
        query = (
            "subscription { events { id sequence data"
            " ... on MeterCreatedEvent { meter { number customer { id name } } } } }"
        )
        sinks = {viewer: (await live.subscribe(viewer, query))[1] for viewer in everyone}
        for customer in customers:
            await live.meter(mine, customer)
        stranger = await live.customer(theirs, "Eve")
        await live.meter(theirs, stranger)
        expected = {
            viewer: 2
            if viewer.account_id == theirs.account_id and viewer.sees_whole_account
            else 3
            if viewer.account_id == mine.account_id and viewer.sees_whole_account
            else 1
            if viewer.account_id == mine.account_id
            else 0
            for viewer in everyone
        }
        await becomes(lambda: all(len(sink.payloads) >= expected[viewer] for viewer, sink in sinks.items()))
        for viewer, sink in sinks.items():
            assert len(sink.payloads) == expected[viewer]
            for response in sink.responses:
                event = response["data"]["events"]
                assert (event["sequence"] is None) is (viewer.customer_id is not None)
                if viewer.account_id == theirs.account_id:
                    assert event["data"].get("customer", event["data"])["id"] == stranger.id
                elif viewer.customer_id is not None:
                    assert event["meter"]["customer"]["id"] == viewer.customer_id
        for (one, mine_of), (other, theirs_of) in itertools.combinations(sinks.items(), 2):
            assert one != other
            shared = {id(payload) for payload in mine_of.payloads} & {id(p) for p in theirs_of.payloads}
            assert shared == set()


async def test_a_viewer_without_a_scope_is_refused(world: World) -> None:
    async with listening(world) as live:
        actor = dataclasses.replace(await owner(world), scopes=frozenset())
        with pytest.raises(RequestErrors) as refused:
            await live.subscribe(actor)
        assert refused.value.errors[0]["extensions"]["code"] == "FORBIDDEN"


@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(20))
async def test_live_and_log_agree_on_every_filter_and_viewer(world: World, turn: int, seed: str) -> None:
    """`takes` and `is_seen_by` over events at hand are the same as `narrow` and `visible` in SQL."""
    chance = random.Random(seed)
    async with listening(world) as live:
        actor, other = await owner(world), await owner(world)
        made = [await live.customer(actor, name) for name in ("Ada", "Bob", "Cyd")]
        meters = [await live.meter(actor, chance.choice(made), n) for n in ("2499999999991", "3938424403")]
        await live.customer(other)
        async with world.database.reading() as session:
            events: list[Appended] = []
            for account in (actor, other):
                records = await log.page(session, account, 0, 100, 100)
                named = await log.meters_named(session, account.account_id, [r.sequence for r in records])
                events += [Appended(record, tuple(named[record.sequence])) for record in records]
            for _ in range(300):
                wanted = RecordFilter(
                    types=chance.choice([None, frozenset(chance.sample(event_names(), 3))]),
                    meter_ids=chance.choice(
                        [None, frozenset(m.id for m in chance.sample(meters, 1)), frozenset()]
                    ),
                    customer_ids=chance.choice([None, frozenset(c.id for c in chance.sample(made, 2))]),
                )
                viewer = chance.choice([actor, other, dataclasses.replace(actor, customer_id=made[0].id)])
                found = await log.page(session, viewer, 0, 100, 100, wanted)
                taken = [
                    event.record.id
                    for event in events
                    if event.is_seen_by(viewer) and wanted.takes(event.record, event.meter_ids)
                ]
                assert [record.id for record in found] == taken


def test_values_of_different_types_are_different() -> None:
    values = [1, 1.0, True, "1", None, [], {}, [1], ["1"], [[1]], {"a": 1}, {"a": [1]}, {"a": None}, ["a", 1]]
    assert len({hashable(value) for value in values}) == len(values)
    assert hashable({"a": 1, "b": [2, {"c": 3}]}) == hashable({"b": [2, {"c": 3}], "a": 1})


@dataclass(eq=False)
class Watcher:
    """The parts of a group that the index uses."""

    filter: RecordFilter
    actor: Actor
    asked: list[str] = field(default_factory=list)

    def takes(self, event: Appended) -> bool:
        self.asked.append(event.record.id)
        return event.is_seen_by(self.actor) and self.filter.takes(event.record, event.meter_ids)


def event(kind: str, customer_id: str | None = None, meter_ids: tuple[str, ...] = ()) -> Appended:
    record = EventRecord(
        account_id="acc",
        sequence=1,
        id=f"evt_{kind}",
        type=kind,
        occurred_at=now(),
        subject_id="x",
        customer_id=customer_id,
        data={},
    )
    return Appended(record, meter_ids)


def test_an_event_costs_nothing_for_those_who_watch_another() -> None:
    index, actor = GroupIndex(), Actor("acc", READ)
    bystanders = [Watcher(RecordFilter(meter_ids=frozenset({f"mtr_{n}"})), actor) for n in range(10_000)]
    bystanders += [Watcher(RecordFilter(customer_ids=frozenset({f"cus_{n}"})), actor) for n in range(1000)]
    bystanders += [Watcher(RecordFilter(), Actor("acc", READ, customer_id=f"cus_{n}")) for n in range(1000)]
    bystanders += [Watcher(RecordFilter(types=frozenset({"user.created"})), actor) for _ in range(1000)]
    bystanders += [
        Watcher(RecordFilter(types=frozenset({"meter.created"}), meter_ids=frozenset({"mtr_x"})), actor)
        for _ in range(1000)
    ]
    takers = [
        Watcher(RecordFilter(), actor),
        Watcher(RecordFilter(types=frozenset({"meter_data.received"})), actor),
        Watcher(RecordFilter(meter_ids=frozenset({"mtr_x", "mtr_y"})), actor),
        Watcher(RecordFilter(customer_ids=frozenset({"cus_x"})), actor),
        Watcher(RecordFilter(), Actor("acc", READ, customer_id="cus_x")),
    ]
    for watcher in [*bystanders, *takers]:
        index.add(watcher)  # type: ignore[arg-type]
    found = index.find(event("meter_data.received", "cus_x", ("mtr_x", "mtr_y")))
    assert set(found) == set(takers)
    assert len(found) == len(takers)
    assert [watcher for watcher in bystanders if watcher.asked] == []
    for watcher in [*bystanders, *takers]:
        index.remove(watcher)  # type: ignore[arg-type]
        index.remove(watcher)  # type: ignore[arg-type]
    assert len(index) == 0
