"""The wording of mails about customers, and the name of a customer in any mail."""

from collections.abc import Mapping
from typing import Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.customers.events import CustomerCreated
from app.customers.models import Customer
from app.events.models import EventRecord
from app.outbound.mail.rendering import shown
from app.outbound.mail.wording import MailFacts, Wording


async def customer_of(session: AsyncSession, event: EventRecord) -> Customer | None:
    """The event's customer as it is now; None when it was deleted."""
    statement = select(Customer).where(
        col(Customer.account_id) == event.account_id, col(Customer.id) == event.customer_id
    )
    return (await session.exec(statement)).one_or_none()


async def customer_name(session: AsyncSession, event: EventRecord) -> str:
    customer = await customer_of(session, event)
    return shown(customer.name if customer else None)


async def created(session: AsyncSession, event: EventRecord) -> MailFacts:
    customer = await customer_of(session, event)
    if customer is None:
        return MailFacts("New customer, deleted since", [("Customer", shown(None))])
    return MailFacts(
        f"New customer: {customer.name}", [("Customer", customer.name), ("Email", customer.email)]
    )


WORDING: Final[Mapping[str, Wording]] = {CustomerCreated.type: created}
