"""The sender sends claimed deliveries concurrently and has their results recorded in batches.

Claiming, sending and recording run side by side with bounded room between them, and no session is open while an attempt
is under way. How a delivery is sent is the provider's business.
"""

import asyncio
import time
from collections.abc import Collection, Sequence

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import report
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.attempt_log import log_attempt
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.claimer import CHECK_AGAIN_AFTER, TRUSTED_PAUSE, Claimer
from app.delivery.queue.kinds import DestinationKind
from app.delivery.queue.leases import Claim
from app.delivery.queue.provider import Provider
from app.delivery.queue.rate_holds import RateHolds
from app.delivery.queue.recorder import Recorder
from app.delivery.queue.scheduler import Scheduler
from app.delivery.queue.sender_parts import SenderParts
from app.outbound.attempt import Attempt
from app.outbound.lease_times import is_too_late
from app.outbound.retry import Fate
from app.outbound.sender_stats import SenderStats

CLOSING_PAUSE = 1.0
"""The pause for a destination that says it is gone, until that is recorded."""

log = structlog.get_logger(__name__)


class Sender:
    """Sends the deliveries of one kind. `run()` until `stop()`; cancelled, it leaves all to the leases."""

    def __init__(
        self,
        database: Database,
        kind: DestinationKind,
        provider: Provider,
        schedule: Sequence[float],
        worker_id: str = "",
    ) -> None:
        self._database = database
        self._kind = kind
        self._provider = provider
        self._schedule = schedule
        self._log = log.bind(worker_id=worker_id)
        self._scheduler = Scheduler(provider.most_each, provider.most_in_flight)
        self._holds = RateHolds(kind, worker_id, provider.timeout)
        parts = SenderParts(database, kind, provider, self._scheduler, self._log)
        self._stats = parts.stats
        self._recorder = Recorder(parts, lambda seconds: self._claimer.check_within(seconds))
        self._claimer = Claimer(
            parts,
            self._holds,
            self._recorder,
            send=self._send,
            fail=lambda claim: self._judge(claim, Attempt.not_made()),
        )
        self._sending: set[asyncio.Task[None]] = set()
        self._rate_timer: asyncio.TimerHandle | None = None
        self._grace = 0.0
        self._is_stopping = False

    @property
    def stats(self) -> SenderStats:
        self._stats.in_flight = self._scheduler.in_flight
        return self._stats

    @property
    def failures(self) -> int:
        """Turns that ended in an error, such as a database that was away."""
        return self._claimer.failures + self._recorder.failures

    @property
    def recorded(self) -> int:
        """Attempts that were written down."""
        return self._recorder.recorded

    async def count_due(self, session: AsyncSession) -> None:
        self._stats.due = await leases.count_due(session, self._kind.prefix)

    def mark_due(self, destination_ids: Collection[str], lane: int) -> None:
        for destination_id in destination_ids:
            if self._kind.owns(destination_id):
                self._scheduler.mark_due(destination_id, lane)
        self._claimer.ring()

    def check_soon(self) -> None:
        self._claimer.check_within(CHECK_AGAIN_AFTER)

    async def run(self) -> None:
        recording = asyncio.create_task(self._recorder.run(), name="record")
        try:
            await self._claimer.run()
            await self._wind_up()
        finally:
            recording.cancel()
            for one in self._sending:
                one.cancel()
            await asyncio.gather(recording, *self._sending, self._claimer.end(), return_exceptions=True)

    def stop(self, seconds: float) -> None:
        self._grace = seconds
        self._is_stopping = True
        self._claimer.stop()

    def _send(self) -> None:
        if self._is_stopping:
            return
        for claim in self._scheduler.next_sends(time.monotonic()):
            sending = asyncio.create_task(self._send_on(claim), name="attempts")
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        self._set_rate_timer()

    async def _send_on(self, claim: Claim | None) -> None:
        """Make one attempt after the other while there is something to send: a task for each costs more."""
        while claim is not None:
            await self._attempt(claim)
            claim = None if self._is_stopping else self._scheduler.next_send(time.monotonic())
            self._send()

    def _set_rate_timer(self) -> None:
        """Send again when the rate of a destination allows it."""
        if self._rate_timer is not None:
            self._rate_timer.cancel()
        at = self._scheduler.next_rate_slot()
        if at is None:
            self._rate_timer = None
            return
        wait = max(at - time.monotonic(), 0.001)
        self._rate_timer = asyncio.get_running_loop().call_later(wait, self._send)

    async def _attempt(self, claim: Claim) -> None:
        failpoints.reach("send.before_request")
        started = time.monotonic()
        if is_too_late(claim.expires_at, self._provider.timeout):
            # After a long wait, or because this process stood still, it might be on its way twice.
            self._scheduler.abandoned(claim)
            self._recorder.give_back([claim])
            return
        try:
            attempt = await self._provider.send(claim)
        except asyncio.CancelledError:
            self._scheduler.abandoned(claim)
            self._recorder.give_back([claim])
            raise
        except Exception as error:
            self._log.error("attempt_failed", delivery_id=claim.id, exc_info=error)
            attempt = Attempt.not_made()
        failpoints.reach("send.response")
        self._finish(claim, attempt, time.monotonic() - started)
        if self._scheduler.has_room(claim.destination_id):
            self._claimer.ring()

    def _finish(self, claim: Claim, attempt: Attempt, seconds: float) -> None:
        result = self._judge(claim, attempt)
        succeeded = result.verdict.fate is Fate.SUCCEEDED
        self._recorder.give_back(
            self._scheduler.finished(claim, succeeded, seconds, slow_down=result.verdict.slow_down)
        )
        if (pause := self._pause_after(result)) > 0:
            self._recorder.give_back(self._scheduler.pause(claim.destination_id, time.monotonic() + pause))
        self._stats.took(seconds)

    def _judge(self, claim: Claim, attempt: Attempt) -> AttemptResult:
        """The attempt with its verdict, counted, logged and on its way to be recorded."""
        verdict = self._provider.verdict(attempt, claim.attempt_in_schedule, self._schedule)
        result = AttemptResult(claim, attempt, verdict)
        self._recorder.add(result)
        self._stats.ended(attempt.outcome.value, verdict.fate.value)
        log_attempt(self._log, result)
        return result

    def _pause_after(self, result: AttemptResult) -> float:
        """The seconds without further requests to the destination: as it asks, or because it fails."""
        if result.verdict.disable:
            return CLOSING_PAUSE
        delay = result.verdict.delay
        if delay is None:
            delay = self._schedule[-1] if self._schedule else 0.0
        probe = self._scheduler[result.claim.destination_id].probe_pause(delay)
        asked = min(self._provider.pause_after(result) or 0.0, TRUSTED_PAUSE)
        return max(asked, probe)

    async def _wind_up(self) -> None:
        """Wait for attempts in flight, record their results, give back the rest."""
        self._claimer.drop_unwritten()
        self._recorder.give_back(self._scheduler.drop_all())
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=self._grace)
        for sending in list(self._sending):
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._recorder.flush()
        try:
            async with self._database.transaction() as session:
                await self._holds.release(session)
        except Exception as error:
            # A worker ends without its database as well: what it held falls to the others with its leases.
            report("worker_end_not_told", error)
