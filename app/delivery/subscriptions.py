"""Verbs over email subscriptions: asked for by an account, confirmed and ended by the address itself.

They take a session and never commit. Nothing but the confirmation goes to an address that has not confirmed.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import clock, rules
from app.auth.actor import Actor, visible
from app.crypto import Keyring, digest, random_token
from app.delivery import event_names, mails
from app.delivery.actions import cancel_unfinished
from app.delivery.mime import plain_address
from app.delivery.models import Digest, EmailSubscription, EmailSubscriptionStatus
from app.errors import ErrorCode, Refusal, not_found
from app.events import log
from app.events.ring import work_due

MAX_SUBSCRIPTIONS: Final = 1000
CONFIRM_WITHIN: Final = timedelta(hours=48)
RESEND_AFTER: Final = timedelta(minutes=1)
TOKEN_PREFIX: Final = "vw_confirm_"  # noqa: S105 - the public part


class Confirmation(enum.Enum):
    """What a confirmation token is good for now."""

    OPEN = "open"
    DONE = "done"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Post:
    """What is needed to write a confirmation mail."""

    keyring: Keyring
    public_url: str


async def create(
    session: AsyncSession,
    actor: Actor,
    post: Post,
    *,
    email: str,
    description: str | None = None,
    event_types: Sequence[str] | None = None,
    filter: dict[str, Any] | None = None,
    digest: Digest | None = None,
) -> EmailSubscription:
    """A subscription that waits for its confirmation, whose mail is queued. `filter` is as `filters.checked` gives it.

    Raises what `rules.email` and `event_names.checked` raise, TOO_LONG, TAKEN and LIMIT_REACHED.
    """
    subscription = EmailSubscription(
        account_id=actor.account_id,
        email=_address(email),
        description=rules.optional(description, "description"),
        event_types=event_names.checked(event_types),
        filter=filter,
        digest=(digest or Digest.IMMEDIATE).value,
    )
    # The log's lock makes two creations look at each other's rows, one after the other.
    await log.lock_position(session, actor.account_id)
    await _require_room(session, actor)
    await _require_free(session, actor, subscription)
    session.add(subscription)
    await _ask(session, post, subscription)
    return subscription


async def update(
    session: AsyncSession, actor: Actor, subscription_id: str, changes: dict[str, Any]
) -> EmailSubscription:
    """`changes` holds only the attributes that were given: description, event_types, filter, digest.

    What waits for a digest still comes in it; events from now on come as the new one says.
    """
    subscription = await _load(session, actor, subscription_id)
    if "description" in changes:
        subscription.description = rules.optional(changes["description"], "description")
    if "event_types" in changes:
        subscription.event_types = event_names.checked(changes["event_types"])
    if "filter" in changes:
        subscription.filter = changes["filter"]
    if "digest" in changes:
        subscription.digest = (changes["digest"] or Digest.IMMEDIATE).value
    subscription.updated_at = clock.now()
    return subscription


async def delete(session: AsyncSession, actor: Actor, subscription_id: str) -> str:
    """What waited is cancelled; the deliveries stay to be looked at."""
    subscription = await _load(session, actor, subscription_id)
    await cancel_unfinished(session, subscription.id)
    await session.delete(subscription)
    return subscription_id


async def resend_confirmation(
    session: AsyncSession, actor: Actor, post: Post, subscription_id: str
) -> EmailSubscription:
    """Ask the address again, with a new token; one that had unsubscribed or was suspended must confirm anew.

    Raises CONFLICT for an active one, LIMIT_REACHED within a minute of the last mail, and TAKEN when another
    subscription has the address meanwhile.
    """
    await log.lock_position(session, actor.account_id)
    subscription = await _load(session, actor, subscription_id)
    if subscription.status == EmailSubscriptionStatus.ACTIVE.value:
        raise Refusal(ErrorCode.CONFLICT, "This subscription is confirmed already.", "emailSubscriptionId")
    _require_patience(subscription, clock.now())
    await _require_free(session, actor, subscription, "emailSubscriptionId")
    subscription.status = EmailSubscriptionStatus.PENDING.value
    subscription.suspended_reason = None
    await _ask(session, post, subscription)
    return subscription


async def find_by_confirmation(
    session: AsyncSession, token: str, *, lock: bool = False
) -> tuple[Confirmation, EmailSubscription | None]:
    """What the token in a confirmation link stands for, and the subscription while it may be shown."""
    statement = select(EmailSubscription).where(col(EmailSubscription.confirm_hash) == digest(token))
    if lock:
        statement = statement.with_for_update()
    subscription = (await session.execute(statement)).scalar_one_or_none()
    if subscription is None:
        return Confirmation.UNKNOWN, None
    if subscription.status == EmailSubscriptionStatus.ACTIVE.value:
        return Confirmation.DONE, subscription
    waits = subscription.status == EmailSubscriptionStatus.PENDING.value
    if not waits or subscription.confirm_until is None or subscription.confirm_until <= clock.now():
        return Confirmation.EXPIRED, None
    return Confirmation.OPEN, subscription


async def confirm(session: AsyncSession, token: str) -> tuple[Confirmation, EmailSubscription | None]:
    """The address wants the mails: it gets the events from now on. A second time nothing changes."""
    found, subscription = await find_by_confirmation(session, token, lock=True)
    if found is Confirmation.OPEN and subscription is not None:
        subscription.first_sequence = await log.lock_position(session, subscription.account_id)
        subscription.status = EmailSubscriptionStatus.ACTIVE.value
        subscription.updated_at = clock.now()
        return Confirmation.DONE, subscription
    return found, subscription


async def find_to_unsubscribe(
    session: AsyncSession, subscription_id: str, *, lock: bool = False
) -> EmailSubscription | None:
    """The subscription whose signed unsubscribe token was verified; the token alone decides."""
    statement = select(EmailSubscription).where(col(EmailSubscription.id) == subscription_id)
    if lock:
        statement = statement.with_for_update()
    return (await session.execute(statement)).scalar_one_or_none()


async def unsubscribe(session: AsyncSession, subscription_id: str) -> EmailSubscription | None:
    """The address wants no more mails: what waited is cancelled. A second time nothing changes."""
    subscription = await find_to_unsubscribe(session, subscription_id, lock=True)
    if subscription is None or subscription.status == EmailSubscriptionStatus.UNSUBSCRIBED.value:
        return subscription
    subscription.status = EmailSubscriptionStatus.UNSUBSCRIBED.value
    # The old confirmation link must not bring the mails back.
    subscription.confirm_hash = subscription.confirm_until = None
    subscription.updated_at = clock.now()
    await cancel_unfinished(session, subscription.id)
    return subscription


async def _ask(session: AsyncSession, post: Post, subscription: EmailSubscription) -> None:
    """A fresh token, of which only the hash is kept, and the mail that carries it."""
    token, now = random_token(TOKEN_PREFIX), clock.now()
    subscription.confirm_hash = digest(token)
    subscription.confirm_until = now + CONFIRM_WITHIN
    subscription.confirm_sent_at = subscription.updated_at = now
    await session.flush()
    link = f"{post.public_url}/email-subscriptions/confirm/{token}"
    mail = await mails.confirmation_mail(session, subscription, link, subscription.confirm_until)
    session.add(mails.outgoing(post.keyring, subscription.account_id, subscription.email, mail))
    work_due(session, subscription.account_id)
    await session.flush()


async def _load(session: AsyncSession, actor: Actor, subscription_id: str) -> EmailSubscription:
    statement = visible(select(EmailSubscription).where(col(EmailSubscription.id) == subscription_id), actor)
    found = (await session.execute(statement.with_for_update())).scalar_one_or_none()
    subscription: EmailSubscription | None = found
    if subscription is None:
        raise not_found("email subscription", "emailSubscriptionId")
    return subscription


def _address(value: str) -> str:
    """An address that mails can be sent to: as the rules want it, and as the mailer does."""
    address = rules.email(value, "email")
    try:
        return plain_address(address)
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID, str(error), "email") from None


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
