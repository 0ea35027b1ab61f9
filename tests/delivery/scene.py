"""A scene for delivery tests: accounts and their events, destinations, workers, and the resulting deliveries."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, Scope
from app.core import clock, failpoints
from app.core.ids import new_id
from app.customers.events import CUSTOMER_EXAMPLE, CustomerCreated
from app.db.database import Database
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.destinations.webhook.signing import new_key_pair, new_secret
from app.delivery.queue import deliveries
from app.delivery.queue.kinds import DestinationKinds
from app.delivery.queue.models import Delivery, DeliveryAttempt
from app.events import log
from app.events.doorbell import Doorbell
from app.events.models import Dispatch, EventRecord, Stream
from app.events.publisher import DISPATCH_CHANNEL
from app.graphql.context import Services
from app.outbound.mail.models import TransactionalMail
from app.server.worker import Worker
from tests.services.patience import PATIENCE
from tests.support import World, world


class Points:
    """Counts failpoints as they are reached, and lets a test wait for them or act at them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.on: dict[str, Callable[[], object]] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def reach(self, name: str) -> None:
        self.counts[name] += 1
        # Scripts reach their points in the writer's thread.
        self._loop.call_soon_threadsafe(self._changed.set)
        if name in self.on:
            self.on[name]()

    async def wait_for(self, name: str, count: int = 1) -> None:
        """Wait until the failpoint was reached `count` times."""
        async with asyncio.timeout(PATIENCE):
            while self.counts[name] < count:
                await self.next()

    async def next(self) -> None:
        """Wait until any failpoint is reached."""
        self._changed.clear()
        await self._changed.wait()


def admin(account_id: str) -> Actor:
    """An actor that may do everything in the account."""
    return Actor(account_id, frozenset([Scope.ADMIN]))


@dataclass(frozen=True)
class Endpoint:
    id: str
    secret: str
    public_key: str


@dataclass
class Scene:
    """A world with an open doorbell and a watch on failpoints."""

    world: World
    doorbell: Doorbell
    points: Points
    secrets: dict[str, str] = field(default_factory=dict)
    """Of the endpoints, by their ids."""

    @property
    def services(self) -> Services:
        return self.world.services

    @property
    def database(self) -> Database:
        return self.world.database

    async def account(self) -> str:
        return (await self.world.account()).id

    async def endpoint(self, account_id: str, url: str, **values: Any) -> Endpoint:
        """Make an endpoint that takes the events from now on."""
        secret, (private_key, public_key) = new_secret(), new_key_pair()
        async with self.database.transaction() as session:
            endpoint = WebhookEndpoint(
                account_id=account_id,
                url=url,
                secret_encrypted=self.services.keyring.encrypt(secret),
                signing_key_encrypted=self.services.keyring.encrypt(private_key),
                public_key=public_key,
                **{"first_sequence": await log.lock_position(session, account_id)} | values,
            )
            session.add(endpoint)
        self.secrets[endpoint.id] = secret
        return Endpoint(endpoint.id, secret, public_key)

    async def subscription(self, account_id: str, email: str, **values: Any) -> str:
        """Make an active subscription to the events from now on."""
        async with self.database.transaction() as session:
            subscription = EmailSubscription(
                account_id=account_id,
                email=email,
                **{
                    "first_sequence": await log.lock_position(session, account_id),
                    "status": EmailSubscriptionStatus.ACTIVE.value,
                }
                | values,
            )
            session.add(subscription)
        return subscription.id

    async def happen(self, account_id: str, count: int = 1, **data: Any) -> list[EventRecord]:
        """Append the events of `count` new customers."""
        async with self.database.transaction() as session:
            for _ in range(count):
                content = {**CUSTOMER_EXAMPLE, **data, "id": new_id("cus")}
                log.append(session, account_id, CustomerCreated.model_validate(content))
        await self.doorbell.publish(DISPATCH_CHANNEL, account_id)
        async with self.database.reading() as session:
            last = (
                select(EventRecord)
                .where(col(EventRecord.account_id) == account_id)
                .order_by(col(EventRecord.sequence).desc())
                .limit(count)
            )
            return list((await session.execute(last)).scalars())[::-1]

    async def deliveries(self, **values: Any) -> list[Delivery]:
        """The deliveries with these values, in the order they were made."""
        statement = select(Delivery).filter_by(**values).order_by(col(Delivery.id))
        async with self.database.reading() as session:
            return list((await session.execute(statement)).scalars())

    async def attempts(self, delivery_id: str) -> list[DeliveryAttempt]:
        statement = (
            select(DeliveryAttempt)
            .where(col(DeliveryAttempt.delivery_id) == delivery_id)
            .order_by(col(DeliveryAttempt.number))
        )
        async with self.database.reading() as session:
            return list((await session.execute(statement)).scalars())

    async def row(self, model: Any, key: Any) -> Any:
        async with self.database.reading() as session:
            return await session.get(model, key)

    async def change(self, model: Any, key: str, **values: Any) -> None:
        async with self.database.transaction() as session:
            await session.execute(update(model).where(model.id == key).values(**values))

    async def run_out_leases(self) -> None:
        """Let every lease run out."""
        async with self.database.transaction() as session:
            for model in (Delivery, TransactionalMail):
                leased = col(model.leased_until).is_not(None)  # type: ignore[attr-defined]
                await session.execute(update(model).where(leased).values(leased_until=clock.from_ms(0)))

    async def settled(self) -> None:
        """Wait until all events are dispatched and no delivery is unfinished."""
        await self.until(self.nothing_waits)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds; it is checked after every failpoint."""
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await self.points.next()

    async def nothing_waits(self) -> bool:
        """Whether all events are dispatched and no delivery is unfinished."""
        behind = select(col(Dispatch.account_id)).join(
            Stream,
            (col(Stream.account_id) == col(Dispatch.account_id))
            & (col(Stream.last_sequence) > col(Dispatch.sequence)),
        )
        waiting = select(col(Delivery.id)).where(col(Delivery.due_at).is_not(None))
        async with self.database.reading() as session:
            first = [(await session.execute(one.limit(1))).first() for one in (behind, waiting)]
        return first == [None, None]

    @asynccontextmanager
    async def worker(self, **parts: Any) -> AsyncIterator[Worker]:
        """Run a worker until the block ends."""
        worker = Worker(self.services, self.doorbell, **parts)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.stop()
            await running


@contextmanager
def watched_points() -> Iterator[Points]:
    watching = Points()
    failpoints.watchers.append(watching.reach)
    try:
        yield watching
    finally:
        failpoints.watchers.remove(watching.reach)


@asynccontextmanager
async def open_scene(
    database_url: str, kinds: DestinationKinds = KINDS, **settings: Any
) -> AsyncIterator[Scene]:
    """A scene over an empty database; webhooks may go to this machine."""
    with TemporaryDirectory() as folder, watched_points() as watching:
        chosen = {
            "webhook_allow_networks": ["127.0.0.0/8"],
            "webhook_timeout": 5,
            "data_dir": folder,
        } | settings
        async with world(database_url, kinds, **chosen) as opened, Doorbell.from_url("memory://") as doorbell:
            yield Scene(opened, doorbell, watching)


async def send_test(session: AsyncSession, actor: Actor, endpoint_id: str, kind: str) -> Delivery:
    """Send a test event to an endpoint, as the mutation does."""
    endpoint = await endpoints.load_enabled(session, actor, endpoint_id)
    return await deliveries.send_test(session, WEBHOOK, endpoint, kind)
