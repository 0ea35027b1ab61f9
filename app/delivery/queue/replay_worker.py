"""The replay worker makes the deliveries of replays, a page at a time, behind those that are there already.

They go into a lane of their own: a replay of a year delays nobody's fresh events, not even those of its destination.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.db.database import Database, run_script
from app.delivery.queue import leases
from app.delivery.queue.dispatch import delivery_row, insert_deliveries
from app.delivery.queue.filters import MetadataLookup
from app.delivery.queue.kinds import DestinationKinds, MarkDue
from app.delivery.queue.models import Lane, Replay
from app.delivery.queue.replays import events_left, is_running
from app.events.models import EventRecord

EVENTS_AT_ONCE = 500
EVENTS_SEARCHED = 5000
"""How many events of the log one page goes through, for those that are to be sent again."""


class ReplayWorker:
    """Works on the running replays by turns. `mark_due` is called after the commit."""

    def __init__(
        self, database: Database, kinds: DestinationKinds, metadata: MetadataLookup, mark_due: MarkDue
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._metadata = metadata
        self._mark_due = mark_due

    async def run(self) -> None:
        """Return when every running replay has all of its deliveries, or is another worker's."""
        while await self._round():
            pass

    async def _round(self) -> int:
        """Make a page of each running replay that no other worker works on at this moment; gives their number."""
        count, after = 0, ""
        while (replay_id := await self._page(after)) is not None:
            count, after = count + 1, replay_id
        return count

    async def _page(self, after: str) -> str | None:
        async with self._database.transaction() as session:
            # Another worker's replay is passed over, not waited for.
            statement = (
                select(Replay).where(*is_running(), col(Replay.id) > after).order_by(col(Replay.id)).limit(1)
            )
            found = await session.execute(statement.with_for_update(skip_locked=True))
            replay: Replay | None = found.scalar_one_or_none()
            if replay is None:
                return None
            made = await self._make_deliveries(session, replay)
            failpoints.reach("replay.before_commit")
        failpoints.reach("replay.committed")
        if made:
            self._mark_due([replay.destination_id], Lane.REPLAY)
        return replay.id

    async def _make_deliveries(self, session: AsyncSession, replay: Replay) -> int:
        kind = self._kinds.of(replay.destination_id)
        destination = await session.get(kind.table, replay.destination_id)
        if destination is None or destination.status != kind.active_status:
            await _change(session, replay, is_cancelled=True)
            return 0
        # Sequences have no gaps, so that a page ends however few of its events are wanted.
        end = min(replay.position + EVENTS_SEARCHED, replay.through)
        events = await _events(session, events_left(replay, destination, self._metadata), end)
        rows = [delivery_row(replay.account_id, event, destination.id) for event in events]
        if replay.failed_since is not None:
            # Else the receiver would get them from the schedule once more.
            await leases.supersede(session, destination.id, [event.id for event in events])
        await run_script(session, insert_deliveries(rows, replay.id, Lane.REPLAY))
        is_full = len(events) == EVENTS_AT_ONCE
        await _change(session, replay, position=events[-1].sequence if is_full else end)
        return len(rows)


async def _events(session: AsyncSession, left: Select[Any], end: int) -> Sequence[Row[Any]]:
    """The next of these events up to this sequence, in order."""
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
