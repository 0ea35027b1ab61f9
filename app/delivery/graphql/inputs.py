"""The inputs and payloads of the mutations over destinations and deliveries."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import strawberry
from sqlmodel import col
from strawberry.scalars import JSON

from app.delivery.graphql.types import Delivery, EmailSubscription, Replay, WebhookEndpoint
from app.delivery.queue import filters, models
from app.delivery.queue.models import DeliveryStatus, Digest, EndpointStatus
from app.events.catalogue import EventType
from app.graphql.filters import Filter, compared, values
from app.graphql.mutations import UserError
from app.graphql.scalars import Metadata


def _of_kind(prefix: str) -> Callable[[str], str]:
    """An endpoint's id given as a subscription's must find nothing."""
    return lambda identifier: identifier if identifier.startswith(prefix) else ""


@strawberry.input
class DeliveryFilter(Filter):
    """OR within a list, AND across."""

    webhook_endpoint_id: strawberry.ID | None = compared(
        col(models.Delivery.destination_id).__eq__, _of_kind("whe_")
    )
    """The id of the webhook endpoint that they go to."""
    email_subscription_id: strawberry.ID | None = compared(
        col(models.Delivery.destination_id).__eq__, _of_kind("ems_")
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
    event_types: list[EventType] | None = compared(col(models.Delivery.event_type).in_, values)
    """Kinds of events, one of which they must carry; [] matches nothing."""


@strawberry.input
class DestinationFilterInput:
    """OR within a list, AND across. customerIds and meterIds match the event's own record; metadata, that its
    customer or one of its meters has all of these pairs when the event is turned into deliveries."""

    customer_ids: list[strawberry.ID] | None = None
    """1 to 1,000 ids of customers, one of whom the event must be about; null: any."""
    meter_ids: list[strawberry.ID] | None = None
    """1 to 1,000 ids of meters, one of which the event must be about; null: any."""
    metadata: Metadata | None = None
    """Keys and values, all of which the customer or one of the meters must have; null: any."""

    def checked(self) -> dict[str, Any] | None:
        """As it is stored. Raises what `filters.checked` raises."""
        return filters.checked(self.customer_ids, self.meter_ids, self.metadata)


@strawberry.input
class CreateWebhookEndpointInput:
    url: str
    """An https URL on the public internet; others only where the operator allows their networks."""
    description: str | None = None
    """A note of your own, up to 2,000 characters."""
    event_types: list[str] | None = None
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilterInput | None = None
    """The events that it is to get of its types; null: all."""
    selection: str | None = None
    """GraphQL to send as data: a selection on Event, as it stands after events in a subscription, such as {
    id name ... on MeterCreatedEvent { meter { number } } }; null: the event's own data."""
    headers: JSON | None = None
    """An object of names and values, sent with each request and kept encrypted, such as an API key of the
    receiver; 20 at most, none that Voltwire or the connection needs."""
    ordered: bool = False
    """Whether each delivery waits until the one before it has succeeded or was given up; by default not."""
    rate_limit: int | None = None
    """How many requests a second at most, 1 to 1,000; null: no limit."""
    idempotency_key: str | None = None


@strawberry.type
class CreateWebhookEndpointPayload:
    webhook_endpoint: WebhookEndpoint | None = None
    secret: str | None = None
    """The secret that signs its requests, whsec_…, shown this once."""
    user_errors: list[UserError]


@strawberry.input
class UpdateWebhookEndpointInput:
    webhook_endpoint_id: strawberry.ID
    url: str | None = strawberry.UNSET
    """Its new URL, as in createWebhookEndpoint; cannot be cleared."""
    description: str | None = strawberry.UNSET
    """A note of your own, up to 2,000 characters."""
    event_types: list[str] | None = strawberry.UNSET
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilterInput | None = strawberry.UNSET
    """The events that it is to get of its types; null: all."""
    selection: str | None = strawberry.UNSET
    """GraphQL to send as data: a selection on Event, as it stands after events in a subscription, such as {
    id name ... on MeterCreatedEvent { meter { number } } }; null: the event's own data."""
    headers: JSON | None = strawberry.UNSET
    """An object of names and values, sent with each request and kept encrypted, such as an API key of the
    receiver; 20 at most, none that Voltwire or the connection needs."""
    ordered: bool | None = strawberry.UNSET
    """Whether each delivery waits until the one before it has succeeded or was given up; null: not."""
    rate_limit: int | None = strawberry.UNSET
    """How many requests a second at most, 1 to 1,000; null: no limit."""
    status: EndpointStatus | None = strawberry.UNSET
    """DISABLED cancels what waits; ENABLED gets the events from now on."""
    idempotency_key: str | None = None


@strawberry.type
class UpdateWebhookEndpointPayload:
    webhook_endpoint: WebhookEndpoint | None = None
    user_errors: list[UserError]


@strawberry.input
class DeleteWebhookEndpointInput:
    webhook_endpoint_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DeleteWebhookEndpointPayload:
    deleted_id: strawberry.ID | None = None
    user_errors: list[UserError]


@strawberry.input
class RotateWebhookSecretInput:
    webhook_endpoint_id: strawberry.ID
    overlap_seconds: int | None = None
    """How many seconds the old secret signs as well: 0 to 2592000 (30 days), 86400 unless given."""
    idempotency_key: str | None = None


@strawberry.type
class RotateWebhookSecretPayload:
    webhook_endpoint: WebhookEndpoint | None = None
    secret: str | None = None
    """The new secret, whsec_…, shown this once."""
    user_errors: list[UserError]


@strawberry.input
class SendTestEventInput:
    webhook_endpoint_id: strawberry.ID
    type: EventType
    """The kind of event whose example is sent."""
    idempotency_key: str | None = None


@strawberry.type
class SendTestEventPayload:
    delivery: Delivery | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateEmailSubscriptionInput:
    email: str
    """The address, which gets a confirmation to answer within 48 hours."""
    description: str | None = None
    """A note of your own, up to 2,000 characters."""
    event_types: list[str] | None = None
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilterInput | None = None
    """The events that it is to get of its types; null: all."""
    digest: Digest | None = None
    """How often its mails come; IMMEDIATE unless given."""
    idempotency_key: str | None = None


@strawberry.type
class CreateEmailSubscriptionPayload:
    email_subscription: EmailSubscription | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateEmailSubscriptionInput:
    email_subscription_id: strawberry.ID
    description: str | None = strawberry.UNSET
    """A note of your own, up to 2,000 characters."""
    event_types: list[str] | None = strawberry.UNSET
    """Dotted names or wildcards ("meter.*"); null: all, present and future."""
    filter: DestinationFilterInput | None = strawberry.UNSET
    """The events that it is to get of its types; null: all."""
    digest: Digest | None = strawberry.UNSET
    """How often its mails come from now on; null: IMMEDIATE."""
    idempotency_key: str | None = None


@strawberry.type
class UpdateEmailSubscriptionPayload:
    email_subscription: EmailSubscription | None = None
    user_errors: list[UserError]


@strawberry.input
class DeleteEmailSubscriptionInput:
    email_subscription_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DeleteEmailSubscriptionPayload:
    deleted_id: strawberry.ID | None = None
    user_errors: list[UserError]


@strawberry.input
class ResendConfirmationInput:
    email_subscription_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class ResendConfirmationPayload:
    email_subscription: EmailSubscription | None = None
    user_errors: list[UserError]


@strawberry.input
class RetryDeliveryInput:
    delivery_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class RetryDeliveryPayload:
    delivery: Delivery | None = None
    user_errors: list[UserError]


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


@strawberry.type
class ReplayEventsPayload:
    replay: Replay | None = None
    user_errors: list[UserError]
