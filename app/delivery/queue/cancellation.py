"""The sweep: cancels what waits for destinations that take nothing any more, however much it is, page by page.

Whoever disables or deletes a destination cancels the first page only, so that no transaction grows with a backlog.
"""

from typing import Any

from sqlalchemy import select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.models import (
    EmailSubscription,
    EmailSubscriptionStatus,
    EndpointStatus,
    WebhookEndpoint,
)

ASKED_AT_ONCE = 10_000
"""Databases take some 32,000 parameters in a statement, and there may be more destinations."""

_TAKES: dict[str, tuple[type[Any], str]] = {
    "whe": (WebhookEndpoint, EndpointStatus.ENABLED.value),
    "ems": (EmailSubscription, EmailSubscriptionStatus.ACTIVE.value),
}


class Sweep:
    """One pass over all destinations that something waits for. Several workers may do it at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        for destination_id in await self._left():
            while await self._page(destination_id) >= leases.CANCELLED_AT_ONCE:
                failpoints.reach("sweep.page")

    async def _left(self) -> list[str]:
        """The destinations that something waits for and that take nothing."""
        left: list[str] = []
        for prefix, (model, takes) in _TAKES.items():
            async with self._database.reading() as session:
                waiting = await leases.waited_for(session, prefix)
                found: set[str] = set()
                for start in range(0, len(waiting), ASKED_AT_ONCE):
                    some = waiting[start : start + ASKED_AT_ONCE]
                    taking = select(model.id).where(model.id.in_(some), model.status == takes)
                    found |= set((await session.execute(taking)).scalars())
            left += sorted(set(waiting) - found)
        return left

    async def _page(self, destination_id: str) -> int:
        async with self._database.transaction() as session:
            return await cancel_left(session, destination_id)


async def cancel_left(session: AsyncSession, destination_id: str) -> int:
    """Cancel a page of what waits for a destination, unless it takes deliveries after all; gives how many it were.

    It is locked before its deliveries, as everywhere: enabled in this moment, what it gets from then on is safe.
    """
    model, takes = _TAKES[destination_id.partition("_")[0]]
    found = select(model.status).where(col(model.id) == destination_id).with_for_update()
    if (await session.execute(found)).scalar_one_or_none() == takes:
        return 0
    return await leases.cancel_pending(session, destination_id)
