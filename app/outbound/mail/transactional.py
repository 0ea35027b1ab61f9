"""Sends transactional mails (confirmations, codes, notices), which are encrypted until they are sent."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.crypto import Keyring
from app.core.outages import error_name
from app.core.periodic import Loop, retry_until_written
from app.db.database import Database
from app.db.sql import Sql, rows
from app.db.types import UtcDateTime
from app.outbound.attempt import Attempt
from app.outbound.lease_times import COUNTED_DUE, lease_seconds
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.sender import MOST_TO_ONE, MailSender
from app.outbound.mail.smtp import ATTEMPT_SECONDS
from app.outbound.retry import Fate, Verdict, verdict
from app.outbound.sender_stats import SenderStats
from app.outbound.unreadable_secrets import UnreadableSecrets

POLL_EVERY = 1.0
MAILS_AT_ONCE = 6
MOST_OF_ACCOUNT = MAILS_AT_ONCE // 2
UNREADABLE = "The mail cannot be decrypted."

_IS_UNHELD = "(leased_until IS NULL OR leased_until <= (SELECT @now))"
# The rows are accounts and recipients at their limit of mails under way, and the mails under way.
_IS_FREE = f"""
    {_IS_UNHELD} AND NOT EXISTS (
        SELECT 1 FROM @rows(account_id text, recipient text, id text)
        WHERE given.account_id = outgoing_mails.account_id OR given.recipient = outgoing_mails.recipient
            OR given.id = outgoing_mails.id
    )
"""  # noqa: S608 - our own text
_NEXT = Sql(
    f"""
    SELECT (SELECT @now) AS now,
        (SELECT MIN(due_at) FROM outgoing_mails WHERE due_at IS NOT NULL AND {_IS_FREE}) AS due_at,
        (SELECT MIN(due_at) FROM outgoing_mails WHERE due_at IS NOT NULL AND {_IS_UNHELD}) AS oldest
    """,  # noqa: S608 - our own text
    {"now": UtcDateTime(), "due_at": UtcDateTime(), "oldest": UtcDateTime()},
)
_CLAIM = Sql(
    f"""
    UPDATE outgoing_mails SET leased_until = @later(:seconds), fence = fence + 1
    WHERE id IN (
        SELECT id FROM outgoing_mails
        WHERE due_at <= (SELECT @now) AND {_IS_FREE}
        ORDER BY due_at, id LIMIT 1 @skip_locked(outgoing_mails)
    )
    RETURNING id, account_id, recipient, content_encrypted, attempts_made, fence, created_at
    """,  # noqa: S608 - our own text
    {"created_at": UtcDateTime()},
)
# The content goes with the last attempt, as it may hold a token.
_RECORD = Sql("""
    UPDATE outgoing_mails SET attempts_made = :attempt, leased_until = NULL, error = :error,
        due_at = CASE WHEN :again = 1 THEN @later(:delay) ELSE NULL END,
        content_encrypted = CASE WHEN :again = 1 THEN content_encrypted ELSE NULL END
    WHERE id = :id AND fence = :fence
""")
_COUNT_DUE = Sql("""
    SELECT COUNT(*) FROM (
        SELECT 1 FROM outgoing_mails WHERE due_at <= (SELECT @now) LIMIT :most
    ) AS due
""")
_HELD = Sql("SELECT 1 FROM outgoing_mails WHERE id = :id AND fence = :fence")
_RELEASE = Sql("UPDATE outgoing_mails SET leased_until = NULL WHERE id = :id AND fence = :fence")

log = structlog.get_logger(__name__)

RecipientRefused = Callable[[AsyncSession, str, str, datetime, str | None], Awaitable[None]]
"""Called with account, address, the time when the mail was queued, and the reason."""


class TransactionalSender:
    """Sends queued mails, a few at a time and few of them to one recipient. `run()` until `stop()`.

    `recipient_refused` is called in the transaction that records the attempt, before anything else in it, when the mail
    server says that there is no such mailbox.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        mail_sender: MailSender,
        schedule: Sequence[float],
        recipient_refused: RecipientRefused,
        worker_id: str = "",
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._mail_sender = mail_sender
        self._schedule = schedule
        self._recipient_refused = recipient_refused
        self._log = log.bind(worker_id=worker_id)
        self._unreadable = UnreadableSecrets(self._log)
        self._loop = Loop("transactional mails", self._turn)
        self._sending: dict[asyncio.Task[None], Row[Any]] = {}
        self._grace = 0.0
        self._is_broken_off = False
        self.sent = 0
        self.stats = SenderStats()

    @property
    def failures(self) -> int:
        return self._loop.failures

    async def count_due(self, session: AsyncSession) -> None:
        self.stats.due = int(
            (await session.execute(_COUNT_DUE.on(session), {"most": COUNTED_DUE})).scalar_one()
        )

    def check_soon(self) -> None:
        """Look for due mails now."""
        self._loop.bell.ring()

    async def run(self) -> None:
        try:
            await self._loop.run()
            if self._sending:
                await asyncio.wait(self._sending, timeout=self._grace)
            self._is_broken_off = True
        finally:
            for sending in self._sending:
                sending.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    def stop(self, seconds: float) -> None:
        """Claim nothing more; `run` ends when the mails in flight have ended, or after `seconds`."""
        self._grace = seconds
        self._loop.stop()

    async def _turn(self) -> float:
        """Claim the next mail, if a place is free, and send it while the turns go on."""
        self._forget_ended()
        busy = rows(self._busy())
        wait = await self._wait(busy)
        if len(self._sending) >= MAILS_AT_ONCE:
            return POLL_EVERY
        if wait > 0:
            return wait
        values = {"seconds": lease_seconds(ATTEMPT_SECONDS), "rows": busy}
        async with self._database.transaction() as session:
            mail = (await session.execute(_CLAIM.on(session), values)).first()
        if mail is None:
            return 0.0
        failpoints.reach("mail.claimed")
        sending = asyncio.create_task(self._deliver(mail), name="transactional mail")
        self._sending[sending] = mail
        sending.add_done_callback(lambda _: self._loop.bell.ring())
        return 0.0

    def _forget_ended(self) -> None:
        """Free the places of mails that have ended; raises the first error that one of them ended in."""
        ended = [sending for sending in self._sending if sending.done()]
        for sending in ended:
            del self._sending[sending]
        errors = [error for sending in ended if (error := sending.exception()) is not None]
        if errors:
            raise errors[0]

    def _busy(self) -> list[dict[str, str]]:
        recipients = Counter(mail.recipient for mail in self._sending.values())
        accounts = Counter(mail.account_id for mail in self._sending.values())
        return [
            *({"recipient": one} for one, count in recipients.items() if count >= MOST_TO_ONE),
            *({"account_id": one} for one, count in accounts.items() if count >= MOST_OF_ACCOUNT),
            # Not claimed again before their attempt is recorded, even if their leases have run out.
            *({"id": mail.id} for mail in self._sending.values()),
        ]

    async def _wait(self, busy: str) -> float:
        """Seconds until the next mail that may be sent is due; 0 if one is due."""
        async with self._database.reading() as session:
            found = (await session.execute(_NEXT.on(session), {"rows": busy})).one()
        self.stats.oldest_due_seconds = _passed(found.oldest, found.now)
        return POLL_EVERY if found.due_at is None else _between(found.now, found.due_at)

    async def _deliver(self, mail: Row[Any]) -> None:
        self.stats.in_flight += 1
        try:
            attempt = await self._send(mail)
        except asyncio.CancelledError:
            if self._is_broken_off:
                await self._release(mail)
            raise
        except Exception as error:
            self._log.error("attempt_failed", mail_id=mail.id, exc_info=error)
            attempt = Attempt.not_made()
        finally:
            self.stats.in_flight -= 1
        failpoints.reach("mail.sent")
        self.stats.took(attempt.duration_ms / 1000)
        judged = verdict(attempt, mail.attempts_made + 1, self._schedule)
        # An unrecorded mail would be sent again.
        await self._record_or_tell(mail, attempt, judged)
        failpoints.reach("mail.recorded")

    async def _send(self, mail: Row[Any]) -> Attempt:
        try:
            content = self._keyring.decrypt(mail.content_encrypted)
        except ValueError:
            self._unreadable.tell(mail.account_id, "mail", account_id=mail.account_id, mail_id=mail.id)
            return Attempt.not_made(UNREADABLE)
        return await self._mail_sender.send(mail.id, mail.recipient, content)

    async def _release(self, mail: Row[Any]) -> None:
        async with self._database.transaction() as session:
            await _write(session, _RELEASE, {"id": mail.id, "fence": mail.fence})

    async def _record_or_tell(self, mail: Row[Any], attempt: Attempt, judged: Verdict) -> None:
        """Record the attempt; without the server's answer if the database refuses it with the answer."""
        for one in (attempt, attempt.without_answer()):
            try:
                return await retry_until_written("record a mail", partial(self._record, mail, one, judged))
            except Exception as error:
                kind = error_name(error)
        # The mail is due again when its lease runs out.
        self._log.error("mail_attempt_refused", mail_id=mail.id, error=kind)

    async def _record(self, mail: Row[Any], attempt: Attempt, judged: Verdict) -> None:
        again = judged.fate is Fate.FAILED
        values = {
            "id": mail.id,
            "fence": mail.fence,
            "attempt": mail.attempts_made + 1,
            "error": attempt.error,
            "again": int(again),
            "delay": judged.delay or 0.0,
        }
        async with self._database.transaction() as session:
            if judged.disable and await _is_held(session, mail):
                # Before the mail's own row is locked, since a deletion locks the subscription first and then its mails.
                await self._recipient_refused(
                    session, mail.account_id, mail.recipient, mail.created_at, judged.reason
                )
            held = await _write(session, _RECORD, values)
            # A mail that was deleted while it was under way belongs to no other worker.
            is_lease_lost = not held and await session.get(TransactionalMail, mail.id) is not None
        self.stats.leases_lost += is_lease_lost
        self.stats.ended(attempt.outcome.value, judged.fate.value)
        self.sent += judged.fate is Fate.SUCCEEDED
        self._log.info(
            "mail_attempt",
            account_id=mail.account_id,
            mail_id=mail.id,
            attempt=mail.attempts_made + 1,
            outcome=attempt.outcome.value,
            status=attempt.status,
            fate=judged.fate.value,
            duration_ms=attempt.duration_ms,
            recorded=held,
        )


async def _is_held(session: AsyncSession, mail: Row[Any]) -> bool:
    """Whether this worker holds the lease, read without a lock."""
    found = await session.execute(_HELD.on(session), {"id": mail.id, "fence": mail.fence})
    return found.first() is not None


async def _write(session: AsyncSession, statement: Sql, values: dict[str, Any]) -> bool:
    """Whether this worker still held the lease."""
    done = await session.execute(statement.on(session), values)
    return bool(done.rowcount)  # type: ignore[attr-defined]


def _passed(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else max((now - due_at).total_seconds(), 0.0)


def _between(now: datetime, due_at: datetime) -> float:
    return min(max((due_at - now).total_seconds(), 0.0), POLL_EVERY)
