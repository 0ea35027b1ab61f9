"""The inputs and payloads of the mutations over destinations and deliveries."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import strawberry
from sqlalchemy import Select
from strawberry.scalars import JSON

from app.api.inputs import given_values, require_bounded
from app.api.mutate import UserError
from app.api.scalars import Metadata
from app.delivery import filters, models
from app.delivery.graphql_types import FILTER, Delivery, EmailSubscription, Replay, WebhookEndpoint
from app.delivery.models import DeliveryStatus, Digest, EndpointStatus
from app.events.catalogue import EventType


@strawberry.input(
    description="OR within statuses, AND across. createdFrom is inclusive, createdTo exclusive."
)
class DeliveryFilter:
    webhook_endpoint_id: strawberry.ID | None = None
    email_subscription_id: strawberry.ID | None = None
    event_id: strawberry.ID | None = None
    statuses: list[DeliveryStatus] | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    def wanted(self) -> dict[str, Any]:
        require_bounded(self)
        return given_values(
            {
                "endpoint_id": _of_kind(self.webhook_endpoint_id, "whe_"),
                "subscription_id": _of_kind(self.email_subscription_id, "ems_"),
                "event_id": self.event_id,
                "statuses": None if self.statuses is None else [one.value for one in self.statuses],
                "created_from": self.created_from,
                "created_to": self.created_to,
            }
        )

    def form(self) -> None:
        return None

    def narrow(self, statement: Select[Any], at: Any, wanted: Mapping[str, Any]) -> Select[Any]:
        delivery: Any = models.Delivery
        tests: dict[str, Callable[[Any], Any]] = {
            "endpoint_id": delivery.destination_id.__eq__,
            "subscription_id": delivery.destination_id.__eq__,
            "event_id": delivery.event_id.__eq__,
            "statuses": delivery.status.in_,
            "created_from": delivery.created_at.__ge__,
            "created_to": delivery.created_at.__lt__,
        }
        return statement.where(*(tests[name](value) for name, value in wanted.items()))


def _of_kind(identifier: str | None, prefix: str) -> str | None:
    """An endpoint's id given as a subscription's must find nothing."""
    return identifier if identifier is None or identifier.startswith(prefix) else ""


@strawberry.input(description=FILTER)
class DestinationFilterInput:
    customer_ids: list[strawberry.ID] | None = None
    meter_ids: list[strawberry.ID] | None = None
    metadata: Metadata | None = None

    def checked(self) -> dict[str, Any] | None:
        """As it is stored. Raises what `filters.checked` raises."""
        return filters.checked(self.customer_ids, self.meter_ids, self.metadata)


@strawberry.input
class CreateWebhookEndpointInput:
    url: str
    description: str | None = None
    event_types: list[str] | None = None
    filter: DestinationFilterInput | None = None
    selection: str | None = strawberry.field(
        default=None,
        description="What to send as data: a GraphQL selection on Event, as it stands after events in a subscription, "
        "such as { id name ... on MeterCreatedEvent { meter { number } } }.",
    )
    headers: JSON | None = strawberry.field(
        default=None,
        description="An object of names and values, sent with each request, kept encrypted, such as an api key of the "
        "receiver. Not those that Voltwire or the connection needs.",
    )
    ordered: bool = False
    rate_limit: int | None = strawberry.field(default=None, description="Requests a second: 1 to 1,000.")
    idempotency_key: str | None = None


@strawberry.type
class CreateWebhookEndpointPayload:
    webhook_endpoint: WebhookEndpoint | None = None
    secret: str | None = strawberry.field(default=None, description="whsec_…, shown this once.")
    user_errors: list[UserError]


@strawberry.input
class UpdateWebhookEndpointInput:
    webhook_endpoint_id: strawberry.ID
    url: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    event_types: list[str] | None = strawberry.UNSET
    filter: DestinationFilterInput | None = strawberry.UNSET
    selection: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="What to send as data: a GraphQL selection on Event, as it stands after events in a subscription, "
        "such as { id name ... on MeterCreatedEvent { meter { number } } }.",
    )
    headers: JSON | None = strawberry.field(
        default=strawberry.UNSET,
        description="An object of names and values, sent with each request, kept encrypted, such as an api key of the "
        "receiver. Not those that Voltwire or the connection needs.",
    )
    ordered: bool | None = strawberry.UNSET
    rate_limit: int | None = strawberry.UNSET
    status: EndpointStatus | None = strawberry.field(
        default=strawberry.UNSET,
        description="DISABLED cancels what waits; ENABLED gets the events from now on.",
    )
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
    overlap_seconds: int | None = strawberry.field(
        default=None,
        description="How long the old secret signs as well: 0 to 2,592,000 (30 days), a day by default.",
    )
    idempotency_key: str | None = None


@strawberry.type
class RotateWebhookSecretPayload:
    webhook_endpoint: WebhookEndpoint | None = None
    secret: str | None = strawberry.field(default=None, description="whsec_…, shown this once.")
    user_errors: list[UserError]


@strawberry.input
class SendTestEventInput:
    webhook_endpoint_id: strawberry.ID
    type: EventType
    idempotency_key: str | None = None


@strawberry.type
class SendTestEventPayload:
    delivery: Delivery | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateEmailSubscriptionInput:
    email: str
    description: str | None = None
    event_types: list[str] | None = None
    filter: DestinationFilterInput | None = None
    digest: Digest | None = strawberry.field(
        default=None,
        description="HOURLY: one mail on the hour. DAILY: one at 07:00 in the United Kingdom. By default IMMEDIATE.",
    )
    idempotency_key: str | None = None


@strawberry.type
class CreateEmailSubscriptionPayload:
    email_subscription: EmailSubscription | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateEmailSubscriptionInput:
    email_subscription_id: strawberry.ID
    description: str | None = strawberry.UNSET
    event_types: list[str] | None = strawberry.UNSET
    filter: DestinationFilterInput | None = strawberry.UNSET
    digest: Digest | None = strawberry.field(
        default=strawberry.UNSET,
        description="HOURLY: one mail on the hour. DAILY: one at 07:00 in the United Kingdom. By default IMMEDIATE.",
    )
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


@strawberry.input(description="Either after, with or without through, or failedSince.")
class ReplayEventsInput:
    webhook_endpoint_id: strawberry.ID
    after: str | None = None
    through: str | None = strawberry.field(default=None, description="Omitted: the log's end now.")
    failed_since: datetime | None = strawberry.field(
        default=None,
        description="What failed, was given up, cancelled, or passed over while the endpoint was disabled since then, "
        "and has neither arrived nor waits for its first attempt. What waits for another one is cancelled for it.",
    )
    idempotency_key: str | None = None


@strawberry.type
class ReplayEventsPayload:
    replay: Replay | None = None
    user_errors: list[UserError]
