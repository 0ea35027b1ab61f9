"""Email subscriptions in GraphQL."""

from datetime import datetime

import strawberry

from app.delivery.destinations.email import subscriptions
from app.delivery.destinations.email.models import Digest, EmailSubscriptionStatus
from app.delivery.destinations.email.models import EmailSubscription as EmailSubscriptionRow
from app.delivery.graphql.shared import DestinationFilter, DestinationFilterInput, filter_rule
from app.graphql.compiled.declare import computed
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import MutationContext, mutation
from app.graphql.nodes import Node, row_type
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages

for kind in (Digest, EmailSubscriptionStatus):
    strawberry.enum(kind)


@row_type(EmailSubscriptionRow, "ems")
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


@strawberry.input
class DeleteEmailSubscriptionInput:
    email_subscription_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class ResendConfirmationInput:
    email_subscription_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class EmailSubscriptionQueries:
    email_subscription: EmailSubscription | None = by_id(EmailSubscriptionRow)
    """The email subscription with this id; null if there is none."""
    email_subscriptions: Connection[EmailSubscription] = pages(EmailSubscriptionRow)
    """The account's email subscriptions, in the order of their ids."""


@strawberry.type
class EmailSubscriptionMutations:
    @mutation(email_subscription=EmailSubscription)
    async def create_email_subscription(
        self, context: MutationContext, input: CreateEmailSubscriptionInput
    ) -> Result:
        """Ask an address to take events by mail; an account has 1,000 subscriptions at most."""
        session, actor, links = context.session, context.actor, context.services.mail_links
        values = given(input, "email", "description", "event_types", "filter", "digest")
        rules = {"filter": await filter_rule(session, actor, input, EmailSubscriptionRow)}
        created = await subscriptions.create(session, actor, links, checks=rules, **values)
        return {"email_subscription": created}

    @mutation(email_subscription=EmailSubscription)
    async def update_email_subscription(
        self, context: MutationContext, input: UpdateEmailSubscriptionInput
    ) -> Result:
        """Change an email subscription."""
        session, actor = context.session, context.actor
        changes = given(input, "description", "event_types", "filter", "digest")
        identifier = input.email_subscription_id
        rules = {"filter": await filter_rule(session, actor, input, EmailSubscriptionRow, identifier)}
        changed = await subscriptions.update(session, actor, identifier, changes, rules)
        return {"email_subscription": changed}

    @mutation(deleted_id=strawberry.ID)
    async def delete_email_subscription(
        self, context: MutationContext, input: DeleteEmailSubscriptionInput
    ) -> Result:
        """Delete an email subscription; deliveries that wait for it are cancelled, and all stay to be looked
        at."""
        session, actor, links = context.session, context.actor, context.services.mail_links
        return {"deleted_id": await subscriptions.delete(session, actor, links, input.email_subscription_id)}

    @mutation(email_subscription=EmailSubscription)
    async def resend_confirmation(self, context: MutationContext, input: ResendConfirmationInput) -> Result:
        """Ask the address again, once a minute and three times a day at most. One that was suspended waits for its
        address again; one whose address unsubscribed is CONFLICT until the person confirms by an earlier mail."""
        session, actor, links = context.session, context.actor, context.services.mail_links
        asked = await subscriptions.resend_confirmation(session, actor, links, input.email_subscription_id)
        return {"email_subscription": asked}
