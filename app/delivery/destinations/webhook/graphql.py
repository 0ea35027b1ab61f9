"""Webhook endpoints in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef

import strawberry
from sqlalchemy import case, func, select
from sqlmodel import col
from strawberry.scalars import JSON

from app.auth.actor import Actor, visible
from app.core.validation import Rule
from app.delivery.destinations.webhook import endpoints, payload_selection
from app.delivery.destinations.webhook.events import WebhookEndpointDisabled
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.destinations.webhook.models import EndpointStatus
from app.delivery.destinations.webhook.models import WebhookEndpoint as WebhookEndpointRow
from app.delivery.graphql.shared import (
    WITHOUT_BODIES,
    DestinationFilter,
    DestinationFilterInput,
    filter_rule,
)
from app.delivery.queue import deliveries
from app.delivery.queue.models import Delivery, DeliveryStatus
from app.graphql.bounds.limits import limits_of
from app.graphql.compiled.declare import computed, to_many, to_one
from app.graphql.context import Context, Info
from app.graphql.engine import Engine
from app.graphql.events import Event, LazyEventType, event_type
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import MutationContext, UserError, mutation
from app.graphql.nodes import Node, RowsOf, row_type
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages

ENDPOINT_OPTIONS = ("filter", "selection", "headers", "ordered", "rate_limit")

if TYPE_CHECKING:
    _LazyDelivery = Any
else:
    # The type of deliveries has a field for each kind of destination, and so imports this module.
    _LazyDelivery = Annotated[ForwardRef("Delivery"), RowsOf(Delivery)]

strawberry.enum(EndpointStatus)


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


@row_type(WebhookEndpointRow, "whe")
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
    row: strawberry.Private[WebhookEndpointRow]
    deliveries: Connection[_LazyDelivery] = to_many(
        Delivery.destination_id, descending=True, options=WITHOUT_BODIES
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
    """Counts for all endpoints of the answer by one statement: succeeded, failing, exhausted, oldest due."""

    def counted(status: DeliveryStatus) -> Any:
        return func.sum(case((col(Delivery.status) == status.value, 1), else_=0))

    async def load(endpoint_ids: list[str]) -> list[Any]:
        statement = (
            visible(select(Delivery), viewer)
            .where(col(Delivery.destination_id).in_(endpoint_ids))
            .with_only_columns(
                col(Delivery.destination_id),
                counted(DeliveryStatus.SUCCEEDED),
                counted(DeliveryStatus.FAILED),
                counted(DeliveryStatus.EXHAUSTED),
                func.min(col(Delivery.due_at)),
            )
            .group_by(col(Delivery.destination_id))
        )
        found = {row[0]: row[1:] for row in await context.execute(statement)}
        return [found.get(one, (0, 0, 0, None)) for one in endpoint_ids]

    return load


@event_type(WebhookEndpointDisabled)
@strawberry.type
class WebhookEndpointDisabledEvent(Event):
    """Voltwire disabled a webhook endpoint."""

    webhook_endpoint: WebhookEndpoint | None = to_one("subject_id")
    """The endpoint as of now; null once deleted."""
    reason: str = computed(lambda _, data: data["reason"], "data")
    """Why it was disabled."""


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


@strawberry.input
class DeleteWebhookEndpointInput:
    webhook_endpoint_id: strawberry.ID
    idempotency_key: str | None = None


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
    type: LazyEventType
    """The kind of event whose example is sent."""
    idempotency_key: str | None = None


@strawberry.type
class WebhookQueries:
    webhook_endpoint: WebhookEndpoint | None = by_id(WebhookEndpointRow)
    """The webhook endpoint with this id; null if there is none."""
    webhook_endpoints: Connection[WebhookEndpoint] = pages(WebhookEndpointRow)
    """The account's webhook endpoints, in the order of their ids."""


@strawberry.type
class WebhookMutations:
    @mutation(CreateWebhookEndpointPayload)
    async def create_webhook_endpoint(
        self, context: MutationContext, input: CreateWebhookEndpointInput
    ) -> Result:
        """Make a webhook endpoint, which gets the events from now on; an account has 100 at most."""
        session, actor, services = context.session, context.actor, context.services
        networks = services.settings.webhook_allow_networks
        rules = _rules(context.info, await filter_rule(session, actor, input, WebhookEndpointRow))
        values = given(input, "url", "description", "event_types", *ENDPOINT_OPTIONS)
        endpoint, secret = await endpoints.create(
            session, actor, services.keyring, networks, checks=rules, **values
        )
        return {"webhook_endpoint": endpoint, "secret": secret}

    @mutation(webhook_endpoint=WebhookEndpoint)
    async def update_webhook_endpoint(
        self, context: MutationContext, input: UpdateWebhookEndpointInput
    ) -> Result:
        """Change, disable or enable a webhook endpoint."""
        session, actor, services = context.session, context.actor, context.services
        networks, identifier = services.settings.webhook_allow_networks, input.webhook_endpoint_id
        rules = _rules(context.info, await filter_rule(session, actor, input, WebhookEndpointRow, identifier))
        changes = given(input, "url", "description", "event_types", "status", *ENDPOINT_OPTIONS)
        endpoint = await endpoints.update_endpoint(
            session, actor, services.keyring, networks, identifier, changes, rules
        )
        return {"webhook_endpoint": endpoint}

    @mutation(deleted_id=strawberry.ID)
    async def delete_webhook_endpoint(
        self, context: MutationContext, input: DeleteWebhookEndpointInput
    ) -> Result:
        """Delete a webhook endpoint; deliveries that wait for it are cancelled, and all stay to be looked at."""
        session, actor = context.session, context.actor
        return {"deleted_id": await endpoints.delete(session, actor, input.webhook_endpoint_id)}

    @mutation(RotateWebhookSecretPayload)
    async def rotate_webhook_secret(
        self, context: MutationContext, input: RotateWebhookSecretInput
    ) -> Result:
        """Give a webhook endpoint a new secret and key pair; the old ones sign as well for overlapSeconds
        more."""
        session, actor, keyring = context.session, context.actor, context.services.keyring
        endpoint, secret = await endpoints.rotate_secret(
            session, actor, keyring, input.webhook_endpoint_id, input.overlap_seconds
        )
        return {"webhook_endpoint": endpoint, "secret": secret}

    @mutation(delivery=_LazyDelivery)
    async def send_test_event(self, context: MutationContext, input: SendTestEventInput) -> Result:
        """Send the catalogue's example: by the endpoint's selection if it has one, to which the objects that the
        example names are not there; id evt_test_…, sequence 0, "test": true, outside the log and the streams."""
        session = context.session
        endpoint = await endpoints.load_enabled(session, context.actor, input.webhook_endpoint_id)
        return {"delivery": await deliveries.send_test(session, WEBHOOK, endpoint, input.type.value)}


def _rules(info: Info, filter: Rule) -> dict[str, Rule]:
    """The rules that turn a filter and a selection into their stored form."""
    return {
        "filter": filter,
        "selection": lambda value: (
            None if value is None else payload_selection.checked_selection(_engine(info), value)
        ),
    }


def _engine(info: Info) -> Engine:
    return Engine(info.schema, limits_of(info.context.services.settings))
