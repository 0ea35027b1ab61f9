"""Verbs over deliveries that features and mutations call. They take a session and never commit."""

from sqlalchemy import delete, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery import claims
from app.delivery.models import Delivery, OutgoingMail
from app.events.models import EventRecord


async def forget_unsent_bodies(session: AsyncSession, account_id: str, customer_id: str) -> None:
    """A deleted customer's data must not go out any more: bodies about it, those already delivered included, are made
    anew from the redacted log should they be sent once more."""
    about = select(col(EventRecord.sequence)).where(
        col(EventRecord.account_id) == account_id, col(EventRecord.customer_id) == customer_id
    )
    await session.execute(
        update(Delivery)
        .where(
            col(Delivery.account_id) == account_id,
            col(Delivery.event_sequence).in_(about),
        )
        .values(body=None)
    )


async def cancel_unfinished(session: AsyncSession, destination_id: str) -> None:
    """What still waits for this destination will not be sent, however much it is."""
    while await claims.cancel_pending(session, destination_id) >= claims.CANCELLED_AT_ONCE:
        pass


async def forget_mails_about(session: AsyncSession, about_id: str) -> None:
    """Mails about a subscription, user or endpoint that goes: those that wait are not sent, and none is kept."""
    await session.execute(
        delete(OutgoingMail).where(col(OutgoingMail.about_id) == about_id),
        execution_options={"synchronize_session": False},
    )
