"""Destinations, deliveries and replays in GraphQL."""

from datetime import datetime
from typing import Any, cast

import strawberry
from sqlalchemy import case, func, select
from sqlalchemy.orm import defer
from sqlmodel import col
from strawberry.scalars import JSON

from app.auth.actor import Actor, visible
from app.delivery.graphql.attempts import DeliveryAttempt
from app.delivery.metadata import METADATA
from app.delivery.queue import models
from app.delivery.queue.models import (
    DeliveryStatus,
    Digest,
    EmailSubscriptionStatus,
    EndpointStatus,
    ReplayStatus,
)
from app.delivery.queue.replays import Progress, events_left
from app.graphql.compiled.declare import column, computed, to_list, to_many, to_one
from app.graphql.context import Context, Info
from app.graphql.events import Event
from app.graphql.nodes import Node, row_type
from app.graphql.pagination import Connection
from app.graphql.scalars import Metadata

for kind in (Digest, DeliveryStatus, EmailSubscriptionStatus, EndpointStatus, ReplayStatus):
    strawberry.enum(kind)


# What was sent no list needs, and it may be long.
WITHOUT_BODIES = tuple(
    defer(cast(Any, one), raiseload=True) for one in (models.Delivery.body, models.Delivery.test_event)
)


@strawberry.type
class DestinationFilter:
    """OR within a list, AND across. customerIds and meterIds match the event's own record; metadata, that its
    customer or one of its meters has all of these pairs when the event is turned into deliveries."""

    customer_ids: list[strawberry.ID] | None
    """Ids of customers, one of whom the event must be about; null: any."""
    meter_ids: list[strawberry.ID] | None
    """Ids of meters, one of which the event must be about; null: any."""
    metadata: Metadata | None
    """Keys and values, all of which the customer or one of the meters must have; null: any."""

    @classmethod
    def of(cls, stored: dict[str, Any] | None) -> "DestinationFilter | None":
        if stored is None:
            return None
        return cls(
            customer_ids=stored.get("customerIds"),
            meter_ids=stored.get("meterIds"),
            metadata=stored.get("metadata"),
        )


@strawberry.type
class EndpointStats:
    """Counts of its deliveries that are kept, replays and tests included."""

    succeeded: int
    """How many have arrived."""
    failing: int
    """How many failed and will be tried again."""
    exhausted: int
    """How many were given up."""
    oldest_due_at: datetime | None
    """When the delivery that waits longest was or is due."""
    last_success_at: datetime | None
    """When it last took a delivery, to about a second; null if never."""


@row_type(models.WebhookEndpoint, "whe")
@strawberry.type
class WebhookEndpoint(Node):
    """A URL of a backend that events are sent to, as signed POST requests."""

    id: strawberry.ID
    url: str
    """The URL that requests are sent to."""
    description: str | None
    """The account's own note."""
    event_types: list[str] | None
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilter | None = computed(lambda _, stored: DestinationFilter.of(stored), "filter")
    """The events that it gets of its types; null: all."""
    selection: str | None
    """A GraphQL selection on Event, whose result each body carries as data; null: the event's own data."""
    headers: JSON | None
    """Headers of your own on each request, names to values; the values are masked here."""
    ordered: bool
    """Whether each delivery waits until the one before it has succeeded or was given up."""
    rate_limit: int | None
    """How many requests a second at most; null: no limit."""
    status: EndpointStatus
    """Whether it takes deliveries."""
    disabled_reason: str | None
    """The reason why it is disabled; null while enabled."""
    disabled_at: datetime | None
    """When it was disabled; null while enabled."""
    failing_since: datetime | None
    """Since when every attempt has failed; null while it takes deliveries. Disabled after five days."""
    public_key: str
    """whpk_…, to verify the v1a signatures (Ed25519) that stand beside those of the secret (v1)."""
    created_at: datetime
    updated_at: datetime
    row: strawberry.Private[models.WebhookEndpoint]
    deliveries: Connection["Delivery"] = to_many(
        models.Delivery.destination_id, descending=True, options=WITHOUT_BODIES
    )
    """Its deliveries, newest first."""

    @strawberry.field
    async def stats(self, info: Info) -> EndpointStats:
        """Counts of its deliveries."""
        loader = info.context.loader(
            ("endpoint stats", self.viewer), _stats_loader(info.context, self.viewer)
        )
        succeeded, failing, exhausted, oldest_due_at = await loader.load(self.id)
        return EndpointStats(
            succeeded=succeeded,
            failing=failing,
            exhausted=exhausted,
            oldest_due_at=oldest_due_at,
            last_success_at=self.row.last_success_at,
        )


def _stats_loader(context: Context, viewer: Actor) -> Any:
    """Loads for all endpoints of a response, by one statement: succeeded, failing, exhausted, oldest due."""
    delivery = models.Delivery

    def counted(status: DeliveryStatus) -> Any:
        return func.sum(case((col(delivery.status) == status.value, 1), else_=0))

    async def load(endpoint_ids: list[str]) -> list[Any]:
        statement = (
            visible(select(delivery), viewer)
            .where(col(delivery.destination_id).in_(endpoint_ids))
            .with_only_columns(
                col(delivery.destination_id),
                counted(DeliveryStatus.SUCCEEDED),
                counted(DeliveryStatus.FAILED),
                counted(DeliveryStatus.EXHAUSTED),
                func.min(col(delivery.due_at)),
            )
            .group_by(col(delivery.destination_id))
        )
        found = {row[0]: row[1:] for row in await context.execute(statement)}
        return [found.get(one, (0, 0, 0, None)) for one in endpoint_ids]

    return load


@row_type(models.EmailSubscription, "ems")
@strawberry.type
class EmailSubscription(Node):
    """A person's address that events are mailed to, once it has confirmed."""

    id: strawberry.ID
    email: str
    """The address."""
    description: str | None
    """The account's own note."""
    event_types: list[str] | None
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilter | None = computed(lambda _, stored: DestinationFilter.of(stored), "filter")
    """The events that it gets of its types; null: all."""
    digest: Digest
    """How often its mails come."""
    status: EmailSubscriptionStatus
    """Whether it gets mails."""
    suspended_reason: str | None
    """The reason why it is suspended; null while it is not."""
    created_at: datetime
    updated_at: datetime


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
    """Counts of the deliveries of many replays at once, and of what each has yet to make."""
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
        found: Any = select(replay, models.WebhookEndpoint)
        found = (
            visible(found, viewer)
            .join(models.WebhookEndpoint, col(models.WebhookEndpoint.id) == col(replay.webhook_endpoint_id))
            .where(col(replay.id).in_(replay_ids))
        )
        progress = {}
        both: Any = await context.execute(found)
        for row, endpoint in both.all():
            left = 0
            if row.position < row.through and not row.is_cancelled:
                waiting = events_left(row, endpoint, METADATA).subquery()
                left = (await context.execute(select(func.count()).select_from(waiting))).scalar_one()
            progress[row.id] = Progress.of(row, left, *counts.get(row.id, (0, 0)))
        return [progress[one] for one in replay_ids]

    return load
