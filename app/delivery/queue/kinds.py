"""The seam to the kinds of destinations: a kind is one value, and everything goes by the registry of these values.

A kind's package declares the value; the registry is put together above all of them and handed in.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Row,
    String,
    bindparam,
    cast,
    exists,
    null,
    or_,
    select,
    union_all,
)
from sqlmodel.ext.asyncio.session import AsyncSession

from app.outbound.sender_stats import SenderStats


class BackgroundSender(Protocol):
    """A part of a worker that sends until it is stopped."""

    @property
    def stats(self) -> SenderStats: ...

    @property
    def failures(self) -> int:
        """Turns that ended in an error and were tried again."""

    async def run(self) -> None: ...

    def stop(self, seconds: float) -> None:
        """Claim nothing more; `run` ends when the attempts in flight have ended, or after `seconds`."""

    def check_soon(self) -> None:
        """Look at the queue before long: something may be due."""

    async def count_due(self, session: AsyncSession) -> None:
        """Update the count of due deliveries in `stats`."""


MarkDue = Callable[[Collection[str], int], None]
"""Takes note of destinations that have new deliveries in a lane."""


class DestinationSender(BackgroundSender, Protocol):
    """Sends deliveries to destinations of one kind."""

    def mark_due(self, destination_ids: Collection[str], lane: int) -> None:
        """Take note of destinations with new deliveries; those of other kinds are ignored."""


@dataclass(frozen=True)
class Batching:
    """How deliveries of a kind wait to be sent together.

    `choice` is a column of the kind's table. `due_at` turns its value and the current time into the time of the next
    batch, or into None for deliveries that go at once, each by itself.
    """

    choice: Any
    due_at: Callable[[str, datetime], datetime | None]


@dataclass(frozen=True, eq=False)
class DestinationKind:
    """A kind of destination.

    `table` has the columns id, account_id, status, event_types, filter, first_sequence and created_at. A kind with
    rates also has held_by and held_until, a kind with pauses paused_until.
    """

    prefix: str
    """The beginning of the destinations' ids, without the underscore."""
    table: type[Any]
    active_status: str
    """The only status in which a destination takes deliveries."""
    noun: str
    """The kind in sentences for users, such as "endpoint"."""
    inactive: str
    """The predicate for a destination that takes nothing or is gone, such as "is disabled or deleted"."""
    id_field: str
    """The GraphQL input field with a destination's id."""
    senders: Callable[[Any], Mapping[str, DestinationSender]]
    """Makes the senders of one worker from its parts, by the label that their metrics have."""
    has_pauses: bool = False
    """Whether a destination may ask to be left alone for a while."""
    batching: Batching | None = None
    event_body: Callable[[Row[Any]], str | None] | None = None
    """Makes a body anew of the delivery and its event, as it was sent; None where bodies are not shown."""

    def owns(self, destination_id: str) -> bool:
        return destination_id.startswith(f"{self.prefix}_")

    @property
    def is_active(self) -> ColumnElement[bool]:
        """The condition for destinations that take deliveries."""
        condition: ColumnElement[bool] = self.table.status == self.active_status
        return condition

    def end_pause(self, destination: Any) -> None:
        """Let deliveries go to a destination that had asked for a pause."""
        if self.has_pauses:
            destination.paused_until = None


class DestinationKinds:
    """All kinds of a process."""

    def __init__(self, *kinds: DestinationKind) -> None:
        self._kinds = {kind.prefix: kind for kind in kinds}
        # Runs with every batch of events, and building it takes longer than its execution.
        self.candidates: CompoundSelect[Any] = union_all(*map(_candidates, kinds))
        """Selects the active destinations of some accounts, with the columns of `dispatch.Candidate`."""

    def __iter__(self) -> Iterator[DestinationKind]:
        return iter(self._kinds.values())

    def of(self, destination_id: str) -> DestinationKind:
        return self._kinds[destination_id.partition("_")[0]]

    def has_active(self, account_id: Any) -> ColumnElement[bool]:
        """The condition for accounts with a destination that takes deliveries."""
        return or_(*(exists().where(one.table.account_id == account_id, one.is_active) for one in self))


def _candidates(kind: DestinationKind) -> Any:
    table, batching = kind.table, kind.batching
    choice = cast(null(), String) if batching is None else batching.choice
    columns = (table.id, table.account_id, table.first_sequence, table.event_types, table.filter)
    return select(*columns, choice.label("batching")).where(
        table.account_id.in_(bindparam("account_ids", expanding=True)), kind.is_active
    )
