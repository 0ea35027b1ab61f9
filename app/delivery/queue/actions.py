"""Verbs over deliveries that features and mutations call. They take a session and never commit."""

from sqlalchemy import delete
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery.queue import leases
from app.delivery.queue.models import OutgoingMail


async def cancel_unfinished(session: AsyncSession, destination_id: str) -> None:
    """What still waits for this destination will not be sent, however much it is."""
    while await leases.cancel_pending(session, destination_id) >= leases.CANCELLED_AT_ONCE:
        pass


async def forget_mails_about(session: AsyncSession, about_id: str) -> None:
    """Mails about a subscription, user or endpoint that goes: those that wait are not sent, and none is kept."""
    await session.execute(
        delete(OutgoingMail).where(col(OutgoingMail.about_id) == about_id),
        execution_options={"synchronize_session": False},
    )
