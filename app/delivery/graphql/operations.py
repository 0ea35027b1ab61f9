"""Queries and mutations over destinations, deliveries and replays."""

from datetime import timedelta
from typing import Any

import strawberry

from app.auth.actor import Actor
from app.core.validation import Rule
from app.delivery.destinations.email import subscriptions
from app.delivery.destinations.webhook import endpoints, payload_selection
from app.delivery.graphql.inputs import (
    CreateEmailSubscriptionInput,
    CreateEmailSubscriptionPayload,
    CreateWebhookEndpointInput,
    CreateWebhookEndpointPayload,
    DeleteEmailSubscriptionInput,
    DeleteEmailSubscriptionPayload,
    DeleteWebhookEndpointInput,
    DeleteWebhookEndpointPayload,
    DeliveryFilter,
    ReplayEventsInput,
    ReplayEventsPayload,
    ResendConfirmationInput,
    ResendConfirmationPayload,
    RetryDeliveryInput,
    RetryDeliveryPayload,
    RotateWebhookSecretInput,
    RotateWebhookSecretPayload,
    SendTestEventInput,
    SendTestEventPayload,
    UpdateEmailSubscriptionInput,
    UpdateEmailSubscriptionPayload,
    UpdateWebhookEndpointInput,
    UpdateWebhookEndpointPayload,
)
from app.delivery.graphql.types import (
    WITHOUT_BODIES,
    Delivery,
    EmailSubscription,
    Replay,
    WebhookEndpoint,
)
from app.delivery.queue import deliveries, models, replays
from app.graphql.bounds.limits import limits_of
from app.graphql.context import Info
from app.graphql.engine import Engine
from app.graphql.inputs import given
from app.graphql.mutations import mutate
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.outbound.mail.link_tokens import MailLinks

ENDPOINT_OPTIONS = ("filter", "selection", "headers", "ordered", "rate_limit")


@strawberry.type
class DeliveryQueries:
    webhook_endpoint: WebhookEndpoint | None = by_id(models.WebhookEndpoint)
    """The webhook endpoint with this id; null if there is none."""
    webhook_endpoints: Connection[WebhookEndpoint] = pages(models.WebhookEndpoint)
    """The account's webhook endpoints, in the order of their ids."""
    email_subscription: EmailSubscription | None = by_id(models.EmailSubscription)
    """The email subscription with this id; null if there is none."""
    email_subscriptions: Connection[EmailSubscription] = pages(models.EmailSubscription)
    """The account's email subscriptions, in the order of their ids."""
    delivery: Delivery | None = by_id(models.Delivery)
    """The delivery with this id; null if there is none."""
    deliveries: Connection[Delivery] = pages(
        models.Delivery, DeliveryFilter, descending=True, options=WITHOUT_BODIES
    )
    """The account's deliveries, newest first."""
    replay: Replay | None = by_id(models.Replay)
    """The replay with this id; null if there is none."""


@strawberry.type
class DeliveryMutations:
    @strawberry.mutation
    async def create_webhook_endpoint(
        self,
        info: Info,
        input: CreateWebhookEndpointInput,
    ) -> CreateWebhookEndpointPayload | None:
        """Make a webhook endpoint, which gets the events from now on; an account has 100 at most."""
        services = info.context.services

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            values = given(input, "url", "description", "event_types", *ENDPOINT_OPTIONS)
            networks = services.settings.webhook_allow_networks
            endpoint, secret = await endpoints.create(
                session, actor, services.keyring, networks, checks=_checks(info), **values
            )
            return {"webhook_endpoint": endpoint, "secret": secret}

        return await mutate(info, input, CreateWebhookEndpointPayload, run)

    @strawberry.mutation
    async def update_webhook_endpoint(
        self,
        info: Info,
        input: UpdateWebhookEndpointInput,
    ) -> UpdateWebhookEndpointPayload | None:
        """Change, disable or enable a webhook endpoint."""
        services = info.context.services
        networks = services.settings.webhook_allow_networks

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            changes = given(input, "url", "description", "event_types", "status", *ENDPOINT_OPTIONS)
            endpoint = await endpoints.update_endpoint(
                session, actor, services.keyring, networks, input.webhook_endpoint_id, changes, _checks(info)
            )
            return {"webhook_endpoint": endpoint}

        return await mutate(info, input, UpdateWebhookEndpointPayload, run)

    @strawberry.mutation
    async def delete_webhook_endpoint(
        self,
        info: Info,
        input: DeleteWebhookEndpointInput,
    ) -> DeleteWebhookEndpointPayload | None:
        """Delete a webhook endpoint; deliveries that wait for it are cancelled, and all stay to be looked at."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            return {"deleted_id": await endpoints.delete(session, actor, input.webhook_endpoint_id)}

        return await mutate(info, input, DeleteWebhookEndpointPayload, run)

    @strawberry.mutation
    async def rotate_webhook_secret(
        self,
        info: Info,
        input: RotateWebhookSecretInput,
    ) -> RotateWebhookSecretPayload | None:
        """Give a webhook endpoint a new secret and key pair; the old ones sign as well for overlapSeconds
        more."""
        keyring = info.context.services.keyring

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            endpoint, secret = await endpoints.rotate_secret(
                session, actor, keyring, input.webhook_endpoint_id, input.overlap_seconds
            )
            return {"webhook_endpoint": endpoint, "secret": secret}

        return await mutate(info, input, RotateWebhookSecretPayload, run)

    @strawberry.mutation
    async def send_test_event(self, info: Info, input: SendTestEventInput) -> SendTestEventPayload | None:
        """Send the catalogue's example: by the endpoint's selection if it has one, to which the objects that the
        example names are not there; id evt_test_…, sequence 0, "test": true, outside the log and the streams."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            delivery = await deliveries.send_test(session, actor, input.webhook_endpoint_id, input.type)
            return {"delivery": delivery}

        return await mutate(info, input, SendTestEventPayload, run)

    @strawberry.mutation
    async def create_email_subscription(
        self,
        info: Info,
        input: CreateEmailSubscriptionInput,
    ) -> CreateEmailSubscriptionPayload | None:
        """Ask an address to take events by mail; an account has 1,000 subscriptions at most."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            values = given(input, "email", "description", "event_types", "filter", "digest")
            return {
                "email_subscription": await subscriptions.create(
                    session, actor, _mail_links(info), checks=_checks(info), **values
                )
            }

        return await mutate(info, input, CreateEmailSubscriptionPayload, run)

    @strawberry.mutation
    async def update_email_subscription(
        self,
        info: Info,
        input: UpdateEmailSubscriptionInput,
    ) -> UpdateEmailSubscriptionPayload | None:
        """Change an email subscription."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            changes = given(input, "description", "event_types", "filter", "digest")
            changed = await subscriptions.update(
                session, actor, input.email_subscription_id, changes, _checks(info)
            )
            return {"email_subscription": changed}

        return await mutate(info, input, UpdateEmailSubscriptionPayload, run)

    @strawberry.mutation
    async def delete_email_subscription(
        self,
        info: Info,
        input: DeleteEmailSubscriptionInput,
    ) -> DeleteEmailSubscriptionPayload | None:
        """Delete an email subscription; deliveries that wait for it are cancelled, and all stay to be looked
        at."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            deleted = await subscriptions.delete(
                session, actor, _mail_links(info), input.email_subscription_id
            )
            return {"deleted_id": deleted}

        return await mutate(info, input, DeleteEmailSubscriptionPayload, run)

    @strawberry.mutation
    async def resend_confirmation(
        self,
        info: Info,
        input: ResendConfirmationInput,
    ) -> ResendConfirmationPayload | None:
        """Ask the address again, once a minute and three times a day at most. One that was suspended waits for its
        address again; one whose address unsubscribed is CONFLICT until the person confirms by an earlier mail."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            asked = await subscriptions.resend_confirmation(
                session, actor, _mail_links(info), input.email_subscription_id
            )
            return {"email_subscription": asked}

        return await mutate(info, input, ResendConfirmationPayload, run)

    @strawberry.mutation
    async def retry_delivery(self, info: Info, input: RetryDeliveryInput) -> RetryDeliveryPayload | None:
        """Try a delivery now, its schedule begun anew. One that succeeded is sent once more, under the same
        webhook-id."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            return {"delivery": await deliveries.send_again(session, actor, input.delivery_id)}

        return await mutate(info, input, RetryDeliveryPayload, run)

    @strawberry.mutation
    async def replay_events(self, info: Info, input: ReplayEventsInput) -> ReplayEventsPayload | None:
        """Send to one endpoint again: the events after a cursor through another, or all that failed since a
        time."""
        services = info.context.services
        retention = timedelta(days=services.settings.event_retention_days)

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            values = given(input, "after", "through", "failed_since", webhook_endpoint_id="endpoint_id")
            return {"replay": await replays.create(session, actor, services.keyring, retention, **values)}

        return await mutate(info, input, ReplayEventsPayload, run)


def _checks(info: Info) -> dict[str, Rule]:
    """How filter and selection become what is stored of them."""
    return {
        "filter": lambda value: None if value is None else value.checked(),
        "selection": lambda value: None if value is None else payload_selection.checked(_engine(info), value),
    }


def _engine(info: Info) -> Engine:
    return Engine(info.schema, limits_of(info.context.services.settings))


def _mail_links(info: Info) -> MailLinks:
    services = info.context.services
    return MailLinks(services.keyring, services.public_url)
