"""The sender: what is claimed is sent concurrently, and its outcomes are recorded in batches.

Claiming, sending and recording run side by side with bounded room between them, and no session is open while anything
is on its way. What a delivery is carried by, webhooks or mail, is the carrier's business.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import report
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.attempt_store import Result
from app.delivery.queue.claimer import LOOK_AGAIN_AFTER, TRUSTED_PAUSE, Claiming
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import Lane
from app.delivery.queue.provider import Carrier
from app.delivery.queue.recorder import Recorder
from app.delivery.queue.scheduler import Channels
from app.outbound.attempt import Attempt
from app.outbound.lease_times import is_too_late
from app.outbound.retry import Fate, verdict

CLOSING_PAUSE = 1.0
"""What a destination that says it is gone is spared until that is recorded."""

log = structlog.get_logger(__name__)


class Sender:
    """Sends the deliveries of one carrier. `run()` until `stop()`; cancelled, it leaves all to the leases."""

    def __init__(
        self, database: Database, carrier: Carrier, schedule: Sequence[float], worker_id: str = ""
    ) -> None:
        self._database = database
        self._carrier = carrier
        self._schedule = schedule
        self._log = log.bind(worker_id=worker_id)
        self._channels = Channels(carrier.most_each, carrier.most_in_flight)
        # Destinations by delivery, from a delivery's claim until what came of it is recorded, or it was given back.
        held: dict[str, str] = {}
        self._records = Recorder(database, carrier, self._channels, held, self._log, self._may_be_due)
        self._claiming = Claiming(
            database,
            carrier,
            self._channels,
            self._records,
            held,
            self._log,
            send=self._send,
            impossible=lambda claim: self._told(claim, Attempt.not_made()),
        )
        self._sending: set[asyncio.Task[None]] = set()
        self._pace: asyncio.TimerHandle | None = None
        self._grace = 0.0
        self._is_stopping = False
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.observe_seconds: Callable[[float], None] | None = None
        # As the sweep counted it last.
        self.due = 0

    @property
    def in_flight(self) -> int:
        """Attempts under way."""
        return self._channels.in_flight

    @property
    def claimed(self) -> int:
        """Deliveries that this worker holds and has not tried yet."""
        return self._channels.queued

    @property
    def failures(self) -> int:
        """Turns that ended in an error, such as a database that was away."""
        return self._claiming.failures + self._records.failures

    @property
    def oldest_due_seconds(self) -> float:
        """How long the delivery has waited that was due first, as of the last look."""
        return self._claiming.oldest_due_seconds

    @property
    def recorded(self) -> int:
        """Attempts that were written down."""
        return self._records.recorded

    @property
    def leases_lost(self) -> int:
        """Attempts that were not, because someone else had taken over."""
        return self._records.leases_lost

    async def count_due(self, session: AsyncSession) -> None:
        """Count anew what is due."""
        self.due = await leases.count_due(session, self._carrier.prefix)

    def tell_due(self, destination_ids: Iterable[str], lane: int = Lane.FRESH) -> None:
        """There are deliveries now, so that they need not be looked for."""
        for destination_id in destination_ids:
            if destination_id.startswith(self._carrier.prefix):
                self._channels.mark_due(destination_id, lane)
        self._claiming.ring()

    def look(self) -> None:
        """Something may be due: look soon."""
        self._claiming.look_within(LOOK_AGAIN_AFTER)

    async def run(self) -> None:
        recording = asyncio.create_task(self._records.run(), name="record")
        try:
            await self._claiming.run()
            await self._wind_up()
        finally:
            recording.cancel()
            for one in self._sending:
                one.cancel()
            await asyncio.gather(recording, *self._sending, self._claiming.end(), return_exceptions=True)

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what is in flight has so many seconds, then `run` ends."""
        self._grace = seconds
        self._is_stopping = True
        self._claiming.stop()

    def _send(self) -> None:
        if self._is_stopping:
            return
        for claim in self._channels.next_sends(time.monotonic()):
            sending = asyncio.create_task(self._send_on(claim), name="attempts")
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        self._wake_for_pace()

    async def _send_on(self, claim: Claim | None) -> None:
        """One attempt after the other for as long as there is something to send: a task for each costs more."""
        while claim is not None:
            await self._attempt(claim)
            claim = None if self._is_stopping else self._channels.next_send(time.monotonic())
            self._send()

    def _wake_for_pace(self) -> None:
        """Send again when the first of the endpoints that have a rate may be sent to."""
        if self._pace is not None:
            self._pace.cancel()
        at = self._channels.next_in_pace()
        wait = None if at is None else max(at - time.monotonic(), 0.001)
        self._pace = None if wait is None else asyncio.get_running_loop().call_later(wait, self._send)

    async def _attempt(self, claim: Claim) -> None:
        failpoints.reach("send.before_request")
        started = time.monotonic()
        if is_too_late(claim.expires_at, self._carrier.timeout):
            # It has waited for so long, or this process stood still, that it might be on its way twice.
            self._channels.abandoned(claim)
            self._records.give_back([claim])
            return
        try:
            exchange = await self._carrier.send(claim)
        except asyncio.CancelledError:
            self._channels.abandoned(claim)
            self._records.give_back([claim])
            raise
        except Exception as error:
            self._log.error("attempt_failed", delivery_id=claim.id, exc_info=error)
            exchange = Attempt.not_made()
        failpoints.reach("send.response")
        self._finish(claim, exchange, time.monotonic() - started)
        if self._channels.has_room(claim.destination_id):
            self._claiming.ring()

    def _finish(self, claim: Claim, exchange: Attempt, seconds: float) -> None:
        result = self._told(claim, exchange)
        succeeded = result.verdict.fate is Fate.SUCCEEDED
        self._records.give_back(
            self._channels.finished(claim, succeeded, seconds, slow_down=result.verdict.slow_down)
        )
        if (pause := self._pause_after(result)) > 0:
            self._records.give_back(self._channels.pause(claim.destination_id, time.monotonic() + pause))
        if self.observe_seconds is not None:
            self.observe_seconds(seconds)

    def _told(self, claim: Claim, exchange: Attempt) -> Result:
        """What an attempt was, to be recorded, and what follows from it."""
        result = Result(claim, exchange, verdict(exchange, claim.attempt_in_schedule, self._schedule))
        self._records.add(result)
        self.outcomes[exchange.outcome.value] += 1
        self.fates[result.verdict.fate.value] += 1
        self._log.info(
            "delivery_attempt",
            account_id=claim.account_id,
            destination_id=claim.destination_id,
            event_id=claim.event_id,
            delivery_id=claim.id,
            attempt=claim.attempt,
            outcome=exchange.outcome.value,
            status=exchange.status,
            fate=result.verdict.fate.value,
            duration_ms=exchange.duration_ms,
        )
        return result

    def _pause_after(self, result: Result) -> float:
        """For how many seconds nothing more is sent to the destination: as it asks, or because it fails."""
        if result.verdict.disable:
            return CLOSING_PAUSE
        delay = result.verdict.delay
        if delay is None:
            delay = self._schedule[-1] if self._schedule else 0.0
        probe = self._channels[result.claim.destination_id].probe_pause(delay)
        asked = min(self._carrier.pause_after(result) or 0.0, TRUSTED_PAUSE)
        return max(asked, probe)

    def _may_be_due(self, within: float) -> None:
        """What was recorded made room, and may have made something due in so many seconds."""
        self._claiming.look_within(within)

    async def _wind_up(self) -> None:
        """Wait for what is in flight, write down what came of it, give back the rest."""
        self._claiming.drop_unwritten()
        self._records.give_back(self._channels.drop_all())
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=self._grace)
        for sending in list(self._sending):
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._records.flush()
        try:
            async with self._database.transaction() as session:
                await self._carrier.leave(session)
        except Exception as error:
            # A worker ends without its database as well: what it held falls to the others with its leases.
            report("worker_end_not_told", error)
