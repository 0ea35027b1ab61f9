"""Verbs over deliveries: send one again, send a test. They take a session and never commit."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, load_visible, visible
from app.core.errors import ErrorCode, Refusal
from app.core.ids import new_id
from app.db.types import database_now
from app.delivery.queue.kinds import DestinationKind, DestinationKinds
from app.delivery.queue.models import Delivery, DeliveryStatus, Lane
from app.events.catalogue import event_class
from app.events.models import EventRecord
from app.events.publisher import work_due

TEST_PREFIX: Final = "evt_test"


async def send_again(
    session: AsyncSession, actor: Actor, kinds: DestinationKinds, delivery_id: str
) -> Delivery:
    """The delivery, due now, its schedule begun anew; one that succeeded is sent once more.

    A destination that asked for a pause is asked again at once: a retry by hand comes from somebody who knows that it
    is well, or wants to find out.

    Raises NOT_FOUND, and CONFLICT where it waits for its first try or is under way, its destination takes nothing, or
    its event is past retention.
    """
    delivery = await load_visible(session, actor, Delivery, delivery_id, "delivery", "deliveryId")
    # The destination before its deliveries, as everywhere, so that two transactions cannot deadlock.
    await _wake_destination(session, actor, kinds.of(delivery.destination_id), delivery.destination_id)
    await session.refresh(delivery, with_for_update=True)
    now = await _database_time(session)
    _require_idle(delivery, now)
    await _require_event(session, actor, delivery)
    delivery.status = DeliveryStatus.PENDING.value
    # A part of a digest becomes a delivery of its own.
    delivery.lane, delivery.digest_id = Lane.RETRY, None
    delivery.schedule_start = delivery.attempts_made
    delivery.due_at, delivery.leased_until, delivery.finished_at = now, None, None
    work_due(session, actor.account_id)
    return delivery


async def send_test(
    session: AsyncSession, kind: DestinationKind, destination: Any, event_type: str
) -> Delivery:
    """The catalogue's example on its way to an active destination, outside the log and the streams.

    The caller has locked the destination.
    """
    kind.end_pause(destination)
    delivery = Delivery(
        account_id=destination.account_id,
        event_id=new_id(TEST_PREFIX),
        event_type=event_type,
        test_event=event_class(event_type).example,
        destination_id=destination.id,
        due_at=await _database_time(session),
    )
    session.add(delivery)
    await session.flush()
    work_due(session, destination.account_id)
    return delivery


def _require_idle(delivery: Delivery, now: datetime) -> None:
    if delivery.status == DeliveryStatus.PENDING.value:
        raise _conflict("This delivery is waiting to be sent already.")
    if delivery.leased_until is not None and delivery.leased_until > now:
        raise _conflict("This delivery is being tried at this moment; look at its attempts.")


async def _wake_destination(
    session: AsyncSession, actor: Actor, kind: DestinationKind, destination_id: str
) -> None:
    """Lock the destination, so that it cannot be disabled or deleted meanwhile, and end its pause."""
    found = visible(select(kind.table).where(kind.table.id == destination_id), actor).with_for_update()
    destination = (await session.execute(found)).scalar_one_or_none()
    if destination is None or destination.status != kind.active_status:
        raise _conflict(f"This delivery's {kind.noun} {kind.inactive}, so nothing can be sent to it.")
    kind.end_pause(destination)


async def _require_event(session: AsyncSession, actor: Actor, delivery: Delivery) -> None:
    if delivery.test_event is not None:
        return
    there = visible(select(EventRecord).where(col(EventRecord.id) == delivery.event_id), actor)
    if (await session.execute(there.with_only_columns(col(EventRecord.id)))).first() is None:
        raise _conflict("This delivery's event is past retention, so there is nothing left to send.")


def _conflict(sentence: str) -> Refusal:
    return Refusal(ErrorCode.CONFLICT, sentence, "deliveryId")


async def _database_time(session: AsyncSession) -> datetime:
    """Deliveries are claimed by the database's clock, so their due time is set by it."""
    now: datetime = (await session.execute(select(database_now()))).scalar_one()
    return now
