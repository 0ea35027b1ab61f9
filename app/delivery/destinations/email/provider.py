"""The email destination: events to the people who subscribed to them, one mail for each event."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson
import structlog
from sqlalchemy import ColumnElement, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.types import database_now
from app.delivery.destinations.claimed_event import event_of
from app.delivery.destinations.email import mails
from app.delivery.destinations.email.mails import Wordings
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.cancellation import end_deliveries
from app.delivery.queue.leases import Claim, PickedDelivery
from app.delivery.queue.provider import Provider
from app.events.models import EventRecord
from app.outbound.attempt import Attempt
from app.outbound.mail.addresses import HashedAddress
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.rendering import Mail
from app.outbound.mail.sender import MOST_TO_ONE, MailSender
from app.outbound.mail.smtp import ATTEMPT_SECONDS

MOST_IN_FLIGHT = 6
"""Together with digests and transactional mails as many as the mailer's connections, so that none waits for another."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmailTarget:
    """An active subscription as it was when the delivery was claimed."""

    id: str
    email: str
    subscription: EmailSubscription
    unsubscribe_url: str
    paused_seconds: float = 0.0
    ordered: bool = False
    rate_limit: int | None = None


class EmailProvider(Provider):
    """The queue's provider for email subscriptions."""

    timeout = ATTEMPT_SECONDS
    most_in_flight = MOST_IN_FLIGHT
    most_each = MOST_TO_ONE
    keeps_bodies = True

    def __init__(self, links: MailLinks, mail_sender: MailSender, wording: Wordings) -> None:
        self._links = links
        self._mail_sender = mail_sender
        self._wording = wording

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> dict[str, EmailTarget]:
        """The active ones among the subscriptions."""
        statement = select(EmailSubscription).where(
            col(EmailSubscription.id).in_(ids),
            col(EmailSubscription.status) == EmailSubscriptionStatus.ACTIVE.value,
        )
        return {one.id: self._target(one) for one in (await session.execute(statement)).scalars()}

    async def body(self, session: AsyncSession, row: PickedDelivery, target: EmailTarget) -> str | None:
        """The mail for a delivery's first attempt as JSON; None if its event is gone."""
        if row.occurred_at is None:
            return None
        mail = await mails.event_mail(
            session, self._wording, target.subscription, event_of(row), target.unsubscribe_url
        )
        return orjson.dumps(asdict(mail)).decode()

    async def digest(self, session: AsyncSession, target: EmailTarget, events: Sequence[EventRecord]) -> Mail:
        """The mail about several events."""
        return await mails.digest_mail(
            session, self._wording, target.subscription, events, target.unsubscribe_url
        )

    async def send_digest(self, digest_id: str, target: EmailTarget, content: bytes) -> Attempt:
        """Make an attempt for all deliveries of the digest; `content` is the mail as JSON."""
        return await self._mail_sender.send(digest_id, target.email, content, target.unsubscribe_url)

    async def send(self, claim: Claim) -> Attempt:
        target: EmailTarget = claim.target
        return await self._mail_sender.send(claim.id, target.email, claim.body, target.unsubscribe_url)

    async def update_destinations(self, session: AsyncSession, results: Sequence[AttemptResult]) -> None:
        """Suspend the subscriptions whose address does not exist."""
        gone = {result.claim.destination_id: result for result in results if result.verdict.disable}
        for subscription_id, result in sorted(gone.items()):
            await self._suspend(session, subscription_id, result)

    def _target(self, subscription: EmailSubscription) -> EmailTarget:
        address = HashedAddress.of(self._links.keyring, subscription.account_id, subscription.email)
        url = self._links.unsubscribe_url(subscription.id, address)
        return EmailTarget(subscription.id, subscription.email, subscription, url)

    async def _suspend(self, session: AsyncSession, subscription_id: str, gone: AttemptResult) -> None:
        suspended = await _suspend(
            session,
            gone.verdict.reason,
            col(EmailSubscription.id) == subscription_id,
            col(EmailSubscription.status) == EmailSubscriptionStatus.ACTIVE.value,
        )
        if suspended:
            await end_deliveries(session, subscription_id)


async def suspend_unconfirmed(
    session: AsyncSession, account_id: str, email: str, written_at: datetime, reason: str | None
) -> None:
    """Suspend the subscription of an address whose confirmation mail, queued at `written_at`, found no mailbox.

    A subscription whose confirmation was sent again since then is left alone: the newer mail decides.
    """
    await _suspend(
        session,
        reason,
        col(EmailSubscription.account_id) == account_id,
        col(EmailSubscription.email) == email,
        col(EmailSubscription.status) == EmailSubscriptionStatus.PENDING.value,
        col(EmailSubscription.confirm_sent_at) <= written_at,
    )


async def _suspend(session: AsyncSession, reason: str | None, *conditions: ColumnElement[bool]) -> list[str]:
    """Suspend the subscriptions that meet all conditions; returns their ids."""
    suspended = await session.execute(
        update(EmailSubscription)
        .where(*conditions)
        .values(
            status=EmailSubscriptionStatus.SUSPENDED.value,
            suspended_reason=reason,
            updated_at=database_now(),
        )
        .returning(col(EmailSubscription.id)),
        execution_options={"synchronize_session": False},
    )
    ids = list(suspended.scalars())
    for subscription_id in ids:
        log.info("email_subscription_suspended", subscription_id=subscription_id)
    return ids
