"""Verbs over replays: events sent to one endpoint again. They take a session and never commit."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.delivery.destinations.webhook import endpoints
from app.delivery.queue import event_names, filters
from app.delivery.queue.event_filter import takes_type
from app.delivery.queue.models import (
    Delivery,
    DeliveryStatus,
    Replay,
    ReplayStatus,
    WebhookEndpoint,
)
from app.events import cursors, log
from app.events.models import EventRecord, Stream

MAX_RUNNING: Final = 5
FAILED: Final = (DeliveryStatus.FAILED, DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELLED)
SETTLED: Final = (DeliveryStatus.SUCCEEDED, DeliveryStatus.PENDING)


async def create(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    retention: timedelta,
    *,
    endpoint_id: str,
    after: str | None = None,
    through: str | None = None,
    failed_since: datetime | None = None,
) -> Replay:
    """A replay to an enabled endpoint; the worker makes its deliveries.

    Either the events after one cursor through another (through now, if that is left out), or those that the endpoint
    has missed since a time: a delivery failed, or there was none while it was disabled. Raises NOT_FOUND, CONFLICT,
    REQUIRED, INVALID, OUT_OF_RANGE and LIMIT_REACHED, and for the cursors BadUserInput and CursorExpired.
    """
    _require_one_way(after, through, failed_since)
    endpoint = await endpoints.load(session, actor, endpoint_id, "webhookEndpointId", lock=True)
    endpoints.require_enabled(endpoint, "webhookEndpointId")
    await _require_room(session, endpoint.id)
    stream = await log.stream(session, actor.account_id)
    replay = Replay(
        account_id=actor.account_id,
        webhook_endpoint_id=endpoint.id,
        position=stream.first_sequence - 1,
        through=stream.last_sequence,
    )
    if failed_since is not None:
        replay.failed_since = _since(failed_since, retention)
    elif after is not None:
        replay.position, replay.through = _between(keyring, stream, after, through)
    session.add(replay)
    await session.flush()
    return replay


def events_left(replay: Replay, endpoint: WebhookEndpoint, metadata: filters.MetadataLookup) -> Select[Any]:
    """The events that the replay has yet to make deliveries of: those its endpoint asks for, after its position.

    With `failed_since` those of them that the endpoint has missed since then.
    """
    statement = select(EventRecord).where(
        col(EventRecord.account_id) == replay.account_id,
        col(EventRecord.sequence) > replay.position,
        col(EventRecord.sequence) <= replay.through,
    )
    if endpoint.event_types is not None:
        taken = [name for name in event_names.NAMES if takes_type(endpoint.event_types, name)]
        statement = statement.where(col(EventRecord.type).in_(taken))
    statement = filters.narrow(statement, endpoint.filter, metadata)
    if replay.failed_since is not None:
        statement = statement.where(*_is_missed(replay, endpoint, replay.failed_since))
    return statement


def _is_missed(
    replay: Replay, endpoint: WebhookEndpoint, since: datetime
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """It failed since then or came up while the endpoint was disabled, and has neither arrived nor waits to be sent."""
    to_endpoint = (
        col(Delivery.event_id) == col(EventRecord.id),
        col(Delivery.destination_id) == endpoint.id,
    )
    failed = exists().where(
        *to_endpoint,
        col(Delivery.status).in_([one.value for one in FAILED]),
        (col(Delivery.created_at) >= since) | (col(Delivery.finished_at) >= since),
        # Its own deliveries do not count, else what it has sent in vain would seem to be left.
        col(Delivery.replay_id) != replay.id,
    )
    # Since it was enabled last it has had a delivery of each; before it was made it was to get none.
    while_disabled = (
        (col(EventRecord.sequence) <= endpoint.first_sequence)
        & (col(EventRecord.occurred_at) >= max(since, endpoint.created_at))
        & ~exists().where(*to_endpoint)
    )
    settled = exists().where(*to_endpoint, col(Delivery.status).in_([one.value for one in SETTLED]))
    return failed | while_disabled, ~settled


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


def _require_one_way(after: str | None, through: str | None, failed_since: datetime | None) -> None:
    if after is None and failed_since is None:
        raise Refusal(
            ErrorCode.REQUIRED,
            "Say which events: those after a cursor, or those that failed since a time.",
            "after" if through is not None else "failedSince",
        )
    if after is not None and failed_since is not None:
        raise Refusal(ErrorCode.INVALID, "Give either after or failedSince, not both.", "failedSince")
    if after is None and through is not None:
        raise Refusal(ErrorCode.INVALID, "through goes with after; leave it out with failedSince.", "through")


def _since(failed_since: datetime, retention: timedelta) -> datetime:
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


async def _require_room(session: AsyncSession, endpoint_id: str) -> None:
    running = select(func.count()).where(
        col(Replay.webhook_endpoint_id) == endpoint_id,
        col(Replay.is_cancelled).is_(False),
        col(Replay.position) < col(Replay.through),
    )
    if (await session.execute(running)).scalar_one() >= MAX_RUNNING:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"This endpoint has {MAX_RUNNING} replays under way; wait until one of them is done.",
            "webhookEndpointId",
        )
