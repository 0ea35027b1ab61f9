"""The sender: claims deliveries in batches, sends them concurrently, records the outcomes in batches.

The three run side by side with bounded room between them, and no session is open while anything is on its way. What a
delivery is carried by, webhooks or mail, is the carrier's business.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app import points
from app.database import Database
from app.delivery import claims, outcomes
from app.delivery.carrier import LATER, Carrier, Target
from app.delivery.channels import Channels
from app.delivery.claims import Claim, Wanted
from app.delivery.exchange import Exchange, impossible
from app.delivery.loops import Loop
from app.delivery.models import Lane
from app.delivery.outcomes import Result
from app.delivery.retry import RECORDING_SECONDS, Fate, lease_seconds, verdict
from app.delivery.sweep import cancel_left

CLAIMED_AT_ONCE = 200
RECORDED_AT_ONCE = 400
MOST_HELD = 1000
LOOK_EVERY = 1.0
"""Seconds between two looks at what is due, which find what no one told this worker of."""

LOOK_AGAIN_AFTER = 0.05
GATHER_SECONDS = 0.02
"""How long outcomes wait for others to be recorded with, while more are on their way."""

GATHERED_ENOUGH = 100
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
        self._lease = lease_seconds(carrier.timeout)
        self._log = log.bind(worker_id=worker_id)
        self._channels = Channels(carrier.most_each, carrier.most_in_flight)
        self._claiming = Loop(f"claim {carrier.prefix}", self._claim_turn)
        self._recording = Loop(f"record {carrier.prefix}", self._record_turn)
        self._attempts: dict[asyncio.Task[None], Claim] = {}
        self._results: list[Result] = []
        self._given_back: list[Claim] = []
        self._all_recorded = asyncio.Event()
        self._pace: asyncio.TimerHandle | None = None
        self._next_look = 0.0
        self._grace = 0.0
        self._is_stopping = False
        self.outcomes: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.observe_seconds: Callable[[float], None] | None = None
        self.leases_lost = 0
        self.recorded = 0
        self.oldest_due_seconds = 0.0
        # As the sweep counted it last.
        self.due = 0

    @property
    def prefix(self) -> str:
        """What the ids of its destinations begin with."""
        return self._carrier.prefix

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
        return self._claiming.failures + self._recording.failures

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
        recording = asyncio.create_task(self._recording.run(), name="record")
        try:
            await self._claiming.run()
            await self._wind_up()
        finally:
            recording.cancel()
            for attempt in self._attempts:
                attempt.cancel()
            await asyncio.gather(recording, *self._attempts, return_exceptions=True)

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
        room = MOST_HELD - self._channels.held - len(self._results)
        wanted = self._channels.plan(min(room, CLAIMED_AT_ONCE), now) if room > 0 else []
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
            bodies, gone = await self._bodies(session, picked, targets)
            if gone:
                await claims.cancel(session, gone)
            ends_at = await claims.lease(session, bodies, self._lease) if bodies else 0.0
        bodies.update(await self._late_bodies(picked, bodies, targets))
        points.reach("send.claimed")
        taken = Counter((row.destination_id, row.lane) for row in picked)
        for one in open_lanes:
            # What comes next in an order is known when this has been recorded.
            if taken[one.destination_id, one.lane] >= one.count and not targets[one.destination_id].ordered:
                self._channels.mark_due(one.destination_id, one.lane)
        now = time.monotonic()
        for row in picked:
            body = row.body if row.body is not None else bodies.get(row.id)
            if body is None:
                continue
            target = targets[row.destination_id]
            claim = Claim.of(row, body, target, ends_at)
            self._channels[target.id].rate = target.rate_limit
            if self._channels[row.destination_id].is_paused(now):
                # It began while this was being claimed.
                self._give_back([claim])
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
        self._give_back(self._channels.pause(target.id, time.monotonic() + target.paused_seconds))
        self._channels.mark_due(target.id, wanted.lane)
        return True

    async def _bodies(
        self, session: AsyncSession, picked: Sequence[Row[Any]], targets: Mapping[str, Target]
    ) -> tuple[dict[str, str | None], list[str]]:
        """The new bodies of all that can be sent, and those whose event is gone."""
        bodies: dict[str, str | None] = {}
        gone = []
        for row in picked:
            if row.body is not None:
                bodies[row.id] = None
                continue
            try:
                body = await self._carrier.body(session, row, targets[row.destination_id])
            except (LookupError, TypeError, ValueError) as error:
                # Held without a body, so that it comes up again only after the lease and stops nobody else.
                self._log.error("delivery_body_failed", delivery_id=row.id, exc_info=error)
                bodies[row.id] = None
                continue
            if body is None:
                gone.append(row.id)
            else:
                bodies[row.id] = body
        return bodies, gone

    async def _late_bodies(
        self,
        picked: Sequence[Row[Any]],
        bodies: Mapping[str, str | None],
        targets: Mapping[str, Target],
    ) -> dict[str, str | None]:
        """The bodies that could not be made within the claim, kept before anything is sent."""
        rows = [row for row in picked if bodies.get(row.id) == LATER]
        if not rows:
            return {}
        made = await self._carrier.bodies(rows, targets)
        async with self._database.transaction() as session:
            held = await claims.keep(session, rows, made)
        return {row.id: made[row.id] if row.id in held else None for row in rows}

    # Sending

    def _send(self) -> None:
        if self._is_stopping:
            return
        latest = time.monotonic() + self._carrier.timeout + RECORDING_SECONDS
        for claim in self._channels.next_sends(time.monotonic()):
            if claim.expires_at < latest:
                # It has waited here for so long that it might be on its way twice.
                self._channels.abandoned(claim)
                self._give_back([claim])
                continue
            attempt = asyncio.create_task(self._attempt(claim), name="attempt")
            self._attempts[attempt] = claim
            attempt.add_done_callback(self._attempts.pop)
        self._wake_for_pace()

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
        try:
            exchange = await self._carrier.send(claim)
        except asyncio.CancelledError:
            self._channels.abandoned(claim)
            self._given_back.append(claim)
            raise
        except Exception as error:
            self._log.error("attempt_failed", delivery_id=claim.id, exc_info=error)
            exchange = impossible()
        points.reach("send.response")
        self._finish(claim, exchange, time.monotonic() - started)
        self._send()
        if self._channels.has_room(claim.destination_id):
            self._claiming.bell.ring()

    def _finish(self, claim: Claim, exchange: Exchange, seconds: float) -> None:
        judged = verdict(exchange, claim.attempt_in_schedule, self._schedule)
        result = Result(claim, exchange, judged)
        succeeded = judged.fate is Fate.SUCCEEDED
        self._results.append(result)
        self._give_back(self._channels.finished(claim, succeeded, seconds, slow_down=judged.slow_down))
        if (pause := self._pause_after(result)) > 0:
            self._give_back(self._channels.pause(claim.destination_id, time.monotonic() + pause))
        self.outcomes[exchange.outcome.value] += 1
        self.fates[judged.fate.value] += 1
        if self.observe_seconds is not None:
            self.observe_seconds(seconds)
        self._recording.bell.ring()
        self._log.info(
            "delivery_attempt",
            account_id=claim.account_id,
            destination_id=claim.destination_id,
            event_id=claim.event_id,
            delivery_id=claim.id,
            attempt=claim.attempt,
            outcome=exchange.outcome.value,
            status=exchange.status,
            fate=judged.fate.value,
            duration_ms=exchange.duration_ms,
        )

    def _pause_after(self, result: Result) -> float:
        """For how many seconds nothing more is sent to the destination: as it asks, or because it fails."""
        if result.verdict.disable:
            return CLOSING_PAUSE
        delay = result.verdict.delay
        if delay is None:
            delay = self._schedule[-1] if self._schedule else 0.0
        probe = self._channels[result.claim.destination_id].probe_pause(delay)
        return max(self._carrier.pause_after(result) or 0.0, probe)

    def _give_back(self, dropped: Sequence[Claim]) -> None:
        if dropped:
            self._given_back.extend(dropped)
            self._recording.bell.ring()

    # Recording

    async def _record_turn(self) -> float:
        if not self._results and not self._given_back:
            return LOOK_EVERY
        if len(self._results) < GATHERED_ENOUGH and self._channels.held:
            await asyncio.sleep(GATHER_SECONDS)
        await self._record()
        return 0.0

    async def _record(self) -> None:
        results, given_back = self._results[:RECORDED_AT_ONCE], self._given_back[:]
        points.reach("send.before_record")
        async with self._database.transaction() as session:
            held: set[str] = set()
            if results:
                await self._carrier.affect(session, results)
                held = await outcomes.record(session, results)
                await self._carrier.stamp(session, results)
            if given_back:
                await claims.release(session, given_back)
        points.reach("send.recorded")
        del self._results[: len(results)], self._given_back[: len(given_back)]
        self.recorded += len(held)
        soonest = min(
            (one.verdict.delay for one in results if one.verdict.delay is not None), default=LOOK_EVERY
        )
        self._next_look = min(self._next_look, time.monotonic() + soonest)
        self._count_lost(results, held)
        for claim in given_back:
            self._channels.mark_due(claim.destination_id, claim.lane)
        for result in results:
            if result.claim.ordered:
                self._channels.mark_due(result.claim.destination_id, Lane.FRESH)
        if not self._results and not self._given_back:
            self._all_recorded.set()
        # Places that were taken by results are free for claims again.
        self._claiming.bell.ring()

    def _count_lost(self, results: Sequence[Result], held: Collection[str]) -> None:
        for result in results:
            if result.claim.id not in held:
                self.leases_lost += 1
                self._log.warning(
                    "delivery_lease_lost", delivery_id=result.claim.id, attempt=result.claim.attempt
                )

    async def _wind_up(self) -> None:
        """Wait for what is in flight, write down what came of it, give back the rest."""
        self._given_back.extend(self._channels.drop_all())
        if self._attempts:
            await asyncio.wait(list(self._attempts), timeout=self._grace)
        for attempt in list(self._attempts):
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        while self._results or self._given_back:
            self._recording.bell.ring()
            self._all_recorded.clear()
            await self._all_recorded.wait()
        async with self._database.transaction() as session:
            await self._carrier.leave(session)
