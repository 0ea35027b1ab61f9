"""The replay filler: makes a replay's deliveries, a page at a time, behind those that are there already.

They go into a lane of their own: a replay of a year delays nobody's fresh events, not even its own endpoint's.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.dispatch import delivery_row, insert_deliveries
from app.delivery.queue.filters import MetadataLookup
from app.delivery.queue.models import EndpointStatus, Lane, Replay, WebhookEndpoint
from app.delivery.queue.replays import events_left
from app.events.models import EventRecord

EVENTS_AT_ONCE = 500
LOOKED_AT_ONCE = 5000
"""How many events a page looks at, for those that are to be sent again."""

Made = Callable[[Collection[str], int], None]


class Refill:
    """Fills running replays by turns. `made` is told whose endpoints got deliveries, once they are committed."""

    def __init__(self, database: Database, made: Made, metadata: MetadataLookup) -> None:
        self._database = database
        self._metadata = metadata
        self._made = made
        self._last = ""

    async def run(self) -> None:
        """Until every replay that runs has all of its deliveries, or is another worker's."""
        while await self._round():
            pass

    async def _round(self) -> int:
        """One page of each running replay that no other worker fills at this moment; gives how many they were."""
        count, after = 0, ""
        while (replay_id := await self._page(after)) is not None:
            count, after = count + 1, replay_id
        return count

    async def _page(self, after: str) -> str | None:
        async with self._database.transaction() as session:
            # Another worker's replay is passed over, not waited for.
            statement = _running().where(col(Replay.id) > after).order_by(col(Replay.id)).limit(1)
            found = await session.execute(statement.with_for_update(skip_locked=True))
            replay: Replay | None = found.scalar_one_or_none()
            if replay is None:
                return None
            endpoint = await session.get(WebhookEndpoint, replay.webhook_endpoint_id)
            made = await self._fill(session, replay, endpoint)
            failpoints.reach("replay.before_commit")
        failpoints.reach("replay.committed")
        if made:
            self._made([replay.webhook_endpoint_id], Lane.REPLAY)
        return replay.id

    async def _fill(self, session: AsyncSession, replay: Replay, endpoint: WebhookEndpoint | None) -> int:
        if endpoint is None or endpoint.status != EndpointStatus.ENABLED.value:
            await _change(session, replay, is_cancelled=True)
            return 0
        # Sequences have no gaps, so that a page ends however few of its events are wanted.
        end = min(replay.position + LOOKED_AT_ONCE, replay.through)
        events = await _events(session, events_left(replay, endpoint, self._metadata), end)
        rows = [delivery_row(replay.account_id, event, endpoint.id) for event in events]
        if replay.failed_since is not None:
            # Else the receiver would get them from the schedule once more.
            await leases.supersede(session, endpoint.id, [event.id for event in events])
        await insert_deliveries(session, rows, replay.id, Lane.REPLAY)
        is_full = len(events) == EVENTS_AT_ONCE
        await _change(session, replay, position=events[-1].sequence if is_full else end)
        return len(rows)


def _running() -> Any:
    return select(Replay).where(
        col(Replay.is_cancelled).is_(False), col(Replay.position) < col(Replay.through)
    )


async def _events(session: AsyncSession, left: Select[Any], end: int) -> Sequence[Row[Any]]:
    """The next events of the replay up to this sequence, in order."""
    statement = (
        left.where(col(EventRecord.sequence) <= end)
        .with_only_columns(col(EventRecord.id), col(EventRecord.sequence), col(EventRecord.type))
        .order_by(col(EventRecord.sequence))
        .limit(EVENTS_AT_ONCE)
    )
    return (await session.execute(statement)).all()


async def _change(session: AsyncSession, replay: Replay, **values: Any) -> None:
    await session.execute(
        update(Replay).where(col(Replay.id) == replay.id).values(**values),
        execution_options={"synchronize_session": False},
    )
