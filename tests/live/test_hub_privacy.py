"""Each viewer gets the same beside any others as it would get alone, and shares only data that both may see."""

import asyncio
import dataclasses
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.auth.actor import Actor, Scope
from app.core import clock
from app.customers.models import Customer
from app.events import cursors, log
from app.events.catalogue import event_class
from app.events.models import EventMeter, EventRecord
from app.graphql.context import Context
from app.live.payload import Payload
from tests.live.listening import Collector, Listening, listening
from tests.services.patience import PATIENCE
from tests.support import TestAccount, World

READ = frozenset({Scope.READ})
WRITE = frozenset({Scope.READ, Scope.WRITE})
# Viewers differ: a consent's link needs WRITE, a sequence a viewer of the whole account.
SELECTIONS = (
    "id",
    "id sequence",
    "id cursor data",
    "id ... on MeterCreatedEvent { meter { number customer { id name } } }",
    "id ... on MeterCreatedEvent { meter { hostedConsent { id link } } }",
    "id sequence ... on CustomerCreatedEvent { customer { email meters(first: 1) { nodes { number } } } }",
)
ARGUMENTS = "($after: String, $filter: EventFilter)"
CONSENT = "mutation ($input: CreateHostedConsentInput!) { createHostedConsent(input: $input) { userErrors { code } } }"


@dataclass
class Tenant:
    account: TestAccount
    admin: Actor
    customers: list[Customer] = field(default_factory=list)
    meter_ids: list[str] = field(default_factory=list)


@dataclass
class Watcher:
    """A subscription: its viewer, its request and its sink."""

    viewer: Actor
    selection: str
    after: int
    variables: dict[str, Any]
    sink: Collector

    @property
    def events(self) -> list[Any]:
        return [response["data"]["events"] for response in self.sink.responses]


@dataclass
class Scene:
    live: Listening
    chance: random.Random
    tenants: list[Tenant]
    meters: int = 0

    def __post_init__(self) -> None:
        self.selections = self.chance.sample(SELECTIONS, 2)

    @property
    def world(self) -> World:
        return self.live.world

    def viewer(self) -> Actor:
        """A random viewer, often different from another in one property only."""
        tenant = self.chance.choice(self.tenants)
        plain = Actor(tenant.account.id, READ, "key_1")
        bound = dataclasses.replace(plain, customer_id=self.chance.choice(tenant.customers[:2]).id)
        token = dataclasses.replace(self.chance.choice([plain, bound]), is_stream_token=True)
        other_key = dataclasses.replace(self.chance.choice([plain, bound]), api_key_id="key_2")
        writer = dataclasses.replace(plain, scopes=WRITE)
        return self.chance.choice([plain, bound, token, other_key, writer])

    def filter(self) -> dict[str, Any] | None:
        """A random filter, with the ids of other tenants too."""
        customers = [tenant.customers[0].id for tenant in self.tenants]
        meters = [tenant.meter_ids[1] for tenant in self.tenants]
        choices: list[dict[str, Any] | None] = [
            None,
            {"types": ["METER_CREATED"]},
            {"customerIds": customers},
            {"meterIds": meters},
            {"types": ["METER_CREATED", "USER_CREATED"], "customerIds": customers},
        ]
        return self.chance.choices(choices, [5, 2, 1, 1, 1])[0]

    async def happen(self) -> None:
        tenant = self.chance.choice(self.tenants)
        if self.chance.random() < 0.3:
            await self.live.customer(tenant.admin, "Late")
        else:
            self.meters += 1
            customer = self.chance.choice(tenant.customers)
            meter = await self.live.meter(tenant.admin, customer, f"{1_000_000 + self.meters}")
            tenant.meter_ids.append(meter.id)

    async def watch(self) -> Watcher:
        """A new subscription from now or an earlier event on, with a quick consumer or a slow one."""
        viewer, wanted, selection = self.viewer(), self.filter(), self.chance.choice(self.selections)
        async with self.world.database.reading() as session:
            stream = await log.stream(session, viewer.account_id)
        after = self.chance.choice([stream.last_sequence, self.chance.randrange(stream.last_sequence)])
        cursor = cursors.encode(self.world.services.keyring, viewer.account_id, stream.epoch, after)
        variables = {"after": cursor, "filter": wanted}
        sink = Collector(capacity=self.chance.choice([None, None, 1, 3]))
        query = f"subscription {ARGUMENTS} {{ events(after: $after, filter: $filter) {{ {selection} }} }}"
        await self.live.subscribe(viewer, query, variables, sink)
        return Watcher(viewer, selection, after, variables, sink)

    async def alone(self, watcher: Watcher) -> list[Any]:
        """The same events by a query of the viewer's."""
        query = (
            f"query {ARGUMENTS} {{ events(first: 100, after: $after, filter: $filter) "
            f"{{ nodes {{ {watcher.selection} }} }} }}"
        )
        prepared = self.world.engine.prepare(query, None, authenticated=True)
        context = Context(self.world.services, watcher.viewer)
        answer = await self.world.engine.execute(prepared, watcher.variables, context)
        assert "errors" not in answer
        nodes: list[Any] = answer["data"]["events"]["nodes"]
        return nodes


def is_for(watcher: Watcher, record: EventRecord, meter_ids: set[str]) -> bool:
    """The plain rule: the event is of the viewer's account and customer, after the cursor, and in the filter."""
    viewer, wanted = watcher.viewer, watcher.variables["filter"] or {}
    return (
        record.account_id == viewer.account_id
        and viewer.customer_id in (None, record.customer_id)
        and record.sequence > watcher.after
        and ("types" not in wanted or event_class(record.type).constant() in wanted["types"])
        and ("customerIds" not in wanted or record.customer_id in wanted["customerIds"])
        and ("meterIds" not in wanted or not meter_ids.isdisjoint(wanted["meterIds"]))
    )


async def everything(world: World) -> list[tuple[EventRecord, set[str]]]:
    """All events of all accounts in order, with the meters they name."""
    named: dict[tuple[str, int], set[str]] = defaultdict(set)
    async with world.database.reading() as session:
        for row in (await session.execute(select(EventMeter))).scalars():
            named[row.account_id, row.sequence].add(row.meter_id)
        records = (await session.execute(select(EventRecord).order_by(col(EventRecord.sequence)))).scalars()
        return [(record, named[record.account_id, record.sequence]) for record in records]


async def tenant_of(live: Listening) -> Tenant:
    """An account with three customers, each with a meter and a pending consent."""
    account = await live.world.account()
    tenant = Tenant(account, (await live.world.authenticator.authenticate(account.key)).actor)
    for number in range(3):
        customer = await live.customer(tenant.admin, f"Customer{number}")
        meter = await live.meter(tenant.admin, customer)
        tenant.customers.append(customer)
        tenant.meter_ids.append(meter.id)
        asked = {
            "customerId": customer.id,
            "flowType": "GB_COMMERCIAL_BLANKET",
            "expiry": (clock.now() + timedelta(days=100)).date().isoformat(),
            "redirectUrl": "https://example.com/done",
        }
        made = await live.world.data(CONSENT, {"input": asked}, key=account.key)
        assert made["createHostedConsent"]["userErrors"] == []
    return tenant


@pytest.mark.long(keep=3, of="turn")
@pytest.mark.parametrize("turn", range(20))
async def test_each_viewer_gets_what_it_would_get_alone(world: World, turn: int, seed: str) -> None:
    async with listening(world) as live:
        scene = Scene(live, random.Random(seed), [await tenant_of(live), await tenant_of(live)])
        watchers = []
        for _ in range(20):
            watchers += [await scene.watch() for _ in range(5)]
            await asyncio.gather(*(scene.happen() for _ in range(2)))
        for watcher in watchers:
            watcher.sink.take_all()

        log_of_all = await everything(world)
        shared: dict[int, tuple[Payload, list[Watcher]]] = {}
        for watcher in watchers:
            expected = [record.id for record, meters in log_of_all if is_for(watcher, record, meters)]
            async with asyncio.timeout(PATIENCE):
                await watcher.sink.count(len(expected))
            assert [event["id"] for event in watcher.events] == expected
            assert watcher.events == await scene.alone(watcher)
            for payload in watcher.sink.payloads:
                shared.setdefault(id(payload), (payload, []))[1].append(watcher)

        # Some executions must have been shared, and only between equal viewers.
        assert sum(len(sharers) > 1 for _, sharers in shared.values()) > 20
        for payload, sharers in shared.values():
            (record,) = [
                one
                for one, _ in log_of_all
                if (one.account_id, one.sequence) == (sharers[0].viewer.account_id, payload.sequence)
            ]
            for sharer in sharers:
                assert record.account_id == sharer.viewer.account_id
                assert sharer.viewer.customer_id in (None, record.customer_id)
            assert len({(one.viewer.sees_whole_account, one.viewer.scopes) for one in sharers}) == 1
