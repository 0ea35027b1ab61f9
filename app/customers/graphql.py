"""Customers in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import func
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, Scope
from app.consents.models import HostedConsent as HostedConsentRow
from app.core.outages import report
from app.customers import actions, models
from app.customers.events import CustomerCreated
from app.db.raw_statements import Script
from app.graphql.compiled.declare import computed, to_many, to_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.filters import Filter, compared, labelled
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import ScriptContext, UserError, mutate, mutation
from app.graphql.nodes import Node, row_type
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.graphql.scalars import Metadata
from app.meters.models import Meter as MeterRow
from app.outbound.mail.mail_files import MailFiles

if TYPE_CHECKING:
    from app.consents.graphql import HostedConsent
    from app.meters.graphql import Meter

LazyMeter = Annotated["Meter", strawberry.lazy("app.meters.graphql")]
LazyHostedConsent = Annotated["HostedConsent", strawberry.lazy("app.consents.graphql")]


@row_type(models.Customer, "cus")
@strawberry.type
class Customer(Node):
    """A person or company whose meters the account works with."""

    id: strawberry.ID
    name: str
    """The customer's name."""
    email: str
    """The customer's mail address, unique in the account whatever its case."""
    address: str | None
    """The customer's postal address."""
    logo_url: str | None
    """An https link to the customer's logo."""
    metadata: Metadata = computed(lambda read, labels: labels if read.viewer.sees_notes else {}, "labels")
    """The account's own keys and values; {} to a viewer bound to one customer."""
    created_at: datetime
    updated_at: datetime
    meters: Connection[LazyMeter] = to_many(MeterRow.customer_id)
    """The customer's meters, in the order of their ids."""
    hosted_consents: Connection[LazyHostedConsent] = to_many(HostedConsentRow.customer_id)
    """The consents that the customer was asked for, in the order of their ids."""


@event_type(CustomerCreated)
@strawberry.type
class CustomerCreatedEvent(Event):
    """A customer was created."""

    customer: Customer | None = to_one("subject_id")
    """The customer as of now; null once deleted."""


@strawberry.input
class CustomerFilter(Filter):
    """OR within emails, AND across; [] matches nothing, null everything."""

    emails: list[str] | None = compared(
        func.lower(col(models.Customer.email)).in_, lambda given: [one.lower() for one in given]
    )
    """Mail addresses, in upper or lower case: 1,000 at most."""
    metadata: Metadata | None = labelled(col(models.Customer.labels))
    """Keys and values, all of which the customer must have."""


@strawberry.type
class CustomerQueries:
    customer: Customer | None = by_id(models.Customer)
    """The customer with this id; null if there is none."""
    customers: Connection[Customer] = pages(models.Customer, CustomerFilter)
    """The account's customers, in the order of their ids."""


@strawberry.input
class CreateCustomerInput:
    name: str
    """The customer's name, up to 200 characters."""
    email: str
    """The customer's mail address, unique in the account whatever its case."""
    address: str | None = None
    """The customer's postal address, up to 2,000 characters."""
    logo_url: str | None = None
    """An https link to the customer's logo."""
    metadata: Metadata | None = None
    """Keys and values of your own; {} unless given."""
    idempotency_key: str | None = None


@strawberry.input
class UpdateCustomerInput:
    customer_id: strawberry.ID
    name: str | None = strawberry.UNSET
    """The customer's new name, up to 200 characters; cannot be cleared."""
    email: str | None = strawberry.UNSET
    """The customer's new mail address, unique in the account; cannot be cleared."""
    address: str | None = strawberry.UNSET
    """The customer's new postal address, up to 2,000 characters."""
    logo_url: str | None = strawberry.UNSET
    """An https link to the customer's logo."""
    metadata: Metadata | None = strawberry.UNSET
    """Keys and values of your own, which replace all that there were."""
    idempotency_key: str | None = None


@strawberry.input
class DeleteCustomerInput:
    customer_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DeleteCustomerPayload:
    deleted_id: strawberry.ID | None = None
    user_errors: list[UserError]


@strawberry.type
class CustomerMutations:
    @mutation(customer=Customer)
    def create_customer(self, context: ScriptContext, input: CreateCustomerInput) -> Script[Result]:
        """Make a customer, with the event customer.created."""
        values = given(input, "name", "email", "address", "logo_url", metadata="labels")
        return {"customer": (yield from actions.create(context.transaction, context.actor, **values))}

    @mutation(customer=Customer)
    def update_customer(self, context: ScriptContext, input: UpdateCustomerInput) -> Script[Result]:
        """Change a customer."""
        changes = given(input, "name", "email", "address", "logo_url", metadata="labels")
        return {"customer": (yield from actions.update(context.actor, input.customer_id, changes))}

    @strawberry.mutation
    async def delete_customer(self, info: Info, input: DeleteCustomerInput) -> DeleteCustomerPayload | None:
        """Delete a customer with its meters, readings, consents and evidence, and redact its personal data in
        the log."""
        info.context.viewer.require(Scope.WRITE)
        keyring = info.context.services.keyring
        files = MailFiles(info.context.services.settings.mail_folder)

        deleted: list[str] = []

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            # It may be run again after a conflict.
            deleted.clear()
            deleted.append(await actions.delete(session, actor, keyring, input.customer_id, files))
            return {"deleted_id": deleted[0]}

        payload = await mutate(info, input, DeleteCustomerPayload, run)
        for customer_id in deleted:
            try:
                await files.remove(customer_id)
            except OSError as error:
                # The customer is deleted all the same.
                report("mails about a deleted customer were not removed, housekeeping will try again", error)
        return payload
