"""Digests: what waits for a subscription's hour or day becomes one mail, in which each delivery is recorded.

The deliveries of one mail keep together through all attempts: they carry the id of the first of them, which is the
mail's Message-ID as well. The mail is written anew for each attempt, so that it never says what was redacted meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import points
from app.database import Database, UtcDateTime
from app.delivery import claims, outcomes
from app.delivery.claims import Claim
from app.delivery.exchange import Exchange
from app.delivery.loops import Loop
from app.delivery.mailing import EventMails, Target, event_of
from app.delivery.models import EmailSubscription, Lane
from app.delivery.outcomes import Result
from app.delivery.retry import lease_seconds, verdict
from app.delivery.sql import Sql, rows
from app.delivery.sweep import cancel_left

EVENTS_IN_ONE = 100
LOOK_EVERY = 5.0
MAILS_AT_ONCE = 4

_WAITS = """
    destination_id = :destination_id AND lane = 3 AND due_at IS NOT NULL
    AND (leased_until IS NULL OR leased_until <= (SELECT @now))
"""
_FIRST = Sql(
    f"SELECT id, digest_id FROM deliveries WHERE {_WAITS} AND due_at <= (SELECT @now) ORDER BY due_at, id LIMIT 1"  # noqa: S608
)
# A mail that was tried is the same mail, whoever of its deliveries is due a moment later than the first.
_PICK = Sql(
    f"""
    SELECT picked.id, picked.account_id, picked.event_id, picked.event_sequence, picked.event_type,
        picked.destination_id, picked.replay_id, picked.lane, picked.attempts_made, picked.schedule_start, picked.fence,
        events.occurred_at, events.data, events.subject_id, events.customer_id
    FROM (
        SELECT * FROM deliveries WHERE {_WAITS}
        AND (digest_id = :digest_id OR (:digest_id = '' AND digest_id IS NULL AND due_at <= (SELECT @now)))
        ORDER BY id LIMIT :most @lock(deliveries)
    ) AS picked
    LEFT JOIN events ON events.account_id = picked.account_id AND events.sequence = picked.event_sequence
    ORDER BY picked.event_sequence
    """,  # noqa: S608 - our own text
    {"occurred_at": UtcDateTime()},
)
_BIND = Sql("""
    UPDATE deliveries SET digest_id = :digest_id FROM @rows(id text) WHERE deliveries.id = given.id
""")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Digest:
    """One mail that is to be sent."""

    id: str
    content: bytes
    target: Target
    claims: Sequence[Claim]


class Digests:
    """Sends digests when they are due. `run()` until `stop()`."""

    def __init__(
        self, database: Database, carrier: EventMails, schedule: Sequence[float], worker_id: str = ""
    ) -> None:
        self._database = database
        self._carrier = carrier
        self._schedule = schedule
        self._log = log.bind(worker_id=worker_id)
        self._loop = Loop("digests", self._turn)
        self._sending: asyncio.Future[Any] | None = None
        self._is_broken_off = False
        self.observe_seconds: Callable[[float], None] | None = None
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()

    @property
    def failures(self) -> int:
        """Turns that ended in an error."""
        return self._loop.failures

    def look(self) -> None:
        """Something may be due: look now."""
        self._loop.bell.ring()

    async def run(self) -> None:
        await self._loop.run()

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what is in flight has so many seconds, then `run` ends, and its leases run out."""
        self._loop.stop()
        if self._sending is not None:
            asyncio.get_running_loop().call_later(seconds, self._break_off, self._sending)

    def _break_off(self, sending: asyncio.Future[Any]) -> None:
        self._is_broken_off = True
        sending.cancel()

    async def _turn(self) -> float:
        async with self._database.reading() as session:
            found = await claims.due_lanes(session, self._carrier.prefix, [Lane.DIGEST])
        due = [one.destination_id for one in found if one.seconds <= 0][:MAILS_AT_ONCE]
        if not due:
            return min((one.seconds for one in found), default=LOOK_EVERY)
        self._sending = asyncio.gather(*map(self._next, due))
        try:
            sent = await self._sending
        except asyncio.CancelledError:
            if not self._is_broken_off:
                raise
            return LOOK_EVERY
        finally:
            self._sending = None
        return 0.0 if any(sent) else LOOK_EVERY

    async def _next(self, subscription_id: str) -> bool:
        """Send the subscription's next mail; False if there was none to be sent after all."""
        async with self._database.transaction() as session:
            digest = await self._claim(session, subscription_id)
        if digest is None:
            return False
        points.reach("digest.claimed")
        exchange = await self._carrier.send_digest(digest.id, digest.target, digest.content)
        await self._record(digest, exchange)
        points.reach("digest.recorded")
        return True

    async def _claim(self, session: AsyncSession, subscription_id: str) -> _Digest | None:
        # One worker at a time picks for a subscription, so that none gets half a mail.
        mine = select(col(EmailSubscription.id)).where(col(EmailSubscription.id) == subscription_id)
        held = (await session.execute(mine.with_for_update())).first()
        target = (await self._carrier.targets(session, [subscription_id])).get(subscription_id)
        if held is None or target is None:
            await cancel_left(session, subscription_id)
            return None
        first = (await session.execute(_FIRST.on(session), {"destination_id": subscription_id})).first()
        if first is None:
            return None
        values = {
            "destination_id": subscription_id,
            "digest_id": first.digest_id or "",
            "most": EVENTS_IN_ONE,
        }
        picked = (await session.execute(_PICK.on(session), values)).all()
        if gone := [row.id for row in picked if row.occurred_at is None]:
            await claims.cancel(session, gone)
        there = [row for row in picked if row.occurred_at is not None]
        if not there:
            return None
        return await self._digest(session, first.digest_id or there[0].id, target, there)

    async def _digest(
        self, session: AsyncSession, digest_id: str, target: Target, picked: Sequence[Row[Any]]
    ) -> _Digest:
        mail = await self._carrier.digest(session, target, [event_of(row) for row in picked])
        await session.execute(
            _BIND.on(session), {"digest_id": digest_id, "rows": rows({"id": row.id} for row in picked)}
        )
        ends_at = await claims.lease(
            session, {row.id: None for row in picked}, lease_seconds(self._carrier.timeout)
        )
        return _Digest(
            digest_id,
            orjson.dumps(asdict(mail)),
            target,
            [Claim.of(row, b"", target, ends_at) for row in picked],
        )

    async def _record(self, digest: _Digest, exchange: Exchange) -> None:
        # One mail, one verdict: its deliveries are due again together.
        if self.observe_seconds is not None:
            self.observe_seconds(exchange.duration_ms / 1000)
        judged = verdict(exchange, max(one.attempt_in_schedule for one in digest.claims), self._schedule)
        results = [Result(claim, exchange, judged) for claim in digest.claims]
        async with self._database.transaction() as session:
            await self._carrier.affect(session, results)
            held = await outcomes.record(session, results)
        self.outcomes[exchange.outcome.value] += len(results)
        self.fates[judged.fate.value] += len(results)
        for claim in digest.claims:
            self._log.info(
                "delivery_attempt",
                account_id=claim.account_id,
                destination_id=claim.destination_id,
                event_id=claim.event_id,
                delivery_id=claim.id,
                digest_id=digest.id,
                attempt=claim.attempt,
                outcome=exchange.outcome.value,
                status=exchange.status,
                fate=judged.fate.value,
                duration_ms=exchange.duration_ms,
                recorded=claim.id in held,
            )
