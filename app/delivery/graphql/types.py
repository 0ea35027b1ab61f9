"""Deliveries and replays in GraphQL."""

from datetime import datetime
from typing import Any

import strawberry
from sqlalchemy import case, func, select
from sqlmodel import col

from app.auth.actor import Actor, visible
from app.delivery.destinations.email.graphql import EmailSubscription
from app.delivery.destinations.webhook.graphql import WebhookEndpoint
from app.delivery.graphql.attempts import DeliveryAttempt
from app.delivery.metadata import METADATA
from app.delivery.queue import models
from app.delivery.queue.models import DeliveryStatus, ReplayStatus
from app.delivery.queue.replays import Progress, events_left
from app.graphql.compiled.declare import column, to_list, to_one
from app.graphql.context import Context, Info
from app.graphql.events import Event
from app.graphql.nodes import Node, row_type

for kind in (DeliveryStatus, ReplayStatus):
    strawberry.enum(kind)


@row_type(models.Delivery, "dlv")
@strawberry.type
class Delivery(Node):
    """One event on its way to one destination."""

    id: strawberry.ID
    status: DeliveryStatus
    """How it stands."""
    next_attempt_at: datetime | None = column("due_at")
    """When it is due next; null once nothing more will be tried."""
    created_at: datetime
    event: Event | None = to_one("event_id")
    """The event; null once past retention, and for a test event."""
    endpoint: WebhookEndpoint | None = to_one("destination_id")
    """The webhook endpoint that it goes to; null if it is gone, and for a mail."""
    email_subscription: EmailSubscription | None = to_one("destination_id")
    """The email subscription that it goes to; null if it is gone, and for a webhook."""
    attempts: list[DeliveryAttempt] = to_list(models.DeliveryAttempt.delivery_id, key="number")
    """Its attempts, in the order in which they were made."""


@row_type(models.Replay, "rpl")
@strawberry.type
class Replay(Node):
    """Events sent to one endpoint again."""

    id: strawberry.ID
    created_at: datetime
    row: strawberry.Private[models.Replay]

    @strawberry.field
    async def status(self, info: Info) -> ReplayStatus:
        """How far it is."""
        return (await self._progress(info)).status

    @strawberry.field
    async def total(self, info: Info) -> int:
        """How many deliveries it has, made and to be made."""
        return (await self._progress(info)).total

    @strawberry.field
    async def done(self, info: Info) -> int:
        """How many of its deliveries have ended."""
        return (await self._progress(info)).done

    async def _progress(self, info: Info) -> Progress:
        loader = info.context.loader(("progress", self.viewer), _progress_loader(info.context, self.viewer))
        progress: Progress = await loader.load(self.row.id)
        return progress


def _progress_loader(context: Context, viewer: Actor) -> Any:
    """Loads the progress of many replays at once: counts of their deliveries, and of those yet to be made."""
    delivery, replay = models.Delivery, models.Replay

    async def load(replay_ids: list[str]) -> list[Progress]:
        made = (
            visible(select(delivery), viewer)
            .where(col(delivery.replay_id).in_(replay_ids))
            .with_only_columns(
                col(delivery.replay_id),
                func.count(),
                func.sum(case((col(delivery.due_at).is_(None), 1), else_=0)),
            )
            .group_by(col(delivery.replay_id))
        )
        rows: Any = await context.execute(made)
        counts = {replay_id: (deliveries, ended) for replay_id, deliveries, ended in rows}
        found: Any = await context.execute(
            visible(select(replay), viewer).where(col(replay.id).in_(replay_ids))
        )
        progress = {}
        for row in found.scalars().all():
            left = 0
            if row.position < row.through and not row.is_cancelled:
                left = await _count_left(context, viewer, row)
            progress[row.id] = Progress.of(row, left, *counts.get(row.id, (0, 0)))
        return [progress[one] for one in replay_ids]

    return load


async def _count_left(context: Context, viewer: Actor, replay: models.Replay) -> int:
    """The number of events that the replay has yet to make deliveries of."""
    table = context.services.kinds.of(replay.destination_id).table
    found = await context.execute(visible(select(table), viewer).where(table.id == replay.destination_id))
    destination = found.scalar_one_or_none()
    if destination is None:
        return 0
    waiting = events_left(replay, destination, METADATA).subquery()
    left: int = (await context.execute(select(func.count()).select_from(waiting))).scalar_one()
    return left
