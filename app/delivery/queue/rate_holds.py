"""Holds: a destination with a rate belongs to one worker at a time, which alone can keep the rate."""

from collections.abc import Sequence

from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.sql import Sql, rows
from app.delivery.queue.kinds import DestinationKind
from app.outbound.lease_times import queue_seconds

LONGEST_PACE = 1.0
"""Seconds between two requests at the lowest rate."""

# Locked in the order of the ids, as everywhere.
_HOLD = """
    UPDATE {table} SET held_by = :worker_id, held_until = @later(:seconds)
    FROM (
        SELECT held.id FROM @rows(id text) JOIN {table} AS held ON held.id = given.id
            AND (held.held_by IS NULL OR held.held_by = :worker_id OR held.held_until <= @now)
        ORDER BY held.id @lock(held)
    ) AS free
    WHERE {table}.id = free.id
    RETURNING {table}.id
"""
_RELEASE = "UPDATE {table} SET held_by = NULL, held_until = NULL WHERE held_by = :worker_id"


class RateHolds:
    """The holds of one worker on destinations of one kind. A destination's order needs none: deliveries show it."""

    def __init__(self, kind: DestinationKind, worker_id: str, timeout: float) -> None:
        table = kind.table.__tablename__
        self._hold, self._release = Sql(_HOLD.format(table=table)), Sql(_RELEASE.format(table=table))
        self._worker_id = worker_id
        # For as long as the worker may begin what it claims now.
        self._seconds = queue_seconds(timeout) + LONGEST_PACE
        self._is_used = False

    async def take(self, session: AsyncSession, destination_ids: Sequence[str]) -> set[str]:
        """Hold these destinations anew; gives those that no other worker holds."""
        if not destination_ids:
            return set()
        self._is_used = True
        values = {
            "rows": rows({"id": one} for one in destination_ids),
            "worker_id": self._worker_id,
            "seconds": self._seconds,
        }
        return set((await session.execute(self._hold.on(session), values)).scalars())

    async def release(self, session: AsyncSession) -> None:
        """Let other workers send at once to the destinations that this one held."""
        if self._is_used:
            await session.execute(self._release.on(session), {"worker_id": self._worker_id})
