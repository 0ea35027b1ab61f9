"""Actions behind the links in mails: an address confirms a subscription, ends it, or takes it up again.

They take a session and never commit. The link's token is the only credential.
"""

import enum
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring, digest
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.queue.cancellation import cancel_all_pending
from app.events import log
from app.outbound.mail import suppressions
from app.outbound.mail.addresses import HashedAddress, address_hashes
from app.outbound.mail.link_tokens import Unsubscribe, asked_address
from app.outbound.mail.mail_queue import forget_mails_about

_UNSUBSCRIBED = EmailSubscriptionStatus.UNSUBSCRIBED.value


class Confirmation(enum.Enum):
    """The state of a confirmation link.

    AGAIN: the address has unsubscribed since; confirming lifts the suppression. LIFTED: the suppression is lifted, and
    there is no subscription left to go on.
    """

    OPEN = "open"
    DONE = "done"
    AGAIN = "again"
    LIFTED = "lifted"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Confirmable:
    """The subscription of a confirmation link, as long as it may be shown, and the account that asked."""

    state: Confirmation
    account_id: str | None = None
    subscription: EmailSubscription | None = None


@dataclass(frozen=True)
class Unsubscribable:
    """The subscription of an unsubscribe link. The account is unknown for an old link without its subscription."""

    account_id: str | None
    subscription: EmailSubscription | None
    is_ended: bool


async def find_confirmation(
    session: AsyncSession, keyring: Keyring, token: str, *, lock: bool = False
) -> Confirmable:
    """The subscription and state of the confirmation link with this token."""
    statement = select(EmailSubscription).where(col(EmailSubscription.confirm_hash) == digest(token))
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    subscription = (await session.execute(statement)).scalar_one_or_none()
    if subscription is None or await _has_successor(session, subscription):
        return await _without_subscription(session, asked_address(keyring, token))
    state = _state(subscription)
    return Confirmable(
        state, subscription.account_id, None if state is Confirmation.EXPIRED else subscription
    )


async def confirm(session: AsyncSession, keyring: Keyring, token: str) -> Confirmable:
    """Confirm: the address gets the events from now on. A second time nothing changes."""
    found = await find_confirmation(session, keyring, token)
    position = 0
    if found.account_id is not None:
        # The log's lock comes before the subscription's, as in `resend_confirmation`: otherwise the two could deadlock.
        position = await log.lock_position(session, found.account_id)
        found = await find_confirmation(session, keyring, token, lock=True)
    if found.state is Confirmation.AGAIN:
        await _lift(session, keyring, token, found.subscription)
    subscription = found.subscription
    if subscription is None:
        lifted = found.state is Confirmation.AGAIN
        return Confirmable(Confirmation.LIFTED, found.account_id) if lifted else found
    if found.state in (Confirmation.OPEN, Confirmation.AGAIN):
        subscription.first_sequence = position
        subscription.status = EmailSubscriptionStatus.ACTIVE.value
        subscription.updated_at = clock.now()
    return Confirmable(Confirmation.DONE, found.account_id, subscription)


async def find_to_unsubscribe(session: AsyncSession, link: Unsubscribe) -> Unsubscribable:
    """The subscription that a verified unsubscribe link would end."""
    subscription = await session.get(EmailSubscription, link.subscription_id)
    if subscription is not None:
        return Unsubscribable(subscription.account_id, subscription, subscription.status == _UNSUBSCRIBED)
    if link.address is None:
        return Unsubscribable(None, None, is_ended=True)
    row = await suppressions.find(session, link.address)
    return Unsubscribable(link.address.account_id, None, row is not None and row.lifted_at is None)


async def unsubscribe(session: AsyncSession, keyring: Keyring, link: Unsubscribe) -> Unsubscribable:
    """End all mails of the account to the address: pending ones are cancelled, and the account may not ask again.

    A second time nothing changes.
    """
    found = await find_to_unsubscribe(session, link)
    address = link.address
    if found.subscription is not None:
        address = HashedAddress.of(keyring, found.subscription.account_id, found.subscription.email)
    if address is None:
        return found
    for subscription in await _subscriptions_of(session, keyring, address):
        subscription.status = _UNSUBSCRIBED
        subscription.updated_at = clock.now()
        await cancel_all_pending(session, subscription.id)
        await forget_mails_about(session, subscription.id)
    await suppressions.suppress(session, address)
    return Unsubscribable(found.account_id, found.subscription, is_ended=True)


def _state(subscription: EmailSubscription) -> Confirmation:
    if subscription.status == EmailSubscriptionStatus.ACTIVE.value:
        return Confirmation.DONE
    if subscription.status == _UNSUBSCRIBED:
        return Confirmation.AGAIN
    waits = subscription.status == EmailSubscriptionStatus.PENDING.value
    if not waits or subscription.confirm_until is None or subscription.confirm_until <= clock.now():
        return Confirmation.EXPIRED
    return Confirmation.OPEN


async def _without_subscription(session: AsyncSession, asked: HashedAddress | None) -> Confirmable:
    """The state of a link whose subscription is gone: it can still lift the suppression of its address."""
    row = None if asked is None else await suppressions.find(session, asked)
    if row is None:
        return Confirmable(Confirmation.UNKNOWN)
    state = Confirmation.AGAIN if row.lifted_at is None else Confirmation.LIFTED
    return Confirmable(state, row.account_id)


async def _lift(
    session: AsyncSession, keyring: Keyring, token: str, subscription: EmailSubscription | None
) -> None:
    if subscription is not None:
        hashes = address_hashes(keyring, subscription.email)
        await suppressions.lift(session, subscription.account_id, hashes)
    elif (asked := asked_address(keyring, token)) is not None:
        await suppressions.lift(session, asked.account_id, [asked.hash])


async def _has_successor(session: AsyncSession, subscription: EmailSubscription) -> bool:
    """Whether the account has a newer subscription of the address in place of this ended one."""
    if subscription.status != _UNSUBSCRIBED:
        return False
    other = exists().where(
        col(EmailSubscription.account_id) == subscription.account_id,
        func.lower(col(EmailSubscription.email)) == subscription.email.lower(),
        col(EmailSubscription.status) != _UNSUBSCRIBED,
    )
    return bool((await session.execute(select(other))).scalar_one())


async def _subscriptions_of(
    session: AsyncSession, keyring: Keyring, address: HashedAddress
) -> list[EmailSubscription]:
    """The account's live subscriptions of the address, locked."""
    live = [
        col(EmailSubscription.account_id) == address.account_id,
        col(EmailSubscription.status) != _UNSUBSCRIBED,
    ]
    addresses = await session.execute(
        select(col(EmailSubscription.id), col(EmailSubscription.email)).where(*live)
    )
    ids = [key for key, email in addresses if address.hash in address_hashes(keyring, email)]
    statement = (
        select(EmailSubscription)
        .where(*live, col(EmailSubscription.id).in_(ids))
        .order_by(col(EmailSubscription.id))
        .with_for_update()
    )
    return list((await session.execute(statement)).scalars())
