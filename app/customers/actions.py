"""Actions on customers: load the row, apply the rule, append the event. None commits.

Most are scripts, which take their transaction; `delete` takes a session.
"""

from typing import Any, Final

from sqlalchemy import bindparam, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import FOR_NO_KEY_UPDATE, Actor, Scoped, load_visible
from app.auth.authenticate import CredentialsChanged
from app.consents.models import HostedConsent
from app.core import clock, validation
from app.core.crypto import Keyring
from app.core.errors import not_found
from app.customers.events import CustomerCreated
from app.customers.models import Customer
from app.db.database import secure_delete
from app.db.idempotency import redact_successes
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction, announce
from app.delivery.queue import erasure
from app.events import log
from app.imports import erasure as imports
from app.meters.models import Meter
from app.outbound.mail.addresses import require_unique
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

CUSTOMERS: Final = Table(Customer)
_FIND: Final = Scoped(select(*CUSTOMERS.columns).where(col(Customer.id) == bindparam("wanted_id")))
_LOCK: Final = Scoped(_FIND.statement.with_for_update(**FOR_NO_KEY_UPDATE))
_UPDATE: Final = CUSTOMERS.updating(*_CHANGES, "updated_at")

# Meters are locked before imports, in the order of their ids, as by an import that writes their readings.
_NUMBERS: Final = (
    select(col(Meter.number))
    .where(col(Meter.customer_id) == bindparam("customer_id"))
    .order_by(col(Meter.id))
    .with_for_update()
)


def create(
    transaction: InTransaction,
    actor: Actor,
    *,
    name: str,
    email: str,
    address: str | None = None,
    logo_url: str | None = None,
    labels: dict[str, str] | None = None,
) -> Script[Customer]:
    given = {"name": name, "email": email, "address": address, "logo_url": logo_url, "labels": labels}
    valid = validation.validate_changes(_CHANGES, given)
    customer = CUSTOMERS.new(account_id=actor.account_id, **valid)
    yield from require_unique(customer, "customer", customer.email)
    yield from CUSTOMERS.insert([customer])
    log.append(transaction, actor.account_id, CustomerCreated.of(customer))
    return customer


def update(actor: Actor, customer_id: str, changes: dict[str, Any]) -> Script[Customer]:
    """Applies the given `changes`, whose names are in `_CHANGES`."""
    customer = yield from find(actor, customer_id, "customerId", lock=True)
    for attribute, value in validation.validate_changes(_CHANGES, changes).items():
        setattr(customer, attribute, value)
    if "email" in changes:
        yield from require_unique(customer, "customer", customer.email)
    customer.updated_at = clock.now()
    yield from _UPDATE(customer)
    return customer


async def delete(
    session: AsyncSession, actor: Actor, keyring: Keyring, customer_id: str, mail_files: MailFiles
) -> str:
    """Deletes a customer with its meters, readings, consents and evidence. Redacts its events and stored payloads.

    Its mails among `mail_files` are noted, to be removed after the commit. Stream tokens that are bound to the customer
    end. Hashed counts of mails to the customer's addresses remain, which the mail limits need for a day at most.
    """
    customer = await load_visible(
        session, actor, Customer, customer_id, "customer", "customerId", lock=FOR_NO_KEY_UPDATE
    )
    theirs = select(HostedConsent).where(col(HostedConsent.customer_id) == customer_id)
    consents = (await session.execute(theirs)).scalars().all()
    consent_ids = [consent.id for consent in consents]
    addresses = {customer.email}.union(*(consent.addresses for consent in consents))
    async with secure_delete(session):
        numbers = (await session.execute(_NUMBERS, {"customer_id": customer_id})).scalars().all()
        await session.delete(customer)
        # The rows are deleted first, which waits for concurrent changes, so that their events are redacted as well.
        await session.flush()
        await log.redact(session, actor.account_id, customer_id)
        await erasure.forget_customer(
            session, actor.account_id, customer_id, consent_ids, addresses, mail_files
        )
        await redact_successes(session, keyring, actor.account_id, customer_id, _PERSONAL)
        # Last, since running imports wait for it.
        await imports.redact(session, actor.account_id, customer_id, numbers)
    announce(session, [CredentialsChanged(actor.account_id)])
    return customer_id


def find(actor: Actor, customer_id: str, *field: str, lock: bool = False) -> Script[Customer]:
    """Finds a customer; `lock` holds off concurrent changes. Raises NOT_FOUND.

    Creating a meter or a consent of the customer takes the lock, so that of two concurrent ones one sees the other.
    """
    found = yield (_LOCK if lock else _FIND).by(actor, wanted_id=customer_id)
    if not found:
        raise not_found("customer", *field)
    return CUSTOMERS.row(found[0])
