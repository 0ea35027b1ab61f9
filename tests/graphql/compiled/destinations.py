"""Random destinations of every kind and state, and deliveries to them from an account's log."""

import random
from datetime import timedelta

from sqlalchemy import select
from sqlmodel import col

from app.auth.actor import Actor
from app.core import clock
from app.delivery.destinations.email import subscriptions
from app.delivery.destinations.email.models import Digest
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.destinations.webhook.models import EndpointStatus
from app.delivery.queue import filters, replays
from app.delivery.queue.attempt_store import body_digest
from app.delivery.queue.models import Delivery, DeliveryAttempt, DeliveryStatus
from app.events.models import EventRecord
from app.outbound.attempt import AttemptOutcome
from tests.delivery.scene import send_test
from tests.support import World

RETENTION = timedelta(days=90)
BODY = b'{"type": "meter.created"}'


async def random_destinations(world: World, admin: Actor, chance: random.Random) -> None:
    """Makes endpoints and subscriptions, deletes one of each again, and makes deliveries, test events and a replay."""
    destinations = [await _endpoint(world, admin, chance, number) for number in range(4)]
    await _of_the_endpoints(world, admin, destinations)
    destinations += [await _subscription(world, admin, chance, number) for number in range(3)]
    async with world.database.transaction() as session:
        found = await session.execute(
            select(EventRecord).where(col(EventRecord.account_id) == admin.account_id)
        )
        for event in found.scalars():
            for destination_id in chance.sample(destinations, 2):
                delivery = _delivery(event, destination_id, chance)
                session.add(delivery)
                await session.flush()
                session.add_all(_attempts(delivery, chance))
    async with world.database.transaction() as session:
        await endpoints.delete(session, admin, destinations[3])
        await subscriptions.delete(session, admin, world.services.mail_links, destinations[-1])


async def _endpoint(world: World, admin: Actor, chance: random.Random, number: int) -> str:
    async with world.database.transaction() as session:
        endpoint, _secret = await endpoints.create(
            session,
            admin,
            world.services.keyring,
            [],
            url=f"https://hooks.example.com/{number}",
            description=chance.choice([None, "Höok"]),
            event_types=chance.choice([None, ["meter.*"], ["user.created", "customer.created"]]),
            filter=chance.choice(
                [None, filters.checked_filter({"customer_ids": ["cus_1"], "metadata": {"site": "a"}})]
            ),
            selection=chance.choice([None, "{ id name }"]),
            headers=chance.choice([None, {"x-token": "a long secret of the receiver"}]),
            ordered=chance.choice([True, False]),
            rate_limit=chance.choice([None, 7]),
        )
        return endpoint.id


async def _of_the_endpoints(world: World, admin: Actor, ids: list[str]) -> None:
    keyring = world.services.keyring
    async with world.database.transaction() as session:
        for kind in ("meter.created", "user.created"):
            await send_test(session, admin, ids[0], kind)
        yesterday = clock.now() - timedelta(days=1)
        endpoint = await endpoints.load_enabled(session, admin, ids[1])
        missed = replays.Range(failed_since=yesterday)
        await replays.create(session, keyring, RETENTION, WEBHOOK, endpoint, missed)
        changes = {"status": EndpointStatus.DISABLED}
        await endpoints.update_endpoint(session, admin, keyring, [], ids[2], changes)


async def _subscription(world: World, admin: Actor, chance: random.Random, number: int) -> str:
    async with world.database.transaction() as session:
        subscription = await subscriptions.create(
            session,
            admin,
            world.services.mail_links,
            email=f"s{number}@example.com",
            description=chance.choice([None, "Office"]),
            event_types=chance.choice([None, ["hosted_consent.*"]]),
            filter=chance.choice([None, filters.checked_filter({"meter_ids": ["mtr_1"]})]),
            digest=chance.choice(list(Digest)),
        )
        return subscription.id


def _delivery(event: EventRecord, destination_id: str, chance: random.Random) -> Delivery:
    # Retention has removed the events of some.
    event_id = event.id if chance.random() < 0.9 else f"{event.id[:-4]}gone"
    status = chance.choice(list(DeliveryStatus))
    delivery = Delivery(
        account_id=event.account_id,
        event_id=event_id,
        event_sequence=event.sequence,
        event_type=event.type,
        destination_id=destination_id,
        status=status.value,
        body=chance.choice([None, b"", BODY]),
    )
    if status not in (DeliveryStatus.PENDING, DeliveryStatus.FAILED):
        delivery.due_at, delivery.finished_at = None, clock.now()
    return delivery


def _attempts(delivery: Delivery, chance: random.Random) -> list[DeliveryAttempt]:
    return [
        DeliveryAttempt(
            delivery_id=delivery.id,
            number=number,
            at=clock.now(),
            duration_ms=chance.randint(1, 900),
            outcome=chance.choice(list(AttemptOutcome)).value,
            response_status=chance.choice([None, 200, 503]),
            response_body=chance.choice([None, 'No "room"']),
            error=chance.choice([None, "The connection was refused."]),
            request_headers=chance.choice([None, '{"webhook-id": "evt_1"}']),
            request_digest=chance.choice([None, body_digest(BODY), "0"]),
        )
        for number in range(1, chance.randint(1, 4))
    ]
