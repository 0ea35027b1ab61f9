"""The dispatcher: reads the log after its position and makes one delivery per matching destination.

The deliveries and the new position are committed together, and a delivery is unique by event, destination and replay,
so that a crash at any point loses nothing and repeats nothing.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import Executable, Select, bindparam, literal, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock, failpoints
from app.core.ids import new_id
from app.db.database import Database, run_script
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.sql import Sql, is_sqlite, rows
from app.delivery.queue import filters
from app.delivery.queue.event_filter import takes_type
from app.delivery.queue.filters import MetadataLookup, Subjects
from app.delivery.queue.models import (
    Digest,
    EmailSubscription,
    EmailSubscriptionStatus,
    EndpointStatus,
    Lane,
    WebhookEndpoint,
)
from app.delivery.queue.periods import next_digest

EVENTS_AT_ONCE = 500
ACCOUNTS_AT_ONCE = 50
DELIVERIES_AT_ONCE = 2000

# Found and locked in one: what another worker is dispatching is passed over, not waited for.
_BEHIND = Sql("""
    SELECT dispatch.account_id, dispatch.sequence
    FROM dispatch JOIN streams ON streams.account_id = dispatch.account_id
    WHERE streams.last_sequence > dispatch.sequence AND dispatch.account_id > :after
    ORDER BY dispatch.account_id LIMIT :most @skip_locked(dispatch)
""")
_BEHIND_AMONG = Sql("""
    SELECT dispatch.account_id, dispatch.sequence
    FROM @rows(account_id text) JOIN dispatch ON dispatch.account_id = given.account_id
        JOIN streams ON streams.account_id = dispatch.account_id
    WHERE streams.last_sequence > dispatch.sequence AND dispatch.account_id > :after
    ORDER BY dispatch.account_id LIMIT :most @skip_locked(dispatch)
""")
# Sequences have no gaps, so a range is a page. PostgreSQL would join by reading the whole log, were it not made one
# search for each account; SQLite does nothing else anyway.
_EVENTS = Sql(
    """
    SELECT page.account_id, page.sequence, page.id, page.type, page.customer_id
    FROM @rows(account_id text, sequence bigint) CROSS JOIN LATERAL (
        SELECT * FROM events WHERE events.account_id = given.account_id
            AND events.sequence > given.sequence AND events.sequence <= given.sequence + :most
        ORDER BY events.sequence LIMIT :most
    ) AS page
    ORDER BY page.account_id, page.sequence
    """,
    sqlite="""
    SELECT events.account_id, events.sequence, events.id, events.type, events.customer_id
    FROM @rows(account_id text, sequence bigint) JOIN events
        ON events.account_id = given.account_id
        AND events.sequence > given.sequence AND events.sequence <= given.sequence + :most
    ORDER BY events.account_id, events.sequence
    """,
)
_INSERT = Sql("""
    INSERT INTO deliveries (id, account_id, event_id, event_sequence, event_type, destination_id, replay_id, status,
        lane, attempts_made, schedule_start, due_at, fence, created_at)
    SELECT given.id, given.account_id, given.event_id, given.event_sequence, given.event_type, given.destination_id,
        :replay_id, 'PENDING', COALESCE(given.lane, :lane), 0, 0, COALESCE(@instant(given.due_at), clock.now), 0,
        clock.now
    FROM @rows(id text, account_id text, event_id text, event_sequence bigint, event_type text, destination_id text,
        lane bigint, due_at bigint),
        (SELECT @now AS now) AS clock
    WHERE TRUE ON CONFLICT DO NOTHING
""")
# The position that was read is the fence: had it moved, the deliveries would be rolled back.
_ADVANCE = Sql("""
    UPDATE dispatch SET sequence = given.reached
    FROM @rows(account_id text, sequence bigint, reached bigint)
    WHERE dispatch.account_id = given.account_id AND dispatch.sequence = given.sequence
    RETURNING dispatch.account_id
""")

Made = Callable[[Collection[str]], None]


class Event(NamedTuple):
    """A row of `_EVENTS`."""

    account_id: str
    sequence: int
    id: str
    type: str
    customer_id: str | None


class Destination(NamedTuple):
    """A row of `_ENDPOINTS` or `_SUBSCRIPTIONS`."""

    id: str
    account_id: str
    first_sequence: int | None
    event_types: list[str] | None
    filter: dict[str, Any] | None
    digest: str


class Found(NamedTuple):
    """What is to be dispatched: the positions of accounts that are behind, the events after them, who may want them."""

    positions: Mapping[str, int]
    events: Sequence[Event] = ()
    destinations: Mapping[str, Sequence[Destination]] = {}
    # How many events of one account were asked for at most.
    page: int = EVENTS_AT_ONCE


class PositionMoved(RuntimeError):
    """Another dispatcher has moved the position although it was locked: nothing of this turn is kept."""


class Dispatcher:
    """Turns events into deliveries. `made` is told which destinations got some, once they are committed."""

    def __init__(self, database: Database, made: Made, metadata: MetadataLookup) -> None:
        self._database = database
        self._metadata = metadata
        self._made = made
        self.dispatched = 0
        # How long it took to find who of all accounts is behind.
        self.look_seconds = 0.0

    async def run(self, among: Collection[str] | None = None) -> int:
        """Dispatch until no account is behind, in rounds, so that none waits for another's backlog; counts events.

        `among`: look at these accounts only, whose number is what it costs then, however many there are.
        """
        total, is_done = 0, False
        while not is_done:
            count, is_done = await self._round(among)
            total += count
        return total

    async def _round(self, among: Collection[str] | None) -> tuple[int, bool]:
        """One page of every account that is behind: how many events, and whether these were all."""
        total, is_done, after = 0, True, ""
        while True:
            count, is_short, last = await self._batch(among, after)
            total += count
            is_done = is_done and is_short
            if last is None:
                return total, is_done
            after = last

    async def _batch(self, among: Collection[str] | None, after: str) -> tuple[int, bool, str | None]:
        """One page of some accounts: how many events, whether no page was full, and the last of more accounts."""
        async with self._database.transaction() as session:
            positions, events, destinations, page = await run_script(
                session, self._look(is_sqlite(session), among, after)
            )
            if not positions:
                return 0, True, None
            subjects = await filters.subjects(session, events, destinations, self._metadata)
            now = clock.now()
            made = [
                delivery_row(event.account_id, event, destination.id) | _waits(destination, now)
                for event in events
                for destination in destinations[event.account_id]
                if _wants(destination, event, subjects)
            ]
            await insert_deliveries(session, made)
            await run_script(session, _advance(_ADVANCE.on(session), positions, events))
            failpoints.reach("dispatch.before_commit")
        failpoints.reach("dispatch.committed")
        self.dispatched += len(events)
        if made:
            self._made({row["destination_id"] for row in made})
        pages = Counter(event.account_id for event in events)
        is_short = max(pages.values(), default=0) < page
        return len(events), is_short, max(positions) if len(positions) == ACCOUNTS_AT_ONCE else None

    def _look(self, on_sqlite: bool, among: Collection[str] | None, after: str) -> Script[Found]:
        """Finds some accounts that are behind, locked, in the order of their ids, and what there is to dispatch."""
        given: dict[str, Any] = {"after": after, "most": ACCOUNTS_AT_ONCE}
        if among is None:
            began = time.monotonic()
            behind = yield _BEHIND.of(on_sqlite), given
            self.look_seconds = time.monotonic() - began
        else:
            given["rows"] = rows({"account_id": account_id} for account_id in among)
            behind = yield _BEHIND_AMONG.of(on_sqlite), given
        positions: dict[str, int] = dict(behind)  # type: ignore[arg-type]
        if not positions:
            return Found(positions)
        page = max(EVENTS_AT_ONCE // len(positions), 1)
        events = yield from read_after(on_sqlite, positions, page)
        # Read after the events: a destination that one of them belongs to was there before it.
        destinations: dict[str, list[Destination]] = defaultdict(list)
        for statement in (_ENDPOINTS, _SUBSCRIPTIONS):
            for row in (yield statement, {"account_ids": pad_to_power_of_two(list(positions))}):
                destinations[row[1]].append(Destination(*row))
        return Found(positions, events, destinations, page)


def read_after(on_sqlite: bool, positions: Mapping[str, int], page: int) -> Script[list[Event]]:
    """The next events after the positions of some accounts, at most so many of each."""
    of = rows({"account_id": key, "sequence": value} for key, value in positions.items())
    found = yield _EVENTS.of(on_sqlite), {"rows": of, "most": page}
    return [Event(*row) for row in found]


def _advance(statement: Executable, positions: Mapping[str, int], events: Sequence[Event]) -> Script[None]:
    reached = {event.account_id: event.sequence for event in events}
    given = [
        {"account_id": account_id, "sequence": positions[account_id], "reached": sequence}
        for account_id, sequence in reached.items()
    ]
    moved = yield statement, {"rows": rows(given)}
    if len(moved) != len(given):
        raise PositionMoved


def delivery_row(account_id: str, event: Any, destination_id: str) -> dict[str, Any]:
    """What `insert_deliveries` takes; the event has `id`, `sequence` and `type`."""
    return {
        "id": new_id("dlv"),
        "account_id": account_id,
        "event_id": event.id,
        "event_sequence": event.sequence,
        "event_type": event.type,
        "destination_id": destination_id,
    }


async def insert_deliveries(
    session: AsyncSession, made: Sequence[Mapping[str, Any]], replay_id: str = "", lane: int = 0
) -> None:
    """Insert deliveries that are due now; those that are there already stay as they are."""
    for start in range(0, len(made), DELIVERIES_AT_ONCE):
        part = made[start : start + DELIVERIES_AT_ONCE]
        await session.execute(_INSERT.on(session), {"rows": rows(part), "replay_id": replay_id, "lane": lane})


def _taking(model: Any, status: Enum, digest: Any) -> Select[Any]:
    """Of each destination what decides whether, and when, it is given an event."""
    columns = (model.id, model.account_id, model.first_sequence, model.event_types, model.filter)
    return select(*columns, digest.label("digest")).where(
        model.account_id.in_(bindparam("account_ids", expanding=True)), model.status == status.value
    )


# They run with every batch of events, and building them takes longer than their execution.
_ENDPOINTS = _taking(WebhookEndpoint, EndpointStatus.ENABLED, literal(Digest.IMMEDIATE.value))
_SUBSCRIPTIONS = _taking(EmailSubscription, EmailSubscriptionStatus.ACTIVE, col(EmailSubscription.digest))


def _wants(destination: Destination, event: Any, subjects: Subjects) -> bool:
    first = destination.first_sequence
    return (
        first is not None
        and event.sequence > first
        and takes_type(destination.event_types, event.type)
        and subjects.fit(destination.filter, event)
    )


def _waits(destination: Destination, now: datetime) -> dict[str, Any]:
    """What a delivery is given that waits for its digest."""
    if destination.digest == Digest.IMMEDIATE.value:
        return {}
    return {"lane": Lane.DIGEST, "due_at": clock.to_ms(next_digest(Digest(destination.digest), now))}
