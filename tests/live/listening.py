"""A hub with its doorbell over a world's database, and sinks that keep their payloads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.auth.actor import Actor
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.database import run_script
from app.events.doorbell import Doorbell
from app.events.publisher import Publisher
from app.live.hub import Hub
from app.live.payload import Batch, Payload
from app.live.sink import DirectWriter
from app.live.subscription import Subscription
from app.meters import actions as meters
from app.meters.models import Meter
from tests.events.broadcasters import becomes
from tests.support import World

SEQUENCES = "subscription($after: String, $filter: EventFilter) { events(after: $after, filter: $filter) { sequence } }"


class Collector:
    """A sink that takes everything, or nothing more once `capacity` payloads wait for `take`."""

    direct_writer: DirectWriter | None = None

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.payloads: list[Payload] = []
        self.waiting = 0
        self.errors: list[dict[str, Any]] | None = None
        self.changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self.capacity is None or self.waiting < self.capacity

    def push(self, batch: Batch) -> bool:
        self.payloads.extend(batch)
        self.waiting += len(batch)
        self.changed.set()
        return self.has_room

    async def wait_for_room(self) -> None:
        await self.until(lambda: self.has_room)

    def error(self, errors: list[dict[str, Any]]) -> None:
        self.errors = errors
        self.changed.set()

    def take(self, count: int) -> None:
        """The consumer takes `count` of the waiting payloads."""
        self.waiting -= count
        self.changed.set()

    def take_all(self) -> None:
        """The consumer keeps up from now on."""
        self.capacity = None
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def count(self, count: int) -> list[Any]:
        """The first `count` responses."""
        await self.until(lambda: len(self.payloads) >= count)
        return self.responses[:count]

    @property
    def responses(self) -> list[Any]:
        return [orjson.loads(payload.body) for payload in self.payloads]

    @property
    def sequences(self) -> list[int]:
        return [payload.sequence for payload in self.payloads]


@dataclass
class Listening:
    """A process's hub over a world."""

    world: World
    hub: Hub
    made: list[str] = field(default_factory=list)

    async def subscribe(
        self,
        actor: Actor,
        query: str = SEQUENCES,
        variables: dict[str, Any] | None = None,
        sink: Collector | None = None,
        after: str | None = None,
    ) -> tuple[Subscription, Collector]:
        sink = sink or Collector()
        prepared = self.world.engine.prepare(query, None, authenticated=True)
        return await self.hub.subscribe(prepared, variables, actor, sink, after), sink

    async def customer(self, actor: Actor, name: str = "Ada") -> Customer:
        """A new customer: one event."""
        self.made.append(name)
        async with self.world.database.transaction() as session:
            email = f"{name.lower()}{len(self.made)}@example.com"
            return await run_script(session, customers.create(session, actor, name=name, email=email))

    async def customers(self, actor: Actor, count: int) -> None:
        """`count` events in one transaction."""
        async with self.world.database.transaction() as session:
            for _ in range(count):
                self.made.append("many")
                email = f"many{len(self.made)}@example.com"
                await run_script(session, customers.create(session, actor, name="Many", email=email))

    async def meter(self, actor: Actor, customer: Customer, number: str = "2499999999991") -> Meter:
        async with self.world.database.transaction() as session:
            return await run_script(
                session, meters.create(session, actor, customer_id=customer.id, number=number)
            )

    async def settled(self) -> None:
        """Return when no event is being handed out."""
        running = [one for feed in self.hub._feeds.values() for one in feed.viewer_groups.values()]
        await becomes(lambda: not any(one._running for one in running))


@asynccontextmanager
async def listening(
    world: World,
    url: str = "memory://",
    *,
    rings: bool = True,
    local: bool = True,
    poll_interval: float = 1.0,
    poll_timeout: float = 5.0,
) -> AsyncIterator[Listening]:
    """Without `rings` no commit is announced; without `local` only the doorbell announces it."""
    async with AsyncExitStack() as stack:
        doorbell = await stack.enter_async_context(Doorbell.from_url(url))
        hub = Hub(
            world.services, world.engine, doorbell, poll_interval=poll_interval, poll_timeout=poll_timeout
        )
        if rings:
            await stack.enter_async_context(Publisher(world.database, doorbell, hub if local else None))
        await stack.enter_async_context(hub)
        yield Listening(world, hub)
