"""Actions of an account on its email subscriptions. Actions of the subscribed addresses are in `link_actions`.

They take a session and never commit. An address that has not confirmed gets nothing but the confirmation.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import FOR_UPDATE, Actor, load_visible, visible
from app.core import clock, validation
from app.core.crypto import digest
from app.core.errors import ErrorCode, Refusal
from app.delivery.destinations.email import mails
from app.delivery.destinations.email.models import Digest, EmailSubscription, EmailSubscriptionStatus
from app.delivery.queue.cancellation import cancel_all_pending
from app.events import event_type_filter, log
from app.events.publisher import work_due
from app.outbound.mail import addresses, unconfirmed
from app.outbound.mail.addresses import HashedAddress
from app.outbound.mail.link_tokens import MailLinks, confirm_token
from app.outbound.mail.mail_queue import enqueue, forget_mails_about

MAX_SUBSCRIPTIONS: Final = 1000
CONFIRM_WITHIN: Final = timedelta(hours=48)
RESEND_AFTER: Final = timedelta(minutes=1)


_RULES: Final[Mapping[str, validation.Rule]] = {
    "email": addresses.checked_address,
    "description": lambda value: validation.optional_text(value, "description"),
    "event_types": event_type_filter.checked_event_types,
    "digest": lambda value: (value or Digest.IMMEDIATE).value,
}


async def create(
    session: AsyncSession,
    actor: Actor,
    links: MailLinks,
    *,
    email: str,
    description: str | None = None,
    event_types: Sequence[str] | None = None,
    filter: dict[str, Any] | None = None,
    digest: Digest | None = None,
    checks: Mapping[str, validation.Rule] = MappingProxyType({}),
) -> EmailSubscription:
    """A pending subscription, whose confirmation mail is queued. `filter` is the result of `checked_filter`, unless
    `checks` has a check for it.

    Raises as `checked_address` and `checked_event_types` do, and TOO_LONG, TAKEN, LIMIT_REACHED, and CONFLICT for an
    address that has unsubscribed.
    """
    given: dict[str, Any] = {"email": email, "description": description, "event_types": event_types}
    given |= {"filter": filter, "digest": digest}
    checked = validation.validate_changes({**_RULES, **checks}, given)
    subscription = EmailSubscription(account_id=actor.account_id, **checked)
    # Under the log's lock two creations run one after the other, so that the second sees the first one's row.
    await log.lock_position(session, actor.account_id)
    await _require_room(session, actor)
    await _require_free(session, actor, subscription)
    await links.suppressions.require_unsuppressed(session, actor.account_id, subscription.email, "email")
    session.add(subscription)
    await _ask(session, links, subscription, "email")
    return subscription


async def update(
    session: AsyncSession,
    actor: Actor,
    subscription_id: str,
    changes: dict[str, Any],
    checks: Mapping[str, validation.Rule] = MappingProxyType({}),
) -> EmailSubscription:
    """`changes` holds only the attributes that were given: description, event_types, filter, digest.

    Events that wait for a digest still come in it; a new digest applies to events from now on.
    """
    subscription = await _load(session, actor, subscription_id)
    for attribute, value in validation.validate_changes({**_RULES, **checks}, changes).items():
        setattr(subscription, attribute, value)
    subscription.updated_at = clock.now()
    return subscription


async def delete(session: AsyncSession, actor: Actor, links: MailLinks, subscription_id: str) -> str:
    """Delete a subscription. Pending mails and the confirmation are cancelled; the deliveries stay readable."""
    subscription = await _load(session, actor, subscription_id)
    await links.suppressions.list_unlisted(session, subscription.account_id, subscription.email)
    await cancel_all_pending(session, subscription.id)
    await forget_mails_about(session, subscription.id)
    await session.delete(subscription)
    return subscription_id


async def resend_confirmation(
    session: AsyncSession, actor: Actor, links: MailLinks, subscription_id: str
) -> EmailSubscription:
    """Ask the address again, with a new token; a suspended subscription is pending again.

    Raises CONFLICT for an active one and for an address that has unsubscribed, LIMIT_REACHED within a minute of the
    last mail and for an address that has been asked too often, and TAKEN when another subscription has the address
    meanwhile.
    """
    await log.lock_position(session, actor.account_id)
    subscription = await _load(session, actor, subscription_id)
    if subscription.status == EmailSubscriptionStatus.ACTIVE.value:
        raise Refusal(ErrorCode.CONFLICT, "This subscription is confirmed already.", "emailSubscriptionId")
    await links.suppressions.require_unsuppressed(
        session, actor.account_id, subscription.email, "emailSubscriptionId"
    )
    _require_patience(subscription, clock.now())
    await _require_free(session, actor, subscription, "emailSubscriptionId")
    subscription.status = EmailSubscriptionStatus.PENDING.value
    subscription.suspended_reason = None
    await _ask(session, links, subscription, "emailSubscriptionId")
    return subscription


async def has_unsubscribed(session: AsyncSession, account_id: str, address: str) -> bool:
    """Whether the address has subscriptions of the account and has unsubscribed from all of them."""
    statuses = select(col(EmailSubscription.status)).where(
        col(EmailSubscription.account_id) == account_id,
        func.lower(col(EmailSubscription.email)) == address.lower(),
    )
    return set((await session.execute(statuses)).scalars()) == {EmailSubscriptionStatus.UNSUBSCRIBED.value}


async def _ask(session: AsyncSession, links: MailLinks, subscription: EmailSubscription, field: str) -> None:
    """Store the hash of a new token, and queue the mail with the token. Raises LIMIT_REACHED at `field`."""
    account_id, email = subscription.account_id, subscription.email
    await unconfirmed.count(session, links.keyring, unconfirmed.Kind.INVITATION, account_id, email, field)
    address = HashedAddress.of(links.keyring, account_id, email)
    token, now = confirm_token(links.keyring, address), clock.now()
    subscription.confirm_hash = digest(token)
    subscription.confirm_until = now + CONFIRM_WITHIN
    subscription.confirm_sent_at = subscription.updated_at = now
    await session.flush()
    link = f"{links.public_url}/email-subscriptions/confirm/{token}"
    stop = links.unsubscribe_url(subscription.id, address)
    mail = await mails.confirmation_mail(session, subscription, link, subscription.confirm_until, stop)
    enqueue(session, links.keyring, account_id, email, mail, subscription.id)
    work_due(session, subscription.account_id)
    await session.flush()


async def _load(session: AsyncSession, actor: Actor, subscription_id: str) -> EmailSubscription:
    place = ("email subscription", "emailSubscriptionId")
    return await load_visible(session, actor, EmailSubscription, subscription_id, *place, lock=FOR_UPDATE)


def _require_patience(subscription: EmailSubscription, now: datetime) -> None:
    sent_at = subscription.confirm_sent_at
    if sent_at is not None and now < sent_at + RESEND_AFTER:
        wait = -((now - sent_at - RESEND_AFTER) // timedelta(seconds=1))
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"A confirmation was sent less than a minute ago; wait {wait} seconds before asking for another.",
            "emailSubscriptionId",
        )


async def _require_room(session: AsyncSession, actor: Actor) -> None:
    counted = visible(select(EmailSubscription), actor).with_only_columns(
        func.count(), maintain_column_froms=True
    )
    if (await session.execute(counted)).scalar_one() >= MAX_SUBSCRIPTIONS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"An account has at most {MAX_SUBSCRIPTIONS} email subscriptions; delete one that is not needed.",
        )


async def _require_free(
    session: AsyncSession, actor: Actor, subscription: EmailSubscription, field: str = "email"
) -> None:
    taken = visible(select(EmailSubscription), actor).where(
        func.lower(col(EmailSubscription.email)) == subscription.email.lower(),
        col(EmailSubscription.status) != EmailSubscriptionStatus.UNSUBSCRIBED.value,
        col(EmailSubscription.id) != subscription.id,
    )
    if (await session.execute(taken.limit(1))).first() is not None:
        raise Refusal(
            ErrorCode.TAKEN,
            "This address has a subscription in this account; change its eventTypes instead of adding another.",
            field,
        )
