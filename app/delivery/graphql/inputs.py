"""The inputs of the mutations over deliveries."""

from collections.abc import Callable
from datetime import datetime

import strawberry
from sqlmodel import col

from app.delivery.destinations.email.kind import EMAIL
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.queue import models
from app.delivery.queue.kinds import DestinationKind
from app.delivery.queue.models import DeliveryStatus
from app.graphql.events import LazyEventType
from app.graphql.filters import Filter, compared, values


def _of_kind(kind: DestinationKind) -> Callable[[str], str]:
    """Lets an id of another kind find nothing."""
    return lambda identifier: identifier if kind.owns(identifier) else ""


@strawberry.input
class DeliveryFilter(Filter):
    """OR within a list, AND across."""

    webhook_endpoint_id: strawberry.ID | None = compared(
        col(models.Delivery.destination_id).__eq__, _of_kind(WEBHOOK)
    )
    """The id of the webhook endpoint that they go to."""
    email_subscription_id: strawberry.ID | None = compared(
        col(models.Delivery.destination_id).__eq__, _of_kind(EMAIL)
    )
    """The id of the email subscription that they go to."""
    event_id: strawberry.ID | None = compared(col(models.Delivery.event_id).__eq__)
    """The id of the event that they carry, a test event's evt_test_… included."""
    statuses: list[DeliveryStatus] | None = compared(col(models.Delivery.status).in_, values)
    """Statuses, one of which they must have; [] matches nothing."""
    created_from: datetime | None = compared(col(models.Delivery.created_at).__ge__)
    """When they were made at the earliest, inclusive."""
    created_to: datetime | None = compared(col(models.Delivery.created_at).__lt__)
    """When they were made at the latest, exclusive."""
    event_types: list[LazyEventType] | None = compared(col(models.Delivery.event_type).in_, values)
    """Kinds of events, one of which they must carry; [] matches nothing."""


@strawberry.input
class RetryDeliveryInput:
    delivery_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class ReplayEventsInput:
    """Either after, with or without through, or failedSince."""

    webhook_endpoint_id: strawberry.ID
    after: str | None = None
    """A cursor of the log: the events after it are sent."""
    through: str | None = None
    """A cursor of the log: the last event to be sent; null: the log's end now."""
    failed_since: datetime | None = None
    """A time within retention: since then, what failed, was given up, cancelled, or passed over while the
    endpoint was disabled, and has neither arrived nor waits for its first attempt. Another attempt that waits
    is cancelled for it."""
    idempotency_key: str | None = None
