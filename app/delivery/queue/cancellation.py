"""Cancels deliveries that wait for inactive destinations, page by page, however many there are.

Disabling or deleting a destination cancels the first page only, so that no transaction grows with a backlog.
"""

from sqlalchemy import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.kinds import DestinationKind, DestinationKinds
from app.delivery.queue.replays import cancel_running

IDS_AT_ONCE = 10_000
"""Databases take some 32,000 parameters in a statement, and there may be more destinations."""


class Cancellation:
    """Goes once over all destinations that deliveries wait for. Several workers may do it at once."""

    def __init__(self, database: Database, kinds: DestinationKinds) -> None:
        self._database = database
        self._kinds = kinds

    async def run(self) -> None:
        for kind in self._kinds:
            for destination_id in await self._inactive(kind):
                while await self._cancel_page(kind, destination_id) >= leases.CANCELLED_AT_ONCE:
                    failpoints.reach("cancellation.page")

    async def _inactive(self, kind: DestinationKind) -> list[str]:
        """The destinations that deliveries wait for and that take none."""
        async with self._database.reading() as session:
            waiting = await leases.waited_for(session, kind.prefix)
            active: set[str] = set()
            for start in range(0, len(waiting), IDS_AT_ONCE):
                some = kind.table.id.in_(waiting[start : start + IDS_AT_ONCE])
                active |= set(
                    (await session.execute(select(kind.table.id).where(some, kind.is_active))).scalars()
                )
        return sorted(set(waiting) - active)

    async def _cancel_page(self, kind: DestinationKind, destination_id: str) -> int:
        async with self._database.transaction() as session:
            return await cancel_if_inactive(session, kind, destination_id)


async def cancel_if_inactive(session: AsyncSession, kind: DestinationKind, destination_id: str) -> int:
    """Cancel a page of the deliveries that wait for a destination, unless it is active; gives their number.

    The destination is locked before its deliveries, as everywhere: enabled in this moment, it loses none of its new
    deliveries.
    """
    found = select(kind.table.status).where(kind.table.id == destination_id).with_for_update()
    if (await session.execute(found)).scalar_one_or_none() == kind.active_status:
        return 0
    return await leases.cancel_pending(session, destination_id)


async def end_deliveries(session: AsyncSession, destination_id: str) -> None:
    """Cancel a page of the deliveries that wait for a destination that is now inactive, and its replays.

    The destination is locked by the caller. `Cancellation` does the rest, so that nobody waits for a long queue.
    """
    # Replays first: who fills one has it locked before its deliveries.
    await cancel_running(session, destination_id)
    await leases.cancel_pending(session, destination_id)


async def cancel_all_pending(session: AsyncSession, destination_id: str) -> None:
    """Cancel every delivery that waits for the destination, in this transaction."""
    while await leases.cancel_pending(session, destination_id) >= leases.CANCELLED_AT_ONCE:
        pass
