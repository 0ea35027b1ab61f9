"""The claimer takes due deliveries for a sender, in batches, as many as may be held, and has their bodies made.

A delivery that the sender still holds is not claimed again, even after its lease ran out; other workers may take it.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import breaks_transaction, report
from app.core.periodic import Loop
from app.delivery.queue import leases
from app.delivery.queue.cancellation import cancel_if_inactive
from app.delivery.queue.leases import Claim, PickedDelivery, Wanted
from app.delivery.queue.models import Lane
from app.delivery.queue.provider import LATER, OF_EVENT, Target
from app.delivery.queue.rate_holds import RateHolds
from app.delivery.queue.recorder import Recorder
from app.delivery.queue.sender_parts import SenderParts
from app.outbound.lease_times import lease_seconds

CLAIMED_AT_ONCE = 400
MOST_HELD = 1250
LEAST_ROOM = 250
"""Room for deliveries below which nothing is claimed: claims are batches, also over many destinations."""

CHECK_EVERY = 1.0
"""Seconds between two checks for due deliveries that this worker was not told of."""

CHECK_AGAIN_AFTER = 0.05

TRUSTED_PAUSE = 2.0
"""How long a pause is kept without checking that it still holds: another worker may have ended it."""

HELD_ELSEWHERE_PAUSE = 1.0
"""How soon to ask again for a destination that another worker holds."""


@dataclass(slots=True)
class _Bodies:
    """The bodies of picked deliveries by their ids, those made now as text."""

    made: dict[str, bytes | str] = field(default_factory=dict)
    # Deliveries whose event is gone, and deliveries whose body could not be made.
    without_event: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Deliveries that were leased together. `lanes` are those of the planned lanes that were not paused."""

    lanes: Sequence[Wanted]
    targets: Mapping[str, Target]
    picked: Sequence[PickedDelivery]
    bodies: _Bodies
    ends_at: float


class Claimer:
    """The claimer of one sender.

    `send` is called when something was queued, `fail` with a claim whose body could not be made.
    """

    def __init__(
        self,
        parts: SenderParts,
        holds: RateHolds,
        recorder: Recorder,
        *,
        send: Callable[[], None],
        fail: Callable[[Claim], object],
    ) -> None:
        self._database, self._kind, self._provider = parts.database, parts.kind, parts.provider
        self._scheduler, self._held, self._stats = parts.scheduler, parts.held, parts.stats
        self._log = parts.log
        self._holds = holds
        self._lease = lease_seconds(parts.provider.timeout)
        self._recorder = recorder
        self._send = send
        self._fail = fail
        self._loop = Loop(f"claim {parts.kind.prefix}", self._turn)
        # Claims that have no body yet, by the task that makes it.
        self._writing: dict[asyncio.Task[None], Sequence[Claim]] = {}
        self._failures = 0
        self._next_check = 0.0

    @property
    def failures(self) -> int:
        return self._loop.failures + self._failures

    def ring(self) -> None:
        """Take a turn: there may be something to claim, or room for it."""
        self._loop.bell.ring()

    def check_within(self, seconds: float) -> None:
        """Check the queue within `seconds`."""
        self._next_check = min(self._next_check, time.monotonic() + seconds)
        self.ring()

    async def run(self) -> None:
        """Claim until `stop()`, or until cancelled."""
        await self._loop.run()

    def stop(self) -> None:
        """Claim nothing more."""
        self._loop.stop()

    def drop_unwritten(self) -> None:
        """Give back the claims that have no body yet."""
        for writing, waiting in self._writing.items():
            # Not waited for here: a database that does not answer takes its time to break off as well.
            writing.cancel()
            self._recorder.give_back(waiting)

    async def end(self) -> None:
        """Break off the making of bodies."""
        writing = list(self._writing)
        for one in writing:
            one.cancel()
        await asyncio.gather(*writing, return_exceptions=True)

    async def _turn(self) -> float:
        if self._recorder.is_behind:
            # Results in hand are recorded first, which rings.
            return CHECK_EVERY
        if time.monotonic() >= self._next_check:
            await self._check()
        now = time.monotonic()
        wanted = self._plan(now)
        if not wanted:
            goes_on = self._scheduler.next_pause_end(now)
            return max(min(self._next_check, goes_on or self._next_check) - now, 0.001)
        try:
            batch = await self._claim(wanted)
            failpoints.reach("send.claimed")
            self._enqueue(batch)
        except BaseException:
            # Lanes that were planned count as done, so they must be found again.
            self._next_check = 0.0
            raise
        self._send()
        return 0.0

    async def _check(self) -> None:
        """Find the lanes with due deliveries."""
        started = time.monotonic()
        async with self._database.reading() as session:
            found = await leases.due_lanes(session, self._kind.prefix)
        ended = time.monotonic()
        soonest = CHECK_EVERY
        oldest = 0.0
        for one in found:
            if one.seconds <= 0:
                self._scheduler.mark_due(one.destination_id, one.lane)
                oldest = max(oldest, -one.seconds)
            else:
                soonest = min(soonest, one.seconds)
        self._stats.oldest_due_seconds = oldest
        # However many destinations there are, checks take a small part of the time.
        self._next_check = ended + max(soonest, CHECK_AGAIN_AFTER, 10 * (ended - started))
        self._scheduler.forget_idle()

    def _plan(self, now: float) -> list[Wanted]:
        room = MOST_HELD - self._scheduler.held - self._recorder.waiting
        # Accounts with nothing under way need not wait until there is room for a batch.
        return self._scheduler.plan(min(room, CLAIMED_AT_ONCE), now, room=room, newcomers=room < LEAST_ROOM)

    async def _claim(self, wanted: Sequence[Wanted]) -> _Batch:
        """Lease the free ones of the wanted deliveries, in one transaction."""
        async with self._database.transaction() as session:
            targets = await self._provider.targets(session, {one.destination_id for one in wanted})
            elsewhere = await self._held_elsewhere(session, targets)
            await self._cancel_inactive(session, wanted, targets)
            lanes = [one for one in wanted if not self._is_paused(one, targets, elsewhere)]
            picked = await self._pick(session, lanes, targets)
            bodies = await self._make_bodies(session, picked, targets)
            if bodies.without_event:
                await leases.cancel(session, bodies.without_event)
            kept: dict[str, str | None] = {key: self._to_keep(body) for key, body in bodies.made.items()}
            kept.update(dict.fromkeys(bodies.failed))
            ends_at = await leases.lease(session, kept, self._lease) if kept else 0.0
        return _Batch(lanes, targets, picked, bodies, ends_at)

    def _enqueue(self, batch: _Batch) -> None:
        """Queue the claims of a batch; those whose body takes long are queued once it is made."""
        taken = Counter((row.destination_id, row.lane) for row in batch.picked)
        for one in batch.lanes:
            # The next delivery in an order is known when this one has been recorded.
            is_full = taken[one.destination_id, one.lane] >= one.count
            if is_full and not batch.targets[one.destination_id].ordered:
                self._scheduler.mark_due(one.destination_id, one.lane)
        late: dict[str, list[tuple[Claim, PickedDelivery]]] = defaultdict(list)
        for row in batch.picked:
            has_failed = row.id in batch.bodies.failed
            body = LATER if has_failed else batch.bodies.made.get(row.id)
            if body is None:
                continue
            claim = Claim.of(row, body, batch.targets[row.destination_id], batch.ends_at)
            self._held[claim.id] = claim.destination_id
            if has_failed:
                self._fail(claim)
            elif body == LATER:
                self._scheduler.expect(claim)
                late[row.account_id].append((claim, row))
            else:
                self._queue(claim)
        # Bodies of one account keep no other account waiting.
        for some in late.values():
            self._begin_writing(some, batch.targets)

    def _begin_writing(
        self, late: Sequence[tuple[Claim, PickedDelivery]], targets: Mapping[str, Target]
    ) -> None:
        waiting = [claim for claim, _ in late]
        write = self._write(waiting, [row for _, row in late], targets)
        writing = asyncio.create_task(write, name="write bodies")
        writing.add_done_callback(self._writing.__delitem__)
        self._writing[writing] = waiting

    def _queue(self, claim: Claim) -> None:
        self._scheduler[claim.destination_id].rate = claim.target.rate_limit
        if self._scheduler[claim.destination_id].is_paused(time.monotonic()):
            # The pause began while this was being claimed.
            self._recorder.give_back([claim])
        else:
            self._scheduler.add(claim)

    async def _held_elsewhere(self, session: AsyncSession, targets: Mapping[str, Target]) -> set[str]:
        """The destinations with a rate that another worker sends to."""
        rated = [one.id for one in targets.values() if one.rate_limit is not None]
        return set(rated) - await self._holds.take(session, rated) if rated else set()

    async def _cancel_inactive(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> None:
        """Cancel a page of what waits for each destination that takes nothing any more."""
        for destination_id in sorted({one.destination_id for one in wanted} - targets.keys()):
            cancelled = await cancel_if_inactive(session, self._kind, destination_id)
            if cancelled >= leases.CANCELLED_AT_ONCE:
                self._scheduler.mark_due(destination_id, Lane.FRESH)

    async def _pick(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> list[PickedDelivery]:
        """Deliveries that are due, free, and not held by this worker, whose own leases may have run out."""
        picked = await self._pick_free(session, wanted, targets)
        if not any(row.id in self._held for row in picked):
            return picked
        # Deliveries that are held may be in front of those that are free.
        held = Counter(self._held.values())
        more = [replace(one, count=one.count + held[one.destination_id]) for one in wanted]
        most = {(one.destination_id, one.lane): one.count for one in wanted}
        taken: dict[tuple[str, int], list[PickedDelivery]] = defaultdict(list)
        for row in await self._pick_free(session, more, targets):
            if row.id not in self._held:
                taken[row.destination_id, row.lane].append(row)
        # In order one is taken, whichever lane it is from.
        return [row for lane, found in taken.items() for row in found[: most.get(lane, 1)]]

    async def _pick_free(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> list[PickedDelivery]:
        ordered = {one.destination_id for one in wanted if targets[one.destination_id].ordered}
        free = [one for one in wanted if one.destination_id not in ordered]
        picked = await leases.pick(session, free) if free else []
        return picked + await leases.pick_heads(session, ordered) if ordered else picked

    def _is_paused(self, wanted: Wanted, targets: Mapping[str, Target], elsewhere: set[str]) -> bool:
        target = targets.get(wanted.destination_id)
        if target is None:
            return True
        seconds = target.paused_seconds
        if target.id in elsewhere:
            seconds = max(seconds, HELD_ELSEWHERE_PAUSE)
        if seconds <= 0:
            return False
        pause_end = time.monotonic() + min(seconds, TRUSTED_PAUSE)
        self._recorder.give_back(self._scheduler.pause(target.id, pause_end))
        self._scheduler.mark_due(target.id, wanted.lane)
        return True

    async def _make_bodies(
        self, session: AsyncSession, picked: Sequence[PickedDelivery], targets: Mapping[str, Target]
    ) -> _Bodies:
        bodies = _Bodies()
        for row in picked:
            if row.body:
                bodies.made[row.id] = row.body
                continue
            try:
                body = await self._provider.body(session, row, targets[row.destination_id])
            except Exception as error:
                if breaks_transaction(error):
                    raise
                # A fault of one body stops no other.
                self._log.error("delivery_body_failed", delivery_id=row.id, exc_info=error)
                bodies.failed.add(row.id)
                continue
            if body is None:
                bodies.without_event.append(row.id)
            else:
                bodies.made[row.id] = body
        return bodies

    def _to_keep(self, body: bytes | str) -> str | None:
        """The part of a body to store for the retries with the claim itself; None: nothing, or nothing more."""
        if not isinstance(body, str) or body == LATER:
            return None
        return body if self._provider.keeps_bodies else OF_EVENT

    async def _write(
        self, waiting: Sequence[Claim], picked: Sequence[PickedDelivery], targets: Mapping[str, Target]
    ) -> None:
        """Make the bodies that were not made within the claim, keep them before anything is sent, and send."""
        try:
            made = await self._provider.bodies(picked, targets)
            async with self._database.transaction() as session:
                held = await leases.keep(session, picked, made)
        except Exception as error:
            # The leases put it off.
            for claim in waiting:
                self._held.pop(claim.id, None)
            self._failures += 1
            report("delivery_bodies_failed", error, account_id=waiting[0].account_id)
            return
        finally:
            for claim in waiting:
                self._scheduler.expect(claim, -1)
        for claim in waiting:
            if claim.id not in made:
                self._fail(claim)
            elif claim.id in held:
                claim.body = made[claim.id].encode()
                self._queue(claim)
            else:
                del self._held[claim.id]
        self._send()
        self.ring()
