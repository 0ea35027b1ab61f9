"""Digests: the deliveries of a subscription's hour or day go out as one mail, and the attempt is recorded for each.

The deliveries of one mail stay together through all attempts: they carry the id of the first of them, which is in the
mail's Message-ID as well. The mail is written anew for each attempt, so that it never holds data redacted meanwhile.
Events that cannot be written are parted from the others, whose mail goes without them, and given up by the schedule.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import breaks_transaction, is_transient
from app.core.periodic import Loop, retry_until_written
from app.db.database import Database
from app.db.sql import Sql, rows
from app.db.types import UtcDateTime
from app.delivery.destinations.claimed_event import event_of
from app.delivery.destinations.email.provider import EmailProvider, EmailTarget
from app.delivery.queue import leases
from app.delivery.queue.attempt_log import log_attempt, log_lost_lease
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.cancellation import cancel_if_inactive
from app.delivery.queue.kinds import DestinationKind
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import Lane
from app.delivery.queue.recording import Recording
from app.outbound.attempt import Attempt
from app.outbound.lease_times import is_too_late, lease_seconds
from app.outbound.sender_stats import SenderStats

EVENTS_IN_ONE = 100
CHECK_EVERY = 5.0
MAILS_AT_ONCE = 4
PUT_OFF_SECONDS = 60.0
"""The pause of a subscription whose mail could not be claimed or recorded by a fault of ours."""

_WAITS = f"destination_id = :destination_id AND lane = {int(Lane.DIGEST)} AND due_at IS NOT NULL"
_IS_FREE = "due_at <= (SELECT @now) AND (leased_until IS NULL OR leased_until <= (SELECT @now))"
_FIRST = Sql(
    f"SELECT id, digest_id FROM deliveries WHERE {_WAITS} AND {_IS_FREE} ORDER BY due_at, id LIMIT 1"  # noqa: S608
)
# A digest that was tried keeps all of its deliveries, also those due or free a moment later than the first.
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
    """A mail to be sent. Without content it could not be written, and only that is recorded."""

    id: str
    content: bytes | None
    target: EmailTarget
    claims: Sequence[Claim]


class Digests:
    """Sends digests when they are due. `run()` until `stop()`."""

    def __init__(
        self,
        database: Database,
        kind: DestinationKind,
        provider: EmailProvider,
        schedule: Sequence[float],
        worker_id: str = "",
    ) -> None:
        self._database = database
        self._kind = kind
        self._provider = provider
        self._schedule = schedule
        self._log = log.bind(worker_id=worker_id)
        self._recording = Recording(database, provider, self._log)
        self._loop = Loop("digests", self._turn)
        self._sending: asyncio.Future[Any] | None = None
        self._is_stopping = self._is_broken_off = False
        # Subscriptions passed over after a fault of ours, by id, until a time on the monotonic clock.
        self._put_off: dict[str, float] = {}
        # Counts deliveries, not mails.
        self.stats = SenderStats()

    @property
    def failures(self) -> int:
        """Turns that ended in an error."""
        return self._loop.failures

    async def count_due(self, session: AsyncSession) -> None:
        self.stats.due = await leases.count_due(session, self._kind.prefix, [Lane.DIGEST])

    def mark_due(self, destination_ids: Collection[str], lane: int) -> None:
        """Do nothing: a new delivery of a digest is due only later, and is found then."""

    def check_soon(self) -> None:
        self._loop.bell.ring()

    async def run(self) -> None:
        await self._loop.run()

    def stop(self, seconds: float) -> None:
        """Claim nothing more; `run` ends when the mails in flight have ended, or after `seconds`."""
        self._is_stopping = True
        self._loop.stop()
        if self._sending is not None:
            asyncio.get_running_loop().call_later(seconds, self._break_off, self._sending)

    def _break_off(self, sending: asyncio.Future[Any]) -> None:
        self._is_broken_off = True
        sending.cancel()

    async def _turn(self) -> float:
        async with self._database.reading() as session:
            found = await leases.due_lanes(session, self._kind.prefix, [Lane.DIGEST])
        self.stats.oldest_due_seconds = max((-one.seconds for one in found if one.seconds < 0), default=0.0)
        now = time.monotonic()
        self._put_off = {key: until for key, until in self._put_off.items() if until > now}
        # The subscription that has waited longest comes first.
        due = deque(
            one.destination_id
            for one in sorted(found, key=lambda one: one.seconds)
            if one.seconds <= 0 and one.destination_id not in self._put_off
        )
        if not due:
            return min((one.seconds for one in found if one.seconds > 0), default=CHECK_EVERY)
        self._sending = asyncio.gather(
            *(self._work_off(due) for _ in range(MAILS_AT_ONCE)), return_exceptions=True
        )
        try:
            done = await self._sending
        except asyncio.CancelledError:
            if not self._is_broken_off:
                raise
            return CHECK_EVERY
        finally:
            self._sending = None
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return 0.0 if any(done) else CHECK_EVERY

    async def _work_off(self, due: deque[str]) -> int:
        """Send one mail after the other, each for the next subscription; returns how many were sent."""
        sent = 0
        while due and not self._is_stopping:
            subscription_id = due.popleft()
            try:
                sent += await self._next(subscription_id)
            except Exception as error:
                if is_transient(error):
                    raise
                # Unrecorded deliveries stay due; the other subscriptions go on.
                self._log.error("digest_failed", destination_id=subscription_id, exc_info=error)
                self._put_off[subscription_id] = time.monotonic() + PUT_OFF_SECONDS
        return sent

    async def _next(self, subscription_id: str) -> bool:
        """Send the subscription's next mail; False if there was none."""
        async with self._database.transaction() as session:
            digests = await self._claim(session, subscription_id)
        if digests:
            failpoints.reach("digest.claimed")
        for digest in digests:
            if digest.content is not None and is_too_late(
                digest.claims[0].expires_at, self._provider.timeout
            ):
                await retry_until_written("give a digest back", partial(self._give_back, digest))
                continue
            attempt = (
                Attempt.not_made() if digest.content is None else await self._send(digest, digest.content)
            )
            # An unrecorded mail would be sent again.
            await retry_until_written("record a digest", partial(self._record, digest, attempt))
            failpoints.reach("digest.recorded")
        return bool(digests)

    async def _give_back(self, digest: _Digest) -> None:
        async with self._database.transaction() as session:
            await leases.release(session, digest.claims)

    async def _send(self, digest: _Digest, content: bytes) -> Attempt:
        self.stats.in_flight += len(digest.claims)
        try:
            attempt = await self._provider.send_digest(digest.id, digest.target, content)
        except Exception as error:
            self._log.error("attempt_failed", digest_id=digest.id, exc_info=error)
            attempt = Attempt.not_made()
        finally:
            self.stats.in_flight -= len(digest.claims)
        failpoints.reach("digest.sent")
        self.stats.took(attempt.duration_ms / 1000)
        return attempt

    async def _claim(self, session: AsyncSession, subscription_id: str) -> list[_Digest]:
        # One worker at a time picks for a subscription, so that a digest is never split.
        table = self._kind.table
        mine = select(table.id).where(table.id == subscription_id)
        held = (await session.execute(mine.with_for_update())).first()
        target = (await self._provider.targets(session, [subscription_id])).get(subscription_id)
        if held is None or target is None:
            await cancel_if_inactive(session, self._kind, subscription_id)
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
            # The worker that sent this mail has died, and some of its leases last a moment longer.
            return []
        if gone := [row.id for row in picked if row.occurred_at is None]:
            await leases.cancel(session, gone)
        there = [row for row in picked if row.occurred_at is not None]
        if not there:
            return []
        failpoints.reach("digest.picked")
        return await self._parted(session, first.digest_id or there[0].id, target, there)

    async def _parted(
        self, session: AsyncSession, digest_id: str, target: EmailTarget, picked: Sequence[Row[Any]]
    ) -> list[_Digest]:
        """The picked deliveries as one digest; those that cannot be written, beside others, as one of their own."""
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
        self, session: AsyncSession, target: EmailTarget, picked: Sequence[Row[Any]]
    ) -> bytes | None:
        """The mail about these events as JSON; None if it cannot be written."""
        try:
            mail = await self._provider.digest(session, target, [event_of(row) for row in picked])
            return orjson.dumps(asdict(mail))
        except Exception as error:
            if breaks_transaction(error):
                # The database failed, not the wording: the next claim can write the mail.
                raise
            self._log.error(
                "digest_body_failed", destination_id=target.id, events=len(picked), exc_info=error
            )
            return None

    async def _bound(
        self,
        session: AsyncSession,
        digest_id: str,
        target: EmailTarget,
        picked: Sequence[Row[Any]],
        content: bytes | None,
    ) -> _Digest:
        """Lease these deliveries and bind them to one digest."""
        await session.execute(
            _BIND.on(session), {"digest_id": digest_id, "rows": rows({"id": row.id} for row in picked)}
        )
        ends_at = await leases.lease(
            session, {row.id: None for row in picked}, lease_seconds(self._provider.timeout)
        )
        made = [Claim.of(row, b"", target, ends_at) for row in picked]
        return _Digest(digest_id, content, target, made)

    async def _record(self, digest: _Digest, attempt: Attempt) -> None:
        # One mail, one verdict: its deliveries are due again together.
        number = max(one.attempt_in_schedule for one in digest.claims)
        verdict = self._provider.verdict(attempt, number, self._schedule)
        results = [AttemptResult(claim, attempt, verdict) for claim in digest.claims]
        # The database's answer to an earlier try may have been lost.
        recorded = await self._recording.write(results, again=True)
        self.stats.leases_lost += len(recorded.lost)
        self.stats.ended(attempt.outcome.value, verdict.fate.value, len(results))
        for result in results:
            key = result.claim.key
            log_attempt(self._log, result, digest_id=digest.id, recorded=key in recorded.done)
            if key in recorded.lost:
                log_lost_lease(self._log, result.claim)
