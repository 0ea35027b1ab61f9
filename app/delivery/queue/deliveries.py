"""Verbs over deliveries: send one again, send a test. They take a session and never commit."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.core.errors import ErrorCode, Refusal, not_found
from app.core.ids import new_id
from app.db.types import database_now
from app.delivery.destinations.webhook import endpoints
from app.delivery.queue.models import (
    Delivery,
    DeliveryStatus,
    EmailSubscription,
    EmailSubscriptionStatus,
    EndpointStatus,
    Lane,
    WebhookEndpoint,
)
from app.events.catalogue import EventType, event_class
from app.events.models import EventRecord
from app.events.publisher import work_due

TEST_PREFIX: Final = "evt_test"


async def send_again(session: AsyncSession, actor: Actor, delivery_id: str) -> Delivery:
    """The delivery, due now, its schedule begun anew; one that succeeded is sent once more.

    An endpoint that asked to be left alone is asked again: who retries by hand knows that it is well, or learns that
    it is not.

    Raises NOT_FOUND, and CONFLICT where it waits for its first try or is under way, its destination takes nothing, or
    its event is past retention.
    """
    found = visible(select(Delivery).where(col(Delivery.id) == delivery_id), actor)
    delivery: Delivery | None = (await session.execute(found)).scalar_one_or_none()
    if delivery is None:
        raise not_found("delivery", "deliveryId")
    # The destination before its deliveries, as everywhere, so that two transactions cannot deadlock.
    await _require_destination(session, actor, delivery)
    await session.refresh(delivery, with_for_update=True)
    now = await _database_time(session)
    _require_idle(delivery, now)
    await _require_event(session, actor, delivery)
    delivery.status = DeliveryStatus.PENDING.value
    # What was part of a digest comes as a mail of its own.
    delivery.lane, delivery.digest_id = Lane.RETRY, None
    delivery.schedule_start = delivery.attempts_made
    delivery.due_at, delivery.leased_until, delivery.finished_at = now, None, None
    work_due(session, actor.account_id)
    return delivery


async def send_test(session: AsyncSession, actor: Actor, endpoint_id: str, kind: EventType) -> Delivery:
    """The catalogue's example on its way to an endpoint, outside the log and the streams.

    Raises NOT_FOUND, and CONFLICT for a disabled endpoint.
    """
    endpoint = await endpoints.load(session, actor, endpoint_id, "webhookEndpointId", lock=True)
    endpoints.require_enabled(endpoint, "webhookEndpointId")
    endpoint.paused_until = None
    delivery = Delivery(
        account_id=endpoint.account_id,
        event_id=new_id(TEST_PREFIX),
        event_type=kind.value,
        test_event=event_class(kind.value).example,
        destination_id=endpoint.id,
        due_at=await _database_time(session),
    )
    session.add(delivery)
    await session.flush()
    work_due(session, actor.account_id)
    return delivery


def _require_idle(delivery: Delivery, now: datetime) -> None:
    if delivery.status == DeliveryStatus.PENDING.value:
        raise _conflict("This delivery is waiting to be sent already.")
    if delivery.leased_until is not None and delivery.leased_until > now:
        raise _conflict("This delivery is being tried at this moment; look at its attempts.")


async def _require_destination(session: AsyncSession, actor: Actor, delivery: Delivery) -> None:
    """It is locked, so that it cannot be disabled or deleted while the delivery is put in its queue."""
    if delivery.destination_id.startswith("whe_"):
        model: Any = WebhookEndpoint
        takes, gone = EndpointStatus.ENABLED.value, "This delivery's endpoint is disabled or deleted"
    else:
        model = EmailSubscription
        takes, gone = EmailSubscriptionStatus.ACTIVE.value, "This delivery's subscription is not active"
    found = visible(select(model).where(model.id == delivery.destination_id), actor).with_for_update()
    destination = (await session.execute(found)).scalar_one_or_none()
    if destination is None or destination.status != takes:
        raise _conflict(f"{gone}, so nothing can be sent to it.")
    if isinstance(destination, WebhookEndpoint):
        destination.paused_until = None


async def _require_event(session: AsyncSession, actor: Actor, delivery: Delivery) -> None:
    if delivery.test_event is not None:
        return
    there = visible(select(EventRecord).where(col(EventRecord.id) == delivery.event_id), actor)
    if (await session.execute(there.with_only_columns(col(EventRecord.id)))).first() is None:
        raise _conflict("This delivery's event is past retention, so there is nothing left to send.")


def _conflict(sentence: str) -> Refusal:
    return Refusal(ErrorCode.CONFLICT, sentence, "deliveryId")


async def _database_time(session: AsyncSession) -> datetime:
    """What is due is claimed by the database's clock, so it is also set by it."""
    now: datetime = (await session.execute(select(database_now()))).scalar_one()
    return now
