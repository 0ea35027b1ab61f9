"""The mail carriers: events to the people who subscribed to them, and the mails that are not about an event."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parseaddr
from typing import Any

import orjson
import structlog
from sqlalchemy import ColumnElement, Row, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.crypto import Keyring
from app.db.types import database_now
from app.delivery.destinations.webhook.payload import parsed
from app.delivery.queue.attempt_store import Result
from app.delivery.queue.leases import Claim, cancel_pending
from app.delivery.queue.models import EmailSubscription, EmailSubscriptionStatus
from app.events.models import EventRecord
from app.outbound.attempt import Exchange
from app.outbound.mail import rendering
from app.outbound.mail.addresses import Remembered
from app.outbound.mail.link_tokens import unsubscribe_url
from app.outbound.mail.mime import build_message
from app.outbound.mail.smtp import ATTEMPT_SECONDS, Mailer

MOST_IN_FLIGHT = 6
"""Together with the digests and the other mails no more than the mailer's connections: no kind waits for another."""

MOST_TO_ONE = 2
"""Whoever's mail server hangs keeps others from no more places than this."""

log = structlog.get_logger(__name__)


class Postman:
    """Puts mails into envelopes: from whom, and with a Message-ID that stays the same through all attempts."""

    def __init__(self, mailer: Mailer, mail_from: str) -> None:
        self._mailer = mailer
        self._sender = mail_from
        self._envelope_from = parseaddr(mail_from)[1]
        self._domain = self._envelope_from.rpartition("@")[2]

    async def send(
        self, mail_id: str, recipient: str, content: bytes | str, unsubscribe: str | None = None
    ) -> Exchange:
        """`content` is the JSON of subject, text and html."""
        message = build_message(
            sender=self._sender,
            recipient=recipient,
            message_id=f"<{mail_id}@{self._domain}>",
            unsubscribe_url=unsubscribe,
            **orjson.loads(content),
        )
        return await self._mailer.send(message, self._envelope_from, recipient)


def event_of(row: Row[Any]) -> EventRecord:
    """The event of a picked delivery, which must still be there."""
    return EventRecord(
        account_id=row.account_id,
        sequence=row.event_sequence,
        id=row.event_id,
        type=row.event_type,
        occurred_at=row.occurred_at,
        subject_id=row.subject_id,
        customer_id=row.customer_id,
        data=parsed(row.data),
    )


@dataclass(frozen=True, slots=True)
class Target:
    """An active subscription as it was when the delivery was claimed."""

    id: str
    email: str
    subscription: EmailSubscription
    unsubscribe_url: str
    paused_seconds: float = 0.0
    ordered: bool = False
    rate_limit: int | None = None


class EventMails:
    """Carries events to mail addresses, one mail for each."""

    prefix = "ems"
    timeout = ATTEMPT_SECONDS
    most_in_flight = MOST_IN_FLIGHT
    most_each = MOST_TO_ONE
    keeps_bodies = True

    def __init__(self, keyring: Keyring, postman: Postman, public_url: str) -> None:
        self._keyring = keyring
        self._postman = postman
        self._public_url = public_url

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> dict[str, Target]:
        """Those of the subscriptions that are active."""
        statement = select(EmailSubscription).where(
            col(EmailSubscription.id).in_(ids),
            col(EmailSubscription.status) == EmailSubscriptionStatus.ACTIVE.value,
        )
        return {one.id: self._target(one) for one in (await session.execute(statement)).scalars()}

    async def body(self, session: AsyncSession, row: Row[Any], target: Target) -> str | None:
        """The mail for a delivery's first attempt as JSON; None if its event is gone."""
        if row.occurred_at is None:
            return None
        mail = await rendering.event_mail(
            session,
            unsubscribe_url=target.unsubscribe_url,
            event=event_of(row),
            subscription=target.subscription,
        )
        return orjson.dumps(asdict(mail)).decode()

    async def bodies(self, rows: Sequence[Row[Any]], targets: Mapping[str, Target]) -> Mapping[str, str]:
        """None is put off."""
        return {}

    async def digest(
        self, session: AsyncSession, target: Target, events: Sequence[EventRecord]
    ) -> rendering.Mail:
        """One mail about several events."""
        return await rendering.digest_mail(
            session,
            unsubscribe_url=target.unsubscribe_url,
            events=events,
            subscription=target.subscription,
        )

    async def send_digest(self, digest_id: str, target: Target, content: bytes) -> Exchange:
        """One attempt for all its deliveries; `content` is the mail as JSON."""
        return await self._postman.send(digest_id, target.email, content, target.unsubscribe_url)

    async def send(self, claim: Claim) -> Exchange:
        """One attempt."""
        target: Target = claim.target
        return await self._postman.send(claim.id, target.email, claim.body, target.unsubscribe_url)

    def pause_after(self, result: Result) -> float | None:
        """Mail servers answer for one mail at a time."""
        return None

    async def affect(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """Suspend the subscriptions whose address does not exist; before their deliveries are written."""
        gone = {result.claim.destination_id: result for result in results if result.verdict.disable}
        for subscription_id, result in sorted(gone.items()):
            await self._suspend(session, subscription_id, result)

    async def leave(self, session: AsyncSession) -> None:
        """Any worker may send to a subscription at any time."""

    async def stamp(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """A subscription shows no time of its last mail."""

    def _target(self, subscription: EmailSubscription) -> Target:
        address = Remembered.of(self._keyring, subscription.account_id, subscription.email)
        url = unsubscribe_url(self._keyring, self._public_url, subscription.id, address)
        return Target(subscription.id, subscription.email, subscription, url)

    async def _suspend(self, session: AsyncSession, subscription_id: str, gone: Result) -> None:
        suspended = await _suspend(
            session,
            gone.verdict.reason,
            col(EmailSubscription.id) == subscription_id,
            col(EmailSubscription.status) == EmailSubscriptionStatus.ACTIVE.value,
        )
        if suspended:
            await cancel_pending(session, subscription_id)


async def suspend_unconfirmed(
    session: AsyncSession, account_id: str, email: str, written_at: datetime, reason: str | None
) -> None:
    """A mail to this address, written then, found no mailbox: it will not be confirmed, and shows why.

    Asked for again since then, it waits for what becomes of the newer mail.
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
    """Suspend those that meet all conditions; gives their ids."""
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
