"""Sends the mails that are not about an event: confirmations, codes, notices; encrypted until they are sent."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
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
from app.delivery.destinations.email.provider import MOST_TO_ONE, Postman, suspend_unconfirmed
from app.delivery.queue.leases import COUNTED_DUE
from app.delivery.queue.models import OutgoingMail
from app.delivery.queue.retry import Fate, Verdict, lease_seconds, verdict
from app.outbound.attempt import Exchange, impossible
from app.outbound.mail.smtp import ATTEMPT_SECONDS
from app.outbound.unreadable_secrets import Unreadable

LOOK_EVERY = 1.0
MAILS_AT_ONCE = 6
MOST_OF_ACCOUNT = MAILS_AT_ONCE // 2
UNREADABLE = "The mail cannot be decrypted."

_IS_UNHELD = "(leased_until IS NULL OR leased_until <= (SELECT @now))"
# The rows are accounts and recipients that have as many mails under way as they may, and the mails under way.
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
_RELEASE = Sql("UPDATE outgoing_mails SET leased_until = NULL WHERE id = :id AND fence = :fence")

log = structlog.get_logger(__name__)


class OutgoingMails:
    """Sends what is queued, a few at a time and few of them to one recipient. `run()` until `stop()`."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        postman: Postman,
        schedule: Sequence[float],
        worker_id: str = "",
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._postman = postman
        self._schedule = schedule
        self._log = log.bind(worker_id=worker_id)
        self._unreadable = Unreadable(self._log)
        self._loop = Loop("outgoing mails", self._turn)
        self._sending: dict[asyncio.Task[None], Row[Any]] = {}
        self._grace = 0.0
        self._is_broken_off = False
        self.sent = 0
        self.observe_seconds: Callable[[float], None] | None = None
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.oldest_due_seconds = 0.0
        # As the sweep counted it last.
        self.due = 0
        self.in_flight = 0
        self.leases_lost = 0

    @property
    def failures(self) -> int:
        return self._loop.failures

    async def count_due(self, session: AsyncSession) -> None:
        """Count anew what is due."""
        self.due = int((await session.execute(_COUNT_DUE.on(session), {"most": COUNTED_DUE})).scalar_one())

    def look(self) -> None:
        """Something may be due: look now."""
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
        """Claim nothing more; what is in flight has so many seconds, then `run` ends."""
        self._grace = seconds
        self._loop.stop()

    async def _turn(self) -> float:
        """Claim the next mail, if a place is free, and send it while the turns go on."""
        self._forget_ended()
        busy = rows(self._busy())
        wait = await self._wait(busy)
        if len(self._sending) >= MAILS_AT_ONCE:
            return LOOK_EVERY
        if wait > 0:
            return wait
        values = {"seconds": lease_seconds(ATTEMPT_SECONDS), "rows": busy}
        async with self._database.transaction() as session:
            mail = (await session.execute(_CLAIM.on(session), values)).first()
        if mail is None:
            return 0.0
        failpoints.reach("mail.claimed")
        sending = asyncio.create_task(self._deliver(mail), name="outgoing mail")
        self._sending[sending] = mail
        sending.add_done_callback(lambda _: self._loop.bell.ring())
        return 0.0

    def _forget_ended(self) -> None:
        """Make their places free; raises what one of them ended in."""
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
            # However long ago their leases ran out: what came of these mails is not recorded yet.
            *({"id": mail.id} for mail in self._sending.values()),
        ]

    async def _wait(self, busy: str) -> float:
        """Seconds until the next mail is due that may be sent; 0: one is."""
        async with self._database.reading() as session:
            found = (await session.execute(_NEXT.on(session), {"rows": busy})).one()
        self.oldest_due_seconds = _passed(found.oldest, found.now)
        return LOOK_EVERY if found.due_at is None else _between(found.now, found.due_at)

    async def _deliver(self, mail: Row[Any]) -> None:
        self.in_flight += 1
        try:
            exchange = await self._send(mail)
        except asyncio.CancelledError:
            if self._is_broken_off:
                await self._release(mail)
            raise
        except Exception as error:
            self._log.error("attempt_failed", mail_id=mail.id, exc_info=error)
            exchange = impossible()
        finally:
            self.in_flight -= 1
        failpoints.reach("mail.sent")
        if self.observe_seconds is not None:
            self.observe_seconds(exchange.duration_ms / 1000)
        judged = verdict(exchange, mail.attempts_made + 1, self._schedule)
        # What is not written down would be sent again.
        await self._write_down(mail, exchange, judged)
        failpoints.reach("mail.recorded")

    async def _send(self, mail: Row[Any]) -> Exchange:
        try:
            content = self._keyring.decrypt(mail.content_encrypted)
        except ValueError:
            self._unreadable.tell(mail.account_id, "mail", account_id=mail.account_id, mail_id=mail.id)
            return impossible(UNREADABLE)
        return await self._postman.send(mail.id, mail.recipient, content)

    async def _release(self, mail: Row[Any]) -> None:
        async with self._database.transaction() as session:
            await _write(session, _RELEASE, {"id": mail.id, "fence": mail.fence})

    async def _write_down(self, mail: Row[Any], exchange: Exchange, judged: Verdict) -> None:
        """Record the attempt, without what was answered if that is what the database refuses."""
        for one in (exchange, exchange.without_answer()):
            try:
                return await retry_until_written("record a mail", partial(self._record, mail, one, judged))
            except Exception as error:
                kind = error_name(error)
        # The lease puts it off.
        self._log.error("mail_attempt_refused", mail_id=mail.id, error=kind)

    async def _record(self, mail: Row[Any], exchange: Exchange, judged: Verdict) -> None:
        again = judged.fate is Fate.FAILED
        values = {
            "id": mail.id,
            "fence": mail.fence,
            "attempt": mail.attempts_made + 1,
            "error": exchange.error,
            "again": int(again),
            "delay": judged.delay or 0.0,
        }
        async with self._database.transaction() as session:
            held = await _write(session, _RECORD, values)
            # A mail that was deleted while it was under way belongs to no other worker.
            is_lost = not held and await session.get(OutgoingMail, mail.id) is not None
            if held and judged.disable:
                await suspend_unconfirmed(
                    session, mail.account_id, mail.recipient, mail.created_at, judged.reason
                )
        self.leases_lost += is_lost
        self.outcomes[exchange.outcome.value] += 1
        self.fates[judged.fate.value] += 1
        self.sent += judged.fate is Fate.SUCCEEDED
        self._log.info(
            "mail_attempt",
            account_id=mail.account_id,
            mail_id=mail.id,
            attempt=mail.attempts_made + 1,
            outcome=exchange.outcome.value,
            status=exchange.status,
            fate=judged.fate.value,
            duration_ms=exchange.duration_ms,
            recorded=held,
        )


async def _write(session: AsyncSession, statement: Sql, values: dict[str, Any]) -> bool:
    """Whether it was still this worker's to write."""
    done = await session.execute(statement.on(session), values)
    return bool(done.rowcount)  # type: ignore[attr-defined]


def _passed(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else max((now - due_at).total_seconds(), 0.0)


def _between(now: datetime, due_at: datetime) -> float:
    return min(max((due_at - now).total_seconds(), 0.0), LOOK_EVERY)
