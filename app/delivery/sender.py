"""The sender: claims deliveries in batches, sends them concurrently, records the outcomes in batches.

The three run side by side with bounded room between them, and no session is open while anything is on its way. The
outcomes are the recorder's business, and what a delivery is carried by, webhooks or mail, is the carrier's.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from app import points
from app.database import Database
from app.delivery import claims
from app.delivery.carrier import LATER, OF_EVENT, Carrier, Target
from app.delivery.channels import Channels
from app.delivery.claims import Claim, Wanted
from app.delivery.exchange import Exchange, impossible
from app.delivery.loops import Loop
from app.delivery.models import Lane
from app.delivery.outcomes import Result
from app.delivery.recorder import Recorder
from app.delivery.retry import RECORDING_SECONDS, Fate, lease_seconds, verdict
from app.delivery.sweep import cancel_left

CLAIMED_AT_ONCE = 400
MOST_HELD = 1250
LEAST_ROOM = 250
"""Nothing is claimed until so many more may be held: claims are batches, also over many destinations."""

LOOK_EVERY = 1.0
"""Seconds between two looks at what is due, which find what no one told this worker of."""

LOOK_AGAIN_AFTER = 0.05
CLOSING_PAUSE = 1.0
"""What a destination that says it is gone is spared until that is recorded."""

TRUSTED_PAUSE = 2.0
"""How long a pause is kept without a look at whether it still holds: the endpoint may have moved meanwhile."""

log = structlog.get_logger(__name__)


class Sender:
    """Sends the deliveries of one carrier. `run()` until `stop()`; cancelled, it leaves all to the leases."""

    def __init__(
        self, database: Database, carrier: Carrier, schedule: Sequence[float], worker_id: str = ""
    ) -> None:
        self._database = database
        self._carrier = carrier
        self._schedule = schedule
        self._lease = lease_seconds(carrier.timeout)
        self._log = log.bind(worker_id=worker_id)
        self._channels = Channels(carrier.most_each, carrier.most_in_flight)
        self._claiming = Loop(f"claim {carrier.prefix}", self._claim_turn)
        self._records = Recorder(database, carrier, self._channels, self._log, self._may_be_due)
        self._sending: set[asyncio.Task[None]] = set()
        # What is claimed and has no body yet, by the task that makes it.
        self._writing: dict[asyncio.Task[None], Sequence[Claim]] = {}
        self._failures = 0
        self._pace: asyncio.TimerHandle | None = None
        self._next_look = 0.0
        self._grace = 0.0
        self._is_stopping = False
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.observe_seconds: Callable[[float], None] | None = None
        self.oldest_due_seconds = 0.0
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
        return self._claiming.failures + self._records.failures + self._failures

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
        self.due = await claims.count_due(session, self._carrier.prefix)

    def tell_due(self, destination_ids: Iterable[str], lane: int = Lane.FRESH) -> None:
        """There are deliveries now, so that they need not be looked for."""
        for destination_id in destination_ids:
            if destination_id.startswith(self._carrier.prefix):
                self._channels.mark_due(destination_id, lane)
        self._claiming.bell.ring()

    def look(self) -> None:
        """Something may be due: look soon."""
        self._next_look = min(self._next_look, time.monotonic() + LOOK_AGAIN_AFTER)
        self._claiming.bell.ring()

    async def run(self) -> None:
        recording = asyncio.create_task(self._records.run(), name="record")
        try:
            await self._claiming.run()
            await self._wind_up()
        finally:
            recording.cancel()
            under_way = [*self._sending, *self._writing]
            for one in under_way:
                one.cancel()
            await asyncio.gather(recording, *under_way, return_exceptions=True)

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what is in flight has so many seconds, then `run` ends."""
        self._grace = seconds
        self._is_stopping = True
        self._claiming.stop()

    # Claiming

    async def _claim_turn(self) -> float:
        if time.monotonic() >= self._next_look:
            await self._look()
        now = time.monotonic()
        room = MOST_HELD - self._channels.held - self._records.waiting
        # Who has nothing under way need not wait until there is room for a batch.
        wanted = self._channels.plan(min(room, CLAIMED_AT_ONCE), now, room=room, newcomers=room < LEAST_ROOM)
        if not wanted:
            goes_on = self._channels.next_pause_end(now)
            return max(min(self._next_look, goes_on or self._next_look) - now, 0.001)
        try:
            await self._claim(wanted)
        except BaseException:
            # What was planned counts as done, so it must be found again.
            self._next_look = 0.0
            raise
        self._send()
        return 0.0

    async def _look(self) -> None:
        started = time.monotonic()
        async with self._database.reading() as session:
            found = await claims.due_lanes(session, self._carrier.prefix)
        ended = time.monotonic()
        soonest = LOOK_EVERY
        self.oldest_due_seconds = 0.0
        for one in found:
            if one.seconds <= 0:
                self._channels.mark_due(one.destination_id, one.lane)
                self.oldest_due_seconds = max(self.oldest_due_seconds, -one.seconds)
            else:
                soonest = min(soonest, one.seconds)
        # However many destinations there are, looking takes a small part of the time.
        self._next_look = ended + max(soonest, LOOK_AGAIN_AFTER, 10 * (ended - started))
        self._channels.forget_idle()

    async def _claim(self, wanted: Sequence[Wanted]) -> None:
        async with self._database.transaction() as session:
            targets = await self._carrier.targets(session, {one.destination_id for one in wanted})
            await self._cancel_for_the_gone(session, wanted, targets)
            open_lanes = [one for one in wanted if not self._is_paused(one, targets)]
            picked = await self._pick(session, open_lanes, targets)
            bodies, gone, unwritten = await self._bodies(session, picked, targets)
            if gone:
                await claims.cancel(session, gone)
            kept = {key: self._kept(body) for key, body in bodies.items()}
            ends_at = await claims.lease(session, kept, self._lease) if kept else 0.0
        points.reach("send.claimed")
        taken = Counter((row.destination_id, row.lane) for row in picked)
        for one in open_lanes:
            # What comes next in an order is known when this has been recorded.
            if taken[one.destination_id, one.lane] >= one.count and not targets[one.destination_id].ordered:
                self._channels.mark_due(one.destination_id, one.lane)
        late: dict[str, list[Claim]] = defaultdict(list)
        by_id = {row.id: row for row in picked}
        for row in picked:
            body = b"" if row.id in unwritten else bodies.get(row.id)
            if body is None:
                continue
            claim = Claim.of(row, b"" if body == LATER else body, targets[row.destination_id], ends_at)
            if body == LATER:
                self._channels.expect(claim)
                late[row.account_id].append(claim)
            else:
                self._queue(claim, is_written=row.id not in unwritten)
        # Whatever one account asks to be written, the others do not wait for it.
        for waiting in late.values():
            writing = asyncio.create_task(
                self._write(waiting, [by_id[one.id] for one in waiting], targets), name="write bodies"
            )
            self._writing[writing] = waiting
            writing.add_done_callback(self._writing.__delitem__)

    def _queue(self, claim: Claim, *, is_written: bool = True) -> None:
        """What is claimed is to be sent; what could not be written has been tried."""
        if not is_written:
            self._told(claim, impossible())
            return
        self._channels[claim.destination_id].rate = claim.target.rate_limit
        if self._channels[claim.destination_id].is_paused(time.monotonic()):
            # It began while this was being claimed.
            self._records.give_back([claim])
        else:
            self._channels.add(claim)

    async def _cancel_for_the_gone(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> None:
        """What waits for a destination that is disabled, unsubscribed or deleted is cancelled, a part at a time."""
        for destination_id in sorted({one.destination_id for one in wanted} - targets.keys()):
            if await cancel_left(session, destination_id) >= claims.CANCELLED_AT_ONCE:
                self._channels.mark_due(destination_id, Lane.FRESH)

    async def _pick(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> list[Row[Any]]:
        ordered = {one.destination_id for one in wanted if targets[one.destination_id].ordered}
        free = [one for one in wanted if one.destination_id not in ordered]
        picked = await claims.pick(session, free) if free else []
        return picked + await claims.pick_heads(session, ordered) if ordered else picked

    def _is_paused(self, wanted: Wanted, targets: Mapping[str, Target]) -> bool:
        target = targets.get(wanted.destination_id)
        if target is None:
            return True
        if target.paused_seconds <= 0:
            return False
        paused = min(target.paused_seconds, TRUSTED_PAUSE)
        self._records.give_back(self._channels.pause(target.id, time.monotonic() + paused))
        self._channels.mark_due(target.id, wanted.lane)
        return True

    async def _bodies(
        self, session: AsyncSession, picked: Sequence[Row[Any]], targets: Mapping[str, Target]
    ) -> tuple[dict[str, bytes | str | None], list[str], set[str]]:
        """The bodies of all that is claimed (new ones as text), whose event is gone, and what could not be written."""
        bodies: dict[str, bytes | str | None] = {}
        gone, unwritten = [], set()
        for row in picked:
            if row.body:
                bodies[row.id] = row.body
                continue
            try:
                body = await self._carrier.body(session, row, targets[row.destination_id])
            except (SQLAlchemyError, OSError):
                raise
            except Exception as error:
                # Whatever is wrong with one stops nobody else.
                self._log.error("delivery_body_failed", delivery_id=row.id, exc_info=error)
                bodies[row.id] = None
                unwritten.add(row.id)
                continue
            if body is None:
                gone.append(row.id)
            else:
                bodies[row.id] = body
        return bodies, gone, unwritten

    def _kept(self, body: bytes | str | None) -> str | None:
        """What to keep of it for the retries with the claim itself; None: nothing, or nothing more."""
        if not isinstance(body, str) or body == LATER:
            return None
        return body if self._carrier.keeps_bodies else OF_EVENT

    async def _write(
        self, waiting: Sequence[Claim], picked: Sequence[Row[Any]], targets: Mapping[str, Target]
    ) -> None:
        """Make the bodies that were not made within the claim, keep them before anything is sent, and send."""
        try:
            made = await self._carrier.bodies(picked, targets)
            async with self._database.transaction() as session:
                held = await claims.keep(session, picked, made)
        except Exception as error:
            # The leases put it off.
            self._failures += 1
            self._log.error("delivery_bodies_failed", account_id=waiting[0].account_id, exc_info=error)
            return
        finally:
            for claim in waiting:
                self._channels.expect(claim, -1)
        for claim in waiting:
            if claim.id not in made:
                self._queue(claim, is_written=False)
            elif claim.id in held:
                claim.body = made[claim.id].encode()
                self._queue(claim)
        self._send()
        self._claiming.bell.ring()

    # Sending

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
        points.reach("send.before_request")
        started = time.monotonic()
        if claim.expires_at < started + self._carrier.timeout + RECORDING_SECONDS:
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
            exchange = impossible()
        points.reach("send.response")
        self._finish(claim, exchange, time.monotonic() - started)
        if self._channels.has_room(claim.destination_id):
            self._claiming.bell.ring()

    def _finish(self, claim: Claim, exchange: Exchange, seconds: float) -> None:
        result = self._told(claim, exchange)
        succeeded = result.verdict.fate is Fate.SUCCEEDED
        self._records.give_back(
            self._channels.finished(claim, succeeded, seconds, slow_down=result.verdict.slow_down)
        )
        if (pause := self._pause_after(result)) > 0:
            self._records.give_back(self._channels.pause(claim.destination_id, time.monotonic() + pause))
        if self.observe_seconds is not None:
            self.observe_seconds(seconds)

    def _told(self, claim: Claim, exchange: Exchange) -> Result:
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
        self._next_look = min(self._next_look, time.monotonic() + within)
        self._claiming.bell.ring()

    async def _wind_up(self) -> None:
        """Wait for what is in flight, write down what came of it, give back the rest."""
        for writing, waiting in self._writing.items():
            # Not waited for here: a database that does not answer takes its time to break off as well.
            writing.cancel()
            self._records.give_back(waiting)
        self._records.give_back(self._channels.drop_all())
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=self._grace)
        for sending in list(self._sending):
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._records.flush()
        async with self._database.transaction() as session:
            await self._carrier.leave(session)
