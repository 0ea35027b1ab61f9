"""The dispatcher reads the log after its position and makes one delivery per matching destination.

The deliveries and the new position are committed together, and a delivery is unique by event, destination and replay,
so that a crash at any point loses nothing and repeats nothing.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.core import clock, failpoints
from app.core.ids import new_id
from app.db.database import Database
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.scripts import is_on_sqlite
from app.db.sql import Sql, rows
from app.delivery.queue import filters
from app.delivery.queue.filters import MetadataLookup, Subjects
from app.delivery.queue.kinds import DestinationKinds, MarkDue
from app.delivery.queue.models import Lane
from app.events.event_type_filter import takes_type
from app.events.models import Dispatch, Stream

EVENTS_AT_ONCE = 500
ACCOUNTS_AT_ONCE = 50
DELIVERIES_AT_ONCE = 2000

# Finds and locks in one statement: accounts that another worker is dispatching are passed over, not waited for.
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
    FROM @lists(id text, account_id text, event_id text, event_sequence bigint, event_type text, destination_id text,
        lane bigint, due_at bigint),
        (SELECT @now AS now) AS clock
    WHERE TRUE ON CONFLICT DO NOTHING
""")
_GIVEN = itemgetter(
    "id", "account_id", "event_id", "event_sequence", "event_type", "destination_id", "lane", "due_at"
)
# The position that was read is the fence: had it moved, the deliveries would be rolled back.
_ADVANCE = Sql("""
    UPDATE dispatch SET sequence = given.reached
    FROM @rows(account_id text, sequence bigint, reached bigint)
    WHERE dispatch.account_id = given.account_id AND dispatch.sequence = given.sequence
    RETURNING dispatch.account_id
""")


class LoggedEvent(NamedTuple):
    """A row of `_EVENTS`."""

    account_id: str
    sequence: int
    id: str
    type: str
    customer_id: str | None


class Candidate(NamedTuple):
    """An active destination, as `DestinationKinds.candidates` selects it."""

    id: str
    account_id: str
    first_sequence: int | None
    event_types: list[str] | None
    filter: dict[str, Any] | None
    batching: str | None


class Backlog(NamedTuple):
    """Some accounts that are behind: their positions, the events after these, and the active destinations."""

    positions: Mapping[str, int]
    events: Sequence[LoggedEvent] = ()
    candidates: Mapping[str, Sequence[Candidate]] = {}
    # The most events that were asked for of one account.
    page: int = EVENTS_AT_ONCE


class PositionMoved(RuntimeError):
    """Another dispatcher has moved the position although it was locked: nothing of this turn is kept."""


class Dispatcher:
    """Turns events into deliveries. `mark_due` is called after the commit."""

    def __init__(
        self, database: Database, kinds: DestinationKinds, metadata: MetadataLookup, mark_due: MarkDue
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._metadata = metadata
        self._mark_due = mark_due
        self._rung_behind = (
            select(
                col(Dispatch.account_id),
                col(Stream.last_sequence),
                kinds.has_active(col(Dispatch.account_id)),
            )
            .join(Stream, col(Stream.account_id) == col(Dispatch.account_id))
            .where(
                col(Dispatch.account_id).in_(bindparam("account_ids", expanding=True)),
                col(Stream.last_sequence) > col(Dispatch.sequence),
            )
        )
        # Sequences through which accounts without destinations were left behind since all were dispatched.
        self._left: dict[str, int] = {}
        self.dispatched = 0
        # How long it took to find the accounts that are behind, among all.
        self.search_seconds = 0.0

    async def run_for(self, rung: Collection[str]) -> int:
        """Dispatch for those of these accounts that have destinations; counts events, or accounts with new ones.

        An account without destinations takes no transaction for each of its events: its position is moved when all
        accounts are dispatched. A destination that is made meanwhile takes the events after its making all the same.
        """
        if not rung:
            return 0
        behind = await self._database.read(
            self._rung_behind, {"account_ids": pad_to_power_of_two(list(rung))}
        )
        wanting = [account_id for account_id, _, has_destinations in behind if has_destinations]
        if wanting:
            return await self.run(wanting)
        last: dict[str, int] = {account_id: sequence for account_id, sequence, _ in behind}
        count = sum(self._left.get(account_id, 0) < sequence for account_id, sequence in last.items())
        self._left |= last
        return count

    async def run(self, among: Collection[str] | None = None) -> int:
        """Dispatch until no account is behind, in rounds, so that none waits for another's backlog; counts events.

        With `among` the cost grows with the number of these accounts, not with that of all.
        """
        total, is_done = 0, False
        if among is None:
            self._left.clear()
        while not is_done:
            count, is_done = await self._round(among)
            total += count
        return total

    async def _round(self, among: Collection[str] | None) -> tuple[int, bool]:
        """Dispatch a page of every account that is behind; gives the number of events, and whether these were all."""
        total, is_done, after = 0, True, ""
        while True:
            count, is_short, last = await self._batch(among, after)
            total += count
            is_done = is_done and is_short
            if last is None:
                return total, is_done
            after = last

    async def _batch(self, among: Collection[str] | None, after: str) -> tuple[int, bool, str | None]:
        """Dispatch a page of some accounts.

        Gives the number of events, whether no page was full, and the last account if there may be more.
        """
        (positions, events, _, page), due = await self._database.transact(
            lambda transaction: self._dispatch(is_on_sqlite(transaction), among, after)
        )
        if not positions:
            return 0, True, None
        failpoints.reach("dispatch.committed")
        self.dispatched += len(events)
        if due:
            self._mark_due(due, Lane.FRESH)
        pages = Counter(event.account_id for event in events)
        is_short = max(pages.values(), default=0) < page
        return len(events), is_short, max(positions) if len(positions) == ACCOUNTS_AT_ONCE else None

    def _dispatch(
        self, on_sqlite: bool, among: Collection[str] | None, after: str
    ) -> Script[tuple[Backlog, set[str]]]:
        """Makes the deliveries of some accounts, and gives their destinations."""
        backlog = yield from self._find_backlog(on_sqlite, among, after)
        positions, events, candidates, _ = backlog
        if not positions:
            return backlog, set()
        subjects = yield from filters.subjects(events, candidates, self._metadata)
        now = clock.now()
        made = [
            delivery_row(event.account_id, event, candidate.id) | self._batched(candidate, now)
            for event in events
            for candidate in candidates.get(event.account_id, ())
            if _wants(candidate, event, subjects)
        ]
        yield from insert_deliveries(made)
        yield from _advance(positions, events)
        failpoints.reach("dispatch.before_commit")
        return backlog, {row["destination_id"] for row in made}

    def _find_backlog(self, on_sqlite: bool, among: Collection[str] | None, after: str) -> Script[Backlog]:
        """Finds some accounts that are behind, in the order of their ids, and locks their positions."""
        given: dict[str, Any] = {"after": after, "most": ACCOUNTS_AT_ONCE}
        if among is None:
            began = time.monotonic()
            behind = yield _BEHIND.of(on_sqlite), given
            self.search_seconds = time.monotonic() - began
        else:
            given["rows"] = rows({"account_id": account_id} for account_id in among)
            behind = yield _BEHIND_AMONG.of(on_sqlite), given
        positions: dict[str, int] = dict(behind)  # type: ignore[arg-type]
        if not positions:
            return Backlog(positions)
        page = max(EVENTS_AT_ONCE // len(positions), 1)
        events = yield from read_after(on_sqlite, positions, page)
        # Read after the events: a destination whose creation one of them tells of was there before it.
        candidates: dict[str, list[Candidate]] = defaultdict(list)
        for row in (yield self._kinds.candidates, {"account_ids": pad_to_power_of_two(list(positions))}):
            candidates[row[1]].append(Candidate(*row))
        return Backlog(positions, events, candidates, page)

    def _batched(self, candidate: Candidate, now: datetime) -> dict[str, Any]:
        """Lane and time of a delivery that waits to be sent with others."""
        if candidate.batching is None:
            return {}
        batching = self._kinds.of(candidate.id).batching
        due_at = None if batching is None else batching.due_at(candidate.batching, now)
        return {} if due_at is None else {"lane": Lane.DIGEST, "due_at": clock.to_ms(due_at)}


def read_after(on_sqlite: bool, positions: Mapping[str, int], page: int) -> Script[list[LoggedEvent]]:
    """The next events after the positions of some accounts, at most `page` of each."""
    of = rows({"account_id": key, "sequence": value} for key, value in positions.items())
    found = yield _EVENTS.of(on_sqlite), {"rows": of, "most": page}
    return [LoggedEvent(*row) for row in found]


def _advance(positions: Mapping[str, int], events: Sequence[LoggedEvent]) -> Script[None]:
    reached = {event.account_id: event.sequence for event in events}
    given = [
        {"account_id": account_id, "sequence": positions[account_id], "reached": sequence}
        for account_id, sequence in reached.items()
    ]
    moved = yield _ADVANCE, {"rows": rows(given)}
    if len(moved) != len(given):
        raise PositionMoved


def delivery_row(account_id: str, event: Any, destination_id: str) -> dict[str, Any]:
    """A row for `insert_deliveries`; the event has `id`, `sequence` and `type`."""
    return {
        "id": new_id("dlv"),
        "account_id": account_id,
        "event_id": event.id,
        "event_sequence": event.sequence,
        "event_type": event.type,
        "destination_id": destination_id,
        # The insert sets them, unless they are replaced.
        "lane": None,
        "due_at": None,
    }


def insert_deliveries(made: Sequence[Mapping[str, Any]], replay_id: str = "", lane: int = 0) -> Script[None]:
    """Inserts deliveries that are due now; those that are there already stay as they are."""
    for start in range(0, len(made), DELIVERIES_AT_ONCE):
        given = rows(map(_GIVEN, made[start : start + DELIVERIES_AT_ONCE]))
        yield _INSERT, {"rows": given, "replay_id": replay_id, "lane": lane}


def _wants(candidate: Candidate, event: LoggedEvent, subjects: Subjects) -> bool:
    first = candidate.first_sequence
    return (
        first is not None
        and event.sequence > first
        and takes_type(candidate.event_types, event.type)
        and subjects.fit(candidate.filter, event)
    )
