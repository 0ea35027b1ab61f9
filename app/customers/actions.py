"""Actions on customers: load the row, apply the rule, append the event. Each takes a session and never commits."""

from typing import Any, Final

from sqlmodel import col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.auth.authenticate import CredentialsChanged
from app.consents.models import HostedConsent
from app.core import clock, validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal, not_found
from app.customers.events import CustomerCreated
from app.customers.models import Customer
from app.db.database import announce, secure_delete
from app.db.idempotency import redact_successes
from app.delivery.queue import erasure
from app.events import log
from app.meters.models import Meter
from app.outbound.mail.mail_files import MailFiles

_PERSONAL: Final = {model.__name__: model.personal for model in (Customer, HostedConsent, Meter)}
# The fields that an update may change, each with its rule; None clears a field where its rule allows it.
_CHANGES: dict[str, Any] = {
    "name": lambda value: validation.required_text(validation.not_cleared(value, "name"), "name"),
    "email": lambda value: validation.email(validation.not_cleared(value, "email"), "email"),
    "address": lambda value: validation.optional_text(value, "address"),
    "logo_url": lambda value: validation.link(value, "logoUrl"),
    "labels": lambda value: value or {},
}


async def create(
    session: AsyncSession,
    actor: Actor,
    *,
    name: str,
    email: str,
    address: str | None = None,
    logo_url: str | None = None,
    labels: dict[str, str] | None = None,
) -> Customer:
    given = {"name": name, "email": email, "address": address, "logo_url": logo_url, "labels": labels}
    customer = Customer(account_id=actor.account_id, **validation.validate_changes(_CHANGES, given))
    await _require_unique_email(session, customer)
    session.add(customer)
    await session.flush()
    log.append(session, actor.account_id, CustomerCreated.of(customer))
    return customer


async def update(session: AsyncSession, actor: Actor, customer_id: str, changes: dict[str, Any]) -> Customer:
    """Applies the given `changes`, whose names are in `_CHANGES`."""
    customer = await load(session, actor, customer_id, "customerId", lock=True)
    for attribute, value in validation.validate_changes(_CHANGES, changes).items():
        setattr(customer, attribute, value)
    if "email" in changes:
        await _require_unique_email(session, customer)
    customer.updated_at = clock.now()
    return customer


async def delete(
    session: AsyncSession, actor: Actor, keyring: Keyring, customer_id: str, mail_files: MailFiles
) -> str:
    """Deletes a customer with its meters, readings, consents and evidence. Redacts its events and stored payloads.

    Mails among `mail_files` are deleted as well. Stream tokens that are bound to the customer end. Hashed counts of
    mails to the customer's addresses remain, which the mail limits need for a day at most.
    """
    customer = await load(session, actor, customer_id, "customerId", lock=True)
    consents = (
        await session.exec(select(HostedConsent).where(col(HostedConsent.customer_id) == customer_id))
    ).all()
    consent_ids = [consent.id for consent in consents]
    addresses = {customer.email}.union(*(consent.addresses for consent in consents))
    async with secure_delete(session):
        await session.delete(customer)
        # The rows are deleted first, which waits for concurrent changes, so that their events are redacted as well.
        await session.flush()
        await log.redact(session, actor.account_id, customer_id)
        await erasure.forget_customer(
            session, actor.account_id, customer_id, consent_ids, addresses, mail_files
        )
        await redact_successes(session, keyring, actor.account_id, customer_id, _PERSONAL)
    announce(session, [CredentialsChanged(actor.account_id)])
    return customer_id


async def load(
    session: AsyncSession, actor: Actor, customer_id: str, *field: str, lock: bool = False
) -> Customer:
    """Loads a customer; `lock` holds off concurrent changes. Raises NOT_FOUND.

    Creating a meter or a consent of the customer takes the lock, so that of two concurrent ones one sees the other.
    """
    statement = visible(select(Customer).where(col(Customer.id) == customer_id), actor)
    if lock:
        # Transactions that do not lock the customer may still write rows that refer to it.
        statement = statement.with_for_update(key_share=True)
    customer: Customer | None = (await session.execute(statement)).scalar_one_or_none()
    if customer is None:
        raise not_found("customer", *field)
    return customer


async def _require_unique_email(session: AsyncSession, customer: Customer) -> None:
    taken = select(col(Customer.id)).where(
        col(Customer.account_id) == customer.account_id,
        func.lower(col(Customer.email)) == customer.email.lower(),
        col(Customer.id) != customer.id,
    )
    with session.no_autoflush:
        if (await session.execute(taken)).first() is not None:
            raise Refusal(
                ErrorCode.TAKEN, "Another customer of this account has this email; use another.", "email"
            )
