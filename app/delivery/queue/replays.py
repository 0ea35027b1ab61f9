"""Verbs over replays, which send events to one destination again. They take a session and never commit."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Select, delete, exists, func, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.delivery.queue import filters
from app.delivery.queue.kinds import DestinationKind
from app.delivery.queue.models import Delivery, DeliveryStatus, Replay, ReplayStatus
from app.events import catalogue, cursors, event_type_filter, log
from app.events.models import EventRecord, Stream

MAX_RUNNING: Final = 5
FAILED: Final = (DeliveryStatus.FAILED, DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELLED)
SETTLED: Final = (DeliveryStatus.SUCCEEDED, DeliveryStatus.PENDING)


@dataclass(frozen=True)
class Range:
    """The events of a replay: those after one cursor through another, or those missed since a time.

    Without `through` the range ends at the log's end. An event was missed if its delivery failed, or if there was none
    while the destination was inactive.
    """

    after: str | None = None
    through: str | None = None
    failed_since: datetime | None = None

    def require_valid(self) -> None:
        """Raises REQUIRED and INVALID unless the range is of one of the two forms."""
        if self.after is None and self.failed_since is None:
            raise Refusal(
                ErrorCode.REQUIRED,
                "Say which events: those after a cursor, or those that failed since a time.",
                "after" if self.through is not None else "failedSince",
            )
        if self.after is not None and self.failed_since is not None:
            raise Refusal(ErrorCode.INVALID, "Give either after or failedSince, not both.", "failedSince")
        if self.after is None and self.through is not None:
            raise Refusal(
                ErrorCode.INVALID, "through goes with after; leave it out with failedSince.", "through"
            )


async def create(
    session: AsyncSession,
    keyring: Keyring,
    retention: timedelta,
    kind: DestinationKind,
    destination: Any,
    wanted: Range,
) -> Replay:
    """A replay to an active destination, locked by the caller; the replay worker makes its deliveries.

    Raises INVALID, OUT_OF_RANGE and LIMIT_REACHED, and for the cursors BadUserInput and CursorExpired.
    """
    await _require_room(session, kind, destination.id)
    stream = await log.stream(session, destination.account_id)
    replay = Replay(
        account_id=destination.account_id,
        destination_id=destination.id,
        position=stream.first_sequence - 1,
        through=stream.last_sequence,
    )
    if wanted.failed_since is not None:
        replay.failed_since = _within(retention, wanted.failed_since)
    elif wanted.after is not None:
        replay.position, replay.through = _between(keyring, stream, wanted.after, wanted.through)
    session.add(replay)
    await session.flush()
    return replay


async def cancel_running(session: AsyncSession, destination_id: str) -> None:
    """End the replays to a destination that takes nothing any more."""
    await session.execute(
        update(Replay)
        .where(*is_running(), col(Replay.destination_id) == destination_id)
        .values(is_cancelled=True),
        execution_options={"synchronize_session": False},
    )


async def delete_replays(session: AsyncSession, destination_id: str) -> None:
    await session.execute(
        delete(Replay).where(col(Replay.destination_id) == destination_id),
        execution_options={"synchronize_session": False},
    )


def is_running() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions for replays that have deliveries yet to be made."""
    return col(Replay.is_cancelled).is_(False), col(Replay.position) < col(Replay.through)


def events_left(replay: Replay, destination: Any, metadata: filters.MetadataLookup) -> Select[Any]:
    """The events that the replay has yet to make deliveries of: those its destination asks for, after its position.

    With `failed_since` only those that the destination has missed since then.
    """
    statement = select(EventRecord).where(
        col(EventRecord.account_id) == replay.account_id,
        col(EventRecord.sequence) > replay.position,
        col(EventRecord.sequence) <= replay.through,
    )
    if destination.event_types is not None:
        taken = [
            name
            for name in catalogue.event_names()
            if event_type_filter.takes_type(destination.event_types, name)
        ]
        statement = statement.where(col(EventRecord.type).in_(taken))
    statement = filters.narrow(statement, destination.filter, metadata)
    if replay.failed_since is not None:
        statement = statement.where(*_is_missed(replay, destination, replay.failed_since))
    return statement


def _is_missed(
    replay: Replay, destination: Any, since: datetime
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Events that failed since then or came while the destination was inactive, and neither arrived nor wait."""
    to_destination = (
        col(Delivery.event_id) == col(EventRecord.id),
        col(Delivery.destination_id) == destination.id,
    )
    failed = exists().where(
        *to_destination,
        col(Delivery.status).in_([one.value for one in FAILED]),
        (col(Delivery.created_at) >= since) | (col(Delivery.finished_at) >= since),
        # The replay's own deliveries do not count, or those that it sent in vain would seem to be left.
        col(Delivery.replay_id) != replay.id,
    )
    # There is a delivery of each event since the last activation; events before the creation were not for it.
    while_inactive = (
        (col(EventRecord.sequence) <= destination.first_sequence)
        & (col(EventRecord.occurred_at) >= max(since, destination.created_at))
        & ~exists().where(*to_destination)
    )
    settled = exists().where(*to_destination, col(Delivery.status).in_([one.value for one in SETTLED]))
    return failed | while_inactive, ~settled


@dataclass(frozen=True)
class Progress:
    """`total` deliveries, made and to be made, of which `done` have ended."""

    total: int
    done: int
    status: ReplayStatus

    @classmethod
    def of(cls, replay: Replay, left: int, made: int, ended: int) -> Self:
        if replay.is_cancelled:
            return cls(made, ended, ReplayStatus.CANCELLED)
        over = replay.position >= replay.through and ended == made
        return cls(made + left, ended, ReplayStatus.DONE if over else ReplayStatus.RUNNING)


def _within(retention: timedelta, failed_since: datetime) -> datetime:
    now = clock.now()
    if not now - retention <= failed_since <= now:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"failedSince must lie in the last {retention.days} days, which is how long events are kept.",
            "failedSince",
        )
    return failed_since


def _between(keyring: Keyring, stream: Stream, after: str, through: str | None) -> tuple[int, int]:
    first = cursors.decode(keyring, stream, after, "after")
    last = stream.last_sequence if through is None else cursors.decode(keyring, stream, through, "through")
    if last < first:
        raise Refusal(ErrorCode.INVALID, "through lies before after; exchange the two cursors.", "through")
    return first, last


async def _require_room(session: AsyncSession, kind: DestinationKind, destination_id: str) -> None:
    running = select(func.count()).where(*is_running(), col(Replay.destination_id) == destination_id)
    if (await session.execute(running)).scalar_one() >= MAX_RUNNING:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"This {kind.noun} has {MAX_RUNNING} replays under way; wait until one of them is done.",
            kind.id_field,
        )
