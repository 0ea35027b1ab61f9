"""Verbs over deliveries that features and mutations call. They take a session and never commit."""

from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery.queue import leases


async def cancel_unfinished(session: AsyncSession, destination_id: str) -> None:
    """What still waits for this destination will not be sent, however much it is."""
    while await leases.cancel_pending(session, destination_id) >= leases.CANCELLED_AT_ONCE:
        pass
