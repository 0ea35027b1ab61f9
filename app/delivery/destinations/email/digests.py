"""Digests: what waits for a subscription's hour or day becomes one mail, in which each delivery is recorded.

The deliveries of one mail keep together through all attempts: they carry the id of the first of them, which is the
mail's Message-ID as well. The mail is written anew for each attempt, so that it never says what was redacted meanwhile.
Events that cannot be written part from the others, whose mail goes without them, and are given up by the schedule.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import breaks_transaction, is_transient
from app.core.periodic import Loop, retry_until_written
from app.db.database import Database
from app.db.sql import Sql, rows
from app.db.types import UtcDateTime
from app.delivery.destinations.email.provider import EventMails, Target, event_of
from app.delivery.queue import leases
from app.delivery.queue.attempt_store import Result
from app.delivery.queue.cancellation import cancel_left
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import EmailSubscription, Lane
from app.delivery.queue.recording import Recording
from app.delivery.queue.retry import is_too_late, lease_seconds, verdict
from app.outbound.attempt import Exchange, impossible

EVENTS_IN_ONE = 100
LOOK_EVERY = 5.0
MAILS_AT_ONCE = 4
PUT_OFF_SECONDS = 60.0
"""When a subscription comes up again whose mail could not be claimed or recorded, by a fault of ours."""

_WAITS = "destination_id = :destination_id AND lane = 3 AND due_at IS NOT NULL"
_IS_FREE = "due_at <= (SELECT @now) AND (leased_until IS NULL OR leased_until <= (SELECT @now))"
_FIRST = Sql(
    f"SELECT id, digest_id FROM deliveries WHERE {_WAITS} AND {_IS_FREE} ORDER BY due_at, id LIMIT 1"  # noqa: S608
)
# A mail that was tried is the same mail, whoever of its deliveries is due, or free, a moment later than the first.
_PICK = Sql(
    f"""
    SELECT picked.id, picked.account_id, picked.event_id, picked.event_sequence, picked.event_type,
        picked.destination_id, picked.replay_id, picked.lane, picked.attempts_made, picked.schedule_start, picked.fence,
        COALESCE(picked.leased_until > (SELECT @now), FALSE) AS is_held,
        events.occurred_at, CAST(events.data AS TEXT) AS data, events.subject_id, events.customer_id
    FROM (
        SELECT * FROM deliveries WHERE {_WAITS}
        AND (digest_id = :digest_id OR (:digest_id = '' AND digest_id IS NULL AND {_IS_FREE}))
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
    """One mail that is to be sent. Without content it cannot be written, which is all that there is to record."""

    id: str
    content: bytes | None
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
        self._recording = Recording(database, carrier, self._log)
        self._loop = Loop("digests", self._turn)
        self._sending: asyncio.Future[Any] | None = None
        self._is_stopping = self._is_broken_off = False
        # Until when, on the monotonic clock, those are passed over that a fault of ours kept from being sent.
        self._put_off: dict[str, float] = {}
        self.observe_seconds: Callable[[float], None] | None = None
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.oldest_due_seconds = 0.0
        # As the sweep counted it last.
        self.due = 0
        # Each delivery of a mail counts, as its attempt does.
        self.in_flight = 0
        self.leases_lost = 0

    @property
    def failures(self) -> int:
        """Turns that ended in an error."""
        return self._loop.failures

    async def count_due(self, session: AsyncSession) -> None:
        """Count anew what is due."""
        self.due = await leases.count_due(session, self._carrier.prefix, [Lane.DIGEST])

    def look(self) -> None:
        """Something may be due: look now."""
        self._loop.bell.ring()

    async def run(self) -> None:
        await self._loop.run()

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what is in flight has so many seconds, then `run` ends, and its leases run out."""
        self._is_stopping = True
        self._loop.stop()
        if self._sending is not None:
            asyncio.get_running_loop().call_later(seconds, self._break_off, self._sending)

    def _break_off(self, sending: asyncio.Future[Any]) -> None:
        self._is_broken_off = True
        sending.cancel()

    async def _turn(self) -> float:
        async with self._database.reading() as session:
            found = await leases.due_lanes(session, self._carrier.prefix, [Lane.DIGEST])
        self.oldest_due_seconds = max((-one.seconds for one in found if one.seconds < 0), default=0.0)
        now = time.monotonic()
        self._put_off = {key: until for key, until in self._put_off.items() if until > now}
        # Who has waited longest is first.
        due = deque(
            one.destination_id
            for one in sorted(found, key=lambda one: one.seconds)
            if one.seconds <= 0 and one.destination_id not in self._put_off
        )
        if not due:
            return min((one.seconds for one in found if one.seconds > 0), default=LOOK_EVERY)
        self._sending = asyncio.gather(
            *(self._work_off(due) for _ in range(MAILS_AT_ONCE)), return_exceptions=True
        )
        try:
            done = await self._sending
        except asyncio.CancelledError:
            if not self._is_broken_off:
                raise
            return LOOK_EVERY
        finally:
            self._sending = None
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return 0.0 if any(done) else LOOK_EVERY

    async def _work_off(self, due: deque[str]) -> int:
        """One mail after the other, of whoever is next; gives how many were sent."""
        sent = 0
        while due and not self._is_stopping:
            subscription_id = due.popleft()
            try:
                sent += await self._next(subscription_id)
            except Exception as error:
                if is_transient(error):
                    raise
                # What was not recorded stays due, and holds up nobody else.
                self._log.error("digest_failed", destination_id=subscription_id, exc_info=error)
                self._put_off[subscription_id] = time.monotonic() + PUT_OFF_SECONDS
        return sent

    async def _next(self, subscription_id: str) -> bool:
        """Send the subscription's next mail; False if there was none to be sent after all."""
        async with self._database.transaction() as session:
            digests = await self._claim(session, subscription_id)
        if digests:
            failpoints.reach("digest.claimed")
        for digest in digests:
            if digest.content is not None and is_too_late(digest.claims[0].expires_at, self._carrier.timeout):
                await retry_until_written("give a digest back", partial(self._give_back, digest))
                continue
            exchange = impossible() if digest.content is None else await self._send(digest, digest.content)
            # What is not written down would be sent again.
            await retry_until_written("record a digest", partial(self._record, digest, exchange))
            failpoints.reach("digest.recorded")
        return bool(digests)

    async def _give_back(self, digest: _Digest) -> None:
        async with self._database.transaction() as session:
            await leases.release(session, digest.claims)

    async def _send(self, digest: _Digest, content: bytes) -> Exchange:
        self.in_flight += len(digest.claims)
        try:
            exchange = await self._carrier.send_digest(digest.id, digest.target, content)
        except Exception as error:
            self._log.error("attempt_failed", digest_id=digest.id, exc_info=error)
            exchange = impossible()
        finally:
            self.in_flight -= len(digest.claims)
        failpoints.reach("digest.sent")
        if self.observe_seconds is not None:
            self.observe_seconds(exchange.duration_ms / 1000)
        return exchange

    async def _claim(self, session: AsyncSession, subscription_id: str) -> list[_Digest]:
        # One worker at a time picks for a subscription, so that none gets half a mail.
        mine = select(col(EmailSubscription.id)).where(col(EmailSubscription.id) == subscription_id)
        held = (await session.execute(mine.with_for_update())).first()
        target = (await self._carrier.targets(session, [subscription_id])).get(subscription_id)
        if held is None or target is None:
            await cancel_left(session, subscription_id)
            return []
        first = (await session.execute(_FIRST.on(session), {"destination_id": subscription_id})).first()
        if first is None:
            return []
        values = {
            "destination_id": subscription_id,
            "digest_id": first.digest_id or "",
            "most": EVENTS_IN_ONE,
        }
        picked = (await session.execute(_PICK.on(session), values)).all()
        if any(row.is_held for row in picked):
            # A part of a mail whose sender has died: the rest is free in a moment.
            return []
        if gone := [row.id for row in picked if row.occurred_at is None]:
            await leases.cancel(session, gone)
        there = [row for row in picked if row.occurred_at is not None]
        if not there:
            return []
        failpoints.reach("digest.picked")
        return await self._parted(session, first.digest_id or there[0].id, target, there)

    async def _parted(
        self, session: AsyncSession, digest_id: str, target: Target, picked: Sequence[Row[Any]]
    ) -> list[_Digest]:
        """What was picked as one mail; what cannot be written, beside others that can be, as a digest of its own."""
        content = await self._written(session, target, picked)
        alone: set[str] = set()
        if content is None and len(picked) > 1:
            alone = {row.id for row in picked if await self._written(session, target, [row]) is None}
        apart = [row for row in picked if row.id in alone]
        rest = [row for row in picked if row.id not in alone]
        if not apart or not rest:
            return [await self._bound(session, digest_id, target, picked, content)]
        rest_id = rest[0].id if digest_id in alone else digest_id
        content = await self._written(session, target, rest)
        return [
            await self._bound(session, apart[0].id, target, apart, None),
            await self._bound(session, rest_id, target, rest, content),
        ]

    async def _written(
        self, session: AsyncSession, target: Target, picked: Sequence[Row[Any]]
    ) -> bytes | None:
        """The mail about these as JSON; None if it cannot be written."""
        try:
            mail = await self._carrier.digest(session, target, [event_of(row) for row in picked])
            return orjson.dumps(asdict(mail))
        except Exception as error:
            if breaks_transaction(error):
                # Nothing is wrong with the mail: whoever claims it next can write it.
                raise
            self._log.error(
                "digest_body_failed", destination_id=target.id, events=len(picked), exc_info=error
            )
            return None

    async def _bound(
        self,
        session: AsyncSession,
        digest_id: str,
        target: Target,
        picked: Sequence[Row[Any]],
        content: bytes | None,
    ) -> _Digest:
        """Leased, and together from now on."""
        await session.execute(
            _BIND.on(session), {"digest_id": digest_id, "rows": rows({"id": row.id} for row in picked)}
        )
        ends_at = await leases.lease(
            session, {row.id: None for row in picked}, lease_seconds(self._carrier.timeout)
        )
        made = [Claim.of(row, b"", target, ends_at) for row in picked]
        return _Digest(digest_id, content, target, made)

    async def _record(self, digest: _Digest, exchange: Exchange) -> None:
        # One mail, one verdict: its deliveries are due again together.
        judged = verdict(exchange, max(one.attempt_in_schedule for one in digest.claims), self._schedule)
        results = [Result(claim, exchange, judged) for claim in digest.claims]
        # An answer of the database may have been lost.
        recorded = await self._recording.write(results, again=True)
        self.leases_lost += len(recorded.lost)
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
                recorded=claim.key in recorded.done,
            )
