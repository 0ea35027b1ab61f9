"""The replay filler: makes a replay's deliveries, a page at a time, behind those that are there already.

They go into a lane of their own: a replay of a year delays nobody's fresh events, not even its own endpoint's.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import points
from app.database import Database
from app.delivery.dispatch import delivery_row, insert_deliveries
from app.delivery.models import EndpointStatus, Lane, Replay, WebhookEndpoint
from app.delivery.replays import events_left
from app.events.models import EventRecord

EVENTS_AT_ONCE = 500

Made = Callable[[Collection[str], int], None]


class Refill:
    """Fills running replays by turns. `made` is told whose endpoints got deliveries, once they are committed."""

    def __init__(self, database: Database, made: Made) -> None:
        self._database = database
        self._made = made
        self._last = ""

    async def run(self) -> None:
        """Until every replay that runs has all of its deliveries."""
        while await self._any():
            await self._round()

    async def _any(self) -> bool:
        async with self._database.reading() as session:
            return (await session.execute(_running().limit(1))).first() is not None

    async def _round(self) -> None:
        """One page of each running replay."""
        after = ""
        while (replay_id := await self._page(after)) is not None:
            after = replay_id

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
            points.reach("replay.before_commit")
        points.reach("replay.committed")
        if made:
            self._made([replay.webhook_endpoint_id], Lane.REPLAY)
        return replay.id

    async def _fill(self, session: AsyncSession, replay: Replay, endpoint: WebhookEndpoint | None) -> int:
        if endpoint is None or endpoint.status != EndpointStatus.ENABLED.value:
            await _change(session, replay, is_cancelled=True)
            return 0
        events = await _events(session, replay, endpoint)
        rows = [delivery_row(replay.account_id, event, endpoint.id) for event in events]
        await insert_deliveries(session, rows, replay.id, Lane.REPLAY)
        is_last = len(events) < EVENTS_AT_ONCE
        await _change(session, replay, position=replay.through if is_last else events[-1].sequence)
        return len(rows)


def _running() -> Any:
    return select(Replay).where(
        col(Replay.is_cancelled).is_(False), col(Replay.position) < col(Replay.through)
    )


async def _events(session: AsyncSession, replay: Replay, endpoint: WebhookEndpoint) -> Sequence[Row[Any]]:
    """The next events of the replay, in order."""
    statement = (
        events_left(replay, endpoint)
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
