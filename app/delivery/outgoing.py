"""Sends the mails that are not about an event: confirmations, codes, notices; encrypted until they are sent."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, func, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import points
from app.crypto import Keyring
from app.database import Database, UtcDateTime, database_now
from app.delivery.claims import COUNTED_DUE
from app.delivery.exchange import Exchange, impossible
from app.delivery.loops import Loop, insist
from app.delivery.mailing import Postman, suspend_unconfirmed
from app.delivery.models import OutgoingMail
from app.delivery.retry import Fate, Verdict, lease_seconds, verdict
from app.delivery.smtp import ATTEMPT_SECONDS
from app.sql import Sql

LOOK_EVERY = 1.0
MAILS_AT_ONCE = 6

_CLAIM = Sql(
    """
    UPDATE outgoing_mails SET leased_until = @later(:seconds), fence = fence + 1
    WHERE id IN (
        SELECT id FROM outgoing_mails
        WHERE due_at <= (SELECT @now) AND (leased_until IS NULL OR leased_until <= (SELECT @now))
        ORDER BY due_at, id LIMIT :most @skip_locked(outgoing_mails)
    )
    RETURNING id, account_id, recipient, content_encrypted, attempts_made, fence, created_at
""",
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
    """Sends what is queued, a few at a time. `run()` until `stop()`."""

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
        self._loop = Loop("outgoing mails", self._turn)
        self._sending: asyncio.Future[Any] | None = None
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
        await self._loop.run()

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what is in flight has so many seconds, then `run` ends."""
        self._loop.stop()
        if self._sending is not None:
            asyncio.get_running_loop().call_later(seconds, self._break_off, self._sending)

    def _break_off(self, sending: asyncio.Future[Any]) -> None:
        self._is_broken_off = True
        sending.cancel()

    async def _turn(self) -> float:
        wait = await self._wait()
        if wait > 0:
            return wait
        values = {"seconds": lease_seconds(ATTEMPT_SECONDS), "most": MAILS_AT_ONCE}
        async with self._database.transaction() as session:
            claimed = (await session.execute(_CLAIM.on(session), values)).all()
        points.reach("mail.claimed")
        until = time.monotonic() + values["seconds"]
        # Whatever comes of one, the others are waited for.
        self._sending = asyncio.gather(
            *(self._deliver(mail, until) for mail in claimed), return_exceptions=True
        )
        try:
            done = await self._sending
        except asyncio.CancelledError:
            if not self._is_broken_off:
                raise
            return 0.0
        finally:
            self._sending = None
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return 0.0

    async def _wait(self) -> float:
        """Seconds until the next mail is due; 0: one is."""
        now = database_now()
        first = select(func.min(col(OutgoingMail.due_at)), now).where(
            col(OutgoingMail.due_at).is_not(None),
            col(OutgoingMail.leased_until).is_(None) | (col(OutgoingMail.leased_until) <= now),
        )
        async with self._database.reading() as session:
            due_at, at = (await session.execute(first)).one()
        self.oldest_due_seconds = 0.0 if due_at is None else max((at - due_at).total_seconds(), 0.0)
        return LOOK_EVERY if due_at is None else _between(at, due_at)

    async def _deliver(self, mail: Row[Any], until: float) -> None:
        try:
            content = self._keyring.decrypt(mail.content_encrypted)
        except ValueError:
            # The key that it was locked with is missing from VOLTWIRE_SECRET_KEY; the lease puts it off.
            self._log.error("mail_unreadable", mail_id=mail.id)
            return
        self.in_flight += 1
        try:
            exchange = await self._postman.send(mail.id, mail.recipient, content)
        except asyncio.CancelledError:
            if self._is_broken_off:
                async with self._database.transaction() as session:
                    await _write(session, _RELEASE, {"id": mail.id, "fence": mail.fence})
            raise
        except Exception as error:
            self._log.error("attempt_failed", mail_id=mail.id, exc_info=error)
            exchange = impossible()
        finally:
            self.in_flight -= 1
        points.reach("mail.sent")
        if self.observe_seconds is not None:
            self.observe_seconds(exchange.duration_ms / 1000)
        judged = verdict(exchange, mail.attempts_made + 1, self._schedule)
        # What is not written down would be sent again.
        await insist(partial(self._record, mail, exchange, judged), until)
        points.reach("mail.recorded")

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
            if held and judged.disable:
                await suspend_unconfirmed(
                    session, mail.account_id, mail.recipient, mail.created_at, judged.reason
                )
        self.leases_lost += not held
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


def _between(now: datetime, due_at: datetime) -> float:
    return min(max((due_at - now).total_seconds(), 0.0), LOOK_EVERY)
