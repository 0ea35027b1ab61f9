"""Leases: finds destinations with due deliveries and takes some of these by lease, in the database's time.

Every statement here goes through one partial index, (destination, lane, due). Its cost grows with the deliveries that
it takes and with the number of destinations, never with the number of waiting deliveries: a million due for a dead
endpoint slow nobody down.
"""

import itertools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.sql import Sql, is_sqlite, rows
from app.db.types import UtcDateTime
from app.delivery.queue.models import Lane
from app.outbound.lease_times import COUNTED_DUE

CANCELLED_AT_ONCE = 2000
SENDING_LANES = (Lane.FRESH, Lane.RETRY, Lane.REPLAY)

# Each step of the recursion is one search for the next destination. Claimed deliveries do not count as due.
_FOUND = """
    WITH RECURSIVE found(id) AS (
        SELECT (SELECT destination_id FROM deliveries WHERE due_at IS NOT NULL AND destination_id >= :first
            ORDER BY destination_id LIMIT 1)
        UNION ALL
        SELECT (SELECT destination_id FROM deliveries WHERE due_at IS NOT NULL AND destination_id > found.id
            ORDER BY destination_id LIMIT 1)
        FROM found WHERE found.id < :beyond
    )
"""
_DESTINATIONS = Sql(f"{_FOUND} SELECT found.id FROM found WHERE found.id < :beyond")  # noqa: S608 - our own text
_COUNT_DUE = Sql("""
    SELECT COUNT(*) FROM (
        SELECT 1 FROM deliveries WHERE due_at IS NOT NULL AND destination_id >= :first AND destination_id < :beyond
            AND lane IN (SELECT given.lane FROM @rows(lane bigint)) AND due_at <= (SELECT @now) LIMIT :most
    ) AS due
""")
_DUE = Sql(
    f"""
    {_FOUND},
    clock(now) AS (SELECT @now)
    SELECT * FROM (
        SELECT found.id AS destination_id, lanes.lane, clock.now,
            (SELECT due_at FROM deliveries WHERE due_at IS NOT NULL AND destination_id = found.id
                AND deliveries.lane = lanes.lane AND (leased_until IS NULL OR leased_until <= clock.now)
                ORDER BY due_at LIMIT 1) AS due_at
        FROM found, clock, (SELECT lane FROM @rows(lane bigint)) AS lanes
        WHERE found.id < :beyond
    ) AS due WHERE due_at IS NOT NULL
    """,  # noqa: S608 - our own text
    {"now": UtcDateTime(), "due_at": UtcDateTime()},
)

# The columns of `PickedDelivery`. An event's data is given as text, because a driver would parse it in Python only.
_CLAIMED = """
    SELECT picked.id, picked.account_id, picked.event_id, picked.event_sequence, picked.event_type,
        picked.test_event, picked.destination_id, picked.replay_id, picked.lane, picked.body, picked.attempts_made,
        picked.schedule_start, picked.fence, picked.created_at,
        events.occurred_at, CAST(events.data AS TEXT) AS data, events.subject_id, events.customer_id
"""
_ITS_EVENT = """
    COALESCE(LENGTH(picked.body), 0) = 0
    AND events.account_id = picked.account_id AND events.sequence = picked.event_sequence
"""
# One search for each: PostgreSQL expects more deliveries than are picked, and would read the whole log for them.
_EVENT = f"""
    LEFT JOIN LATERAL (SELECT * FROM events WHERE {_ITS_EVENT} LIMIT 1) AS events ON TRUE
    ORDER BY picked.due_at, picked.id
"""  # noqa: S608 - our own text
_EVENT_SQLITE = f"LEFT JOIN events ON {_ITS_EVENT} ORDER BY picked.due_at, picked.id"
_IS_FREE = """
    waiting.due_at <= (SELECT @now)
    AND (waiting.leased_until IS NULL OR waiting.leased_until <= (SELECT @now))
"""
_FREE = f"""
    SELECT {{columns}} FROM deliveries AS waiting
    WHERE waiting.destination_id = given.destination_id AND waiting.lane = given.lane AND {_IS_FREE}
    ORDER BY waiting.due_at, waiting.id
"""  # noqa: S608 - our own text
# SQLite has no LATERAL, but its one writer needs no lock either; a surplus of rows is cut off afterwards.
_PICK = Sql(
    f"""
    {_CLAIMED} FROM @rows(destination_id text, lane bigint, count bigint)
    CROSS JOIN LATERAL ({_FREE.format(columns="*")} LIMIT given.count @skip_locked(waiting)) AS picked {_EVENT}
    """,
    {"occurred_at": UtcDateTime(), "created_at": UtcDateTime()},
    sqlite=f"""
    {_CLAIMED} FROM @rows(destination_id text, lane bigint, count bigint)
    CROSS JOIN deliveries AS picked ON picked.id IN ({_FREE.format(columns="waiting.id")} LIMIT :most)
    {_EVENT_SQLITE}
    """,
)
# The next delivery of a destination with an order: the failed one, until it has ended, or else the oldest. While one is
# under way it is that one, which is not free.
_HEADS = " UNION ALL ".join(
    f"""
    SELECT * FROM (
        SELECT id, lane, due_at, leased_until FROM deliveries
        WHERE destination_id = given.destination_id AND lane = {int(lane)} AND due_at IS NOT NULL
        ORDER BY due_at, id LIMIT 1
    ) AS lane_{int(lane)}
    """  # noqa: S608 - our own text
    for lane in (Lane.RETRY, Lane.FRESH, Lane.REPLAY)
)
_HEAD = f"""
    SELECT heads.id FROM ({_HEADS}) AS heads
    ORDER BY CASE WHEN heads.leased_until > (SELECT @now) THEN 0 WHEN heads.lane = {int(Lane.RETRY)} THEN 1 ELSE 2 END,
        heads.due_at, heads.id
    LIMIT 1
"""  # noqa: S608 - our own text
_PICK_HEAD = Sql(
    f"""
    {_CLAIMED} FROM @rows(destination_id text)
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries AS waiting WHERE waiting.id = ({_HEAD}) AND {_IS_FREE} @skip_locked(waiting)
    ) AS picked {_EVENT}
    """,  # noqa: S608 - our own text
    {"occurred_at": UtcDateTime(), "created_at": UtcDateTime()},
    sqlite=f"""
    {_CLAIMED} FROM @rows(destination_id text)
    CROSS JOIN deliveries AS picked ON picked.id IN (
        SELECT waiting.id FROM deliveries AS waiting WHERE waiting.id = ({_HEAD}) AND {_IS_FREE}
    ) {_EVENT_SQLITE}
    """,  # noqa: S608 - our own text
)
_LEASE = Sql("""
    UPDATE deliveries SET leased_until = @later(:seconds), fence = deliveries.fence + 1,
        body = COALESCE(deliveries.body, @bytes(given.body))
    FROM @lists(id text, body text) WHERE deliveries.id = given.id
""")
_KEEP = Sql("""
    UPDATE deliveries SET body = @bytes(given.body)
    FROM @rows(id text, body text, fence bigint)
    WHERE deliveries.id = given.id AND deliveries.fence = given.fence AND deliveries.body IS NULL
    RETURNING deliveries.id
""")
_HELD = Sql("""
    SELECT given.id, given.fence, deliveries.attempts_made FROM @rows(id text, fence bigint)
    JOIN deliveries ON deliveries.id = given.id AND deliveries.fence = given.fence
""")
_RELEASE = Sql("""
    UPDATE deliveries SET leased_until = NULL
    FROM @rows(id text, fence bigint) WHERE deliveries.id = given.id AND deliveries.fence = given.fence
""")
# Chosen in the order of the index, so that a page costs the same however many wait; locked in the order of their ids,
# as everything that locks several deliveries, so that none waits in a circle.
_CANCEL = Sql("""
    UPDATE deliveries SET status = 'CANCELLED', due_at = NULL, leased_until = NULL, finished_at = @now
    WHERE id IN (
        SELECT id FROM deliveries WHERE due_at IS NOT NULL AND id IN (
            SELECT id FROM deliveries WHERE due_at IS NOT NULL AND destination_id = :destination_id
            ORDER BY lane, due_at, id LIMIT :most
        ) ORDER BY id @lock(deliveries)
    )
""")
_CANCEL_ONE = Sql("""
    UPDATE deliveries SET status = 'CANCELLED', due_at = NULL, leased_until = NULL, finished_at = @now
    FROM @rows(id text) WHERE deliveries.id = given.id
""")
# A delivery that is under way is left alone.
_SUPERSEDE = Sql("""
    UPDATE deliveries SET status = 'CANCELLED', due_at = NULL, leased_until = NULL, finished_at = @now
    WHERE id IN (
        SELECT deliveries.id FROM @rows(event_id text) JOIN deliveries ON deliveries.event_id = given.event_id
        WHERE deliveries.destination_id = :destination_id AND deliveries.status = 'FAILED'
        AND deliveries.due_at IS NOT NULL
        AND (deliveries.leased_until IS NULL OR deliveries.leased_until <= (SELECT @now))
        ORDER BY deliveries.id @lock(deliveries)
    )
""")


Key = tuple[str, int]
"""The id and the fence of a claim: a delivery that was claimed again is another claim."""


@dataclass(frozen=True, slots=True)
class DueLane:
    """A lane of a destination, and the seconds until its first free delivery is due; 0 or less: now."""

    destination_id: str
    lane: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """A number of deliveries to take from a lane of a destination."""

    destination_id: str
    lane: int
    count: int


class PickedDelivery(NamedTuple):
    """A picked delivery and, if it keeps no body, its event; read several times faster than a row of SQLAlchemy."""

    id: str
    account_id: str
    event_id: str
    # None for a test, which brings its event along.
    event_sequence: Any
    event_type: str
    test_event: Any
    destination_id: str
    replay_id: str
    lane: int
    body: bytes | None
    attempts_made: int
    schedule_start: int
    fence: int
    created_at: datetime
    # Of the event; None if it is gone, or was not needed.
    occurred_at: Any
    data: Any
    subject_id: Any
    customer_id: str | None


@dataclass(slots=True)
class Claim:
    """A delivery that this worker holds. `target` is its destination as it was in the claiming transaction."""

    id: str
    account_id: str
    event_id: str
    destination_id: str
    replay_id: str
    lane: int
    attempt: int
    schedule_start: int
    fence: int
    body: bytes
    target: Any
    # On this process's monotonic clock: from then on someone else may hold it.
    expires_at: float
    # Whether nothing else goes to the destination before this has ended.
    ordered: bool = False

    @classmethod
    def of(cls, row: PickedDelivery | Row[Any], body: bytes | str, target: Any, expires_at: float) -> Self:
        """The claim on a delivery that was picked and leased."""
        return cls(
            id=row.id,
            account_id=row.account_id,
            event_id=row.event_id,
            destination_id=row.destination_id,
            replay_id=row.replay_id,
            lane=row.lane,
            attempt=row.attempts_made + 1,
            schedule_start=row.schedule_start,
            fence=row.fence + 1,
            body=body.encode() if isinstance(body, str) else bytes(body),
            target=target,
            expires_at=expires_at,
            ordered=target.ordered,
        )

    @property
    def key(self) -> Key:
        return self.id, self.fence

    @property
    def attempt_in_schedule(self) -> int:
        """1 for the schedule's first attempt, also of the one that a retry by hand began."""
        return self.attempt - self.schedule_start


async def waited_for(session: AsyncSession, prefix: str) -> list[str]:
    """The destinations whose ids begin with `prefix` and that deliveries wait for, due or not."""
    found = await session.execute(_DESTINATIONS.on(session), _range(prefix))
    return list(found.scalars())


async def count_due(session: AsyncSession, prefix: str, lanes: Sequence[Lane] = SENDING_LANES) -> int:
    """Count the due deliveries to such destinations in these lanes, up to `COUNTED_DUE`."""
    given = rows({"lane": int(lane)} for lane in lanes)
    values = {**_range(prefix), "rows": given, "most": COUNTED_DUE}
    return int((await session.execute(_COUNT_DUE.on(session), values)).scalar_one())


async def due_lanes(
    session: AsyncSession, prefix: str, lanes: Sequence[Lane] = SENDING_LANES
) -> list[DueLane]:
    """These lanes with free deliveries, of the destinations whose ids begin with `prefix`."""
    given = rows({"lane": int(lane)} for lane in lanes)
    found = await session.execute(_DUE.on(session), _range(prefix) | {"rows": given})
    return [DueLane(one.destination_id, one.lane, (one.due_at - one.now).total_seconds()) for one in found]


def _range(prefix: str) -> dict[str, str]:
    return {"first": f"{prefix}_", "beyond": f"{prefix}`"}


async def pick(session: AsyncSession, wanted: Sequence[Wanted]) -> list[PickedDelivery]:
    """Due deliveries with their events, locked until the transaction ends: now `lease` or leave them."""
    given = [{"destination_id": one.destination_id, "lane": one.lane, "count": one.count} for one in wanted]
    values: dict[str, Any] = {"rows": rows(given)}
    if not is_sqlite(session):
        return [PickedDelivery(*row) for row in await session.execute(_PICK.on(session), values)]
    values["most"] = max(one.count for one in wanted)
    left = {(one.destination_id, one.lane): one.count for one in wanted}
    picked = []
    for row in itertools.starmap(PickedDelivery, await session.execute(_PICK.on(session), values)):
        if left[row.destination_id, row.lane] > 0:
            left[row.destination_id, row.lane] -= 1
            picked.append(row)
    return picked


async def pick_heads(session: AsyncSession, destination_ids: Collection[str]) -> list[PickedDelivery]:
    """Like `pick`, at most one for each destination: the next in its order, if that is due and free."""
    given = rows({"destination_id": one} for one in sorted(destination_ids))
    return [PickedDelivery(*row) for row in await session.execute(_PICK_HEAD.on(session), {"rows": given})]


async def lease(session: AsyncSession, bodies: Mapping[str, str | None], seconds: float) -> float:
    """Hold these deliveries for `seconds`; a body (as text, by id; None: later) is kept if there was none before.

    Gives the end of the lease on the monotonic clock, a little early rather than late.
    """
    ends_at = time.monotonic() + seconds
    await session.execute(_LEASE.on(session), {"rows": rows(bodies.items()), "seconds": seconds})
    return ends_at


async def keep(
    session: AsyncSession, claimed: Sequence[PickedDelivery], bodies: Mapping[str, str]
) -> set[str]:
    """Keep bodies that were made after the claim; gives the ids of the deliveries that are still held."""
    given = [
        {"id": row.id, "body": bodies[row.id], "fence": row.fence + 1} for row in claimed if row.id in bodies
    ]
    return set((await session.execute(_KEEP.on(session), {"rows": rows(given)})).scalars())


async def still_held(session: AsyncSession, claims: Sequence[Claim]) -> dict[Key, int]:
    """The number of recorded attempts of each delivery that nobody has claimed since."""
    given = [{"id": one.id, "fence": one.fence} for one in claims]
    found = await session.execute(_HELD.on(session), {"rows": rows(given)})
    return {(one.id, one.fence): one.attempts_made for one in found}


async def release(session: AsyncSession, claims: Sequence[Claim]) -> None:
    """Give deliveries back untried, for anyone to claim at once."""
    given = [{"id": one.id, "fence": one.fence} for one in claims]
    await session.execute(_RELEASE.on(session), {"rows": rows(given)})


async def cancel_pending(session: AsyncSession, destination_id: str) -> int:
    """Cancel at most CANCELLED_AT_ONCE deliveries that wait for a destination; gives their number."""
    values = {"destination_id": destination_id, "most": CANCELLED_AT_ONCE}
    done = await session.execute(_CANCEL.on(session), values)
    return done.rowcount  # type: ignore[attr-defined, no-any-return]


async def cancel(session: AsyncSession, delivery_ids: Sequence[str]) -> None:
    """Cancel single deliveries, such as those whose event is gone."""
    await session.execute(_CANCEL_ONE.on(session), {"rows": rows({"id": one} for one in delivery_ids)})


async def supersede(session: AsyncSession, destination_id: str, event_ids: Iterable[str]) -> None:
    """Cancel failed deliveries of these events, whose place newer deliveries take."""
    given = rows({"event_id": one} for one in event_ids)
    await session.execute(_SUPERSEDE.on(session), {"rows": given, "destination_id": destination_id})
