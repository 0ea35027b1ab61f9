"""Helpers that make endpoints, subscriptions and deliveries, and read them."""

from typing import Any

import orjson
from sqlalchemy import select, update
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.metadata import METADATA
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.models import Delivery, DeliveryAttempt, DeliveryStatus
from app.outbound.mail.mail_queue import enqueue
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.rendering import Mail
from tests.accounts.state import mutation
from tests.meters.asking import run
from tests.support import TestAccount, World

URL = "https://hooks.example.com/voltwire"
ENDPOINT = "id url description eventTypes status disabledReason disabledAt createdAt updatedAt"
SUBSCRIPTION = "id email description eventTypes status suspendedReason createdAt updatedAt"
DELIVERY = "id status nextAttemptAt createdAt event { id } endpoint { id } emailSubscription { id }"

CREATE_ENDPOINT = mutation("createWebhookEndpoint", f"webhookEndpoint {{ {ENDPOINT} }} secret")
UPDATE_ENDPOINT = mutation("updateWebhookEndpoint", f"webhookEndpoint {{ {ENDPOINT} }}")
DELETE_ENDPOINT = mutation("deleteWebhookEndpoint", "deletedId")
ROTATE = mutation("rotateWebhookSecret", f"webhookEndpoint {{ {ENDPOINT} }} secret")
TEST_EVENT = mutation("sendTestEvent", f"delivery {{ {DELIVERY} }}")
RETRY = mutation("retryDelivery", f"delivery {{ {DELIVERY} }}")
REPLAY = mutation("replayEvents", "replay { id status total done createdAt }")
CREATE_SUBSCRIPTION = mutation("createEmailSubscription", f"emailSubscription {{ {SUBSCRIPTION} }}")
UPDATE_SUBSCRIPTION = mutation("updateEmailSubscription", f"emailSubscription {{ {SUBSCRIPTION} }}")
DELETE_SUBSCRIPTION = mutation("deleteEmailSubscription", "deletedId")
RESEND = mutation("resendConfirmation", f"emailSubscription {{ {SUBSCRIPTION} }}")
CREATE_CUSTOMER = mutation("createCustomer", "customer { id }")


async def make_endpoint(world: World, account: TestAccount, **values: Any) -> str:
    payload = await run(world, account, CREATE_ENDPOINT, **{"url": URL, **values})
    assert payload["userErrors"] == []
    identifier: str = payload["webhookEndpoint"]["id"]
    return identifier


async def make_subscription(
    world: World, account: TestAccount, email: str = "grace@example.com", **values: Any
) -> str:
    payload = await run(world, account, CREATE_SUBSCRIPTION, email=email, **values)
    assert payload["userErrors"] == []
    identifier: str = payload["emailSubscription"]["id"]
    return identifier


async def make_events(world: World, account: TestAccount, *names: str) -> None:
    """Create a customer of each name."""
    for name in names:
        payload = await run(world, account, CREATE_CUSTOMER, name=name, email=f"{name.lower()}@example.com")
        assert payload["userErrors"] == []


async def dispatch(world: World) -> None:
    """Turn the log into deliveries, as the worker does."""
    await Dispatcher(world.database, KINDS, METADATA, lambda *_: None).run()


async def deliveries_of(world: World, destination_id: str) -> list[Delivery]:
    """The deliveries to a destination, oldest first."""
    statement = (
        select(Delivery).where(col(Delivery.destination_id) == destination_id).order_by(col(Delivery.id))
    )
    async with world.database.reading() as session:
        return list((await session.execute(statement)).scalars())


async def end_delivery(world: World, delivery_id: str, status: DeliveryStatus, attempts: int = 1) -> None:
    """Set a delivery to a state after `attempts` attempts."""
    at = clock.now()
    waits = status is DeliveryStatus.FAILED
    async with world.database.transaction() as session:
        for number in range(1, attempts + 1):
            session.add(
                DeliveryAttempt(
                    delivery_id=delivery_id,
                    number=number,
                    at=at,
                    duration_ms=12,
                    outcome="SUCCEEDED" if status is DeliveryStatus.SUCCEEDED else "HTTP_STATUS",
                    response_status=200 if status is DeliveryStatus.SUCCEEDED else 500,
                    response_body="ok" if status is DeliveryStatus.SUCCEEDED else "no",
                    error=None if status is DeliveryStatus.SUCCEEDED else "The receiver answered 500.",
                )
            )
        await session.execute(
            update(Delivery)
            .where(col(Delivery.id) == delivery_id)
            .values(
                status=status.value,
                attempts_made=attempts,
                due_at=at if waits else None,
                finished_at=None if waits else at,
                body=b"{}",
            )
        )


async def endpoint_row(world: World, endpoint_id: str) -> WebhookEndpoint:
    async with world.database.reading() as session:
        return await session.get_one(WebhookEndpoint, endpoint_id)


async def subscription_row(world: World, subscription_id: str) -> EmailSubscription:
    async with world.database.reading() as session:
        return await session.get_one(EmailSubscription, subscription_id)


async def activate(world: World, subscription_id: str) -> None:
    async with world.database.transaction() as session:
        subscription = await session.get_one(EmailSubscription, subscription_id)
        subscription.status = EmailSubscriptionStatus.ACTIVE.value
        subscription.first_sequence = 0


async def outgoing_mails(world: World) -> list[tuple[str, dict[str, str]]]:
    """Recipient and content of each queued mail, oldest first."""
    async with world.database.reading() as session:
        rows = (
            await session.execute(select(TransactionalMail).order_by(col(TransactionalMail.id)))
        ).scalars()
        return [
            (row.recipient, orjson.loads(world.services.keyring.decrypt(row.content_encrypted or "")))
            for row in rows
        ]


async def queue_mail(world: World, account_id: str, recipient: str, subject: str = "Your code") -> str:
    """Queue a mail that is not about an event; gives its id."""
    content = Mail(subject, "It is 123456.\n", "<p>It is 123456.</p>")
    async with world.database.transaction() as session:
        return enqueue(session, world.services.keyring, account_id, recipient, content).id


async def outgoing_done(world: World) -> bool:
    """Whether all transactional mails were sent or given up."""
    async with world.database.reading() as session:
        waiting = select(col(TransactionalMail.id)).where(col(TransactionalMail.due_at).is_not(None))
        return (await session.execute(waiting)).first() is None


async def confirmation_token(world: World) -> str:
    """The token in the latest confirmation mail."""
    _, mail = (await outgoing_mails(world))[-1]
    link = next(line for line in mail["text"].splitlines() if "/confirm/" in line)
    return link.rpartition("/")[2]


async def some_deliveries(world: World, account: TestAccount, *names: str) -> tuple[str, list[Delivery]]:
    """An endpoint with a pending delivery of one event for each name, oldest first."""
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, *names)
    await dispatch(world)
    return endpoint_id, await deliveries_of(world, endpoint_id)


def now() -> str:
    return clock.format_utc(clock.now())
