"""Claiming: takes what is due for a sender, in batches, as much as may be held, and has its bodies made.

What the sender still holds is never claimed again, however long ago its lease ran out; others may take it.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import failpoints
from app.core.outages import breaks_transaction, report
from app.core.periodic import Loop
from app.db.database import Database
from app.delivery.queue import leases
from app.delivery.queue.cancellation import cancel_left
from app.delivery.queue.leases import Claim, Wanted
from app.delivery.queue.models import Lane
from app.delivery.queue.provider import LATER, OF_EVENT, Carrier, Target
from app.delivery.queue.recorder import Recorder
from app.delivery.queue.scheduler import Channels
from app.outbound.lease_times import lease_seconds

CLAIMED_AT_ONCE = 400
MOST_HELD = 1250
LEAST_ROOM = 250
"""Nothing is claimed until so many more may be held: claims are batches, also over many destinations."""

LOOK_EVERY = 1.0
"""Seconds between two looks at what is due, which find what no one told this worker of."""

LOOK_AGAIN_AFTER = 0.05

TRUSTED_PAUSE = 2.0
"""How long a pause is kept without a look at whether it still holds: the endpoint may have moved meanwhile."""


class Claiming:
    """One sender's. `send` is called when something was queued, `impossible` with a claim that could not be written.

    `held` has the destinations of all deliveries that the sender holds, by the deliveries' ids, from the claim on.
    """

    def __init__(
        self,
        database: Database,
        carrier: Carrier,
        channels: Channels,
        records: Recorder,
        held: dict[str, str],
        log: Any,
        *,
        send: Callable[[], None],
        impossible: Callable[[Claim], object],
    ) -> None:
        self._database = database
        self._carrier = carrier
        self._lease = lease_seconds(carrier.timeout)
        self._channels = channels
        self._records = records
        self._held = held
        self._log = log
        self._send = send
        self._impossible = impossible
        self._loop = Loop(f"claim {carrier.prefix}", self._turn)
        # Claims that have no body yet, by the task that makes it.
        self._writing: dict[asyncio.Task[None], Sequence[Claim]] = {}
        self._failures = 0
        self._next_look = 0.0
        self.oldest_due_seconds = 0.0

    @property
    def failures(self) -> int:
        return self._loop.failures + self._failures

    def ring(self) -> None:
        """There may be something to claim, or room for it."""
        self._loop.bell.ring()

    def look_within(self, seconds: float) -> None:
        """Something may be due in so many seconds."""
        self._next_look = min(self._next_look, time.monotonic() + seconds)
        self.ring()

    async def run(self) -> None:
        """Until `stop()`, or cancelled."""
        await self._loop.run()

    def stop(self) -> None:
        """Claim nothing more."""
        self._loop.stop()

    def drop_unwritten(self) -> None:
        """Give back what has no body yet."""
        for writing, waiting in self._writing.items():
            # Not waited for here: a database that does not answer takes its time to break off as well.
            writing.cancel()
            self._records.give_back(waiting)

    async def end(self) -> None:
        """Break off what is being written."""
        writing = list(self._writing)
        for one in writing:
            one.cancel()
        await asyncio.gather(*writing, return_exceptions=True)

    async def _turn(self) -> float:
        if self._records.is_behind:
            # Results in hand are recorded first, which rings.
            return LOOK_EVERY
        if time.monotonic() >= self._next_look:
            await self._look()
        now = time.monotonic()
        room = MOST_HELD - self._channels.held - self._records.waiting
        # Accounts with nothing under way need not wait until there is room for a batch.
        wanted = self._channels.plan(min(room, CLAIMED_AT_ONCE), now, room=room, newcomers=room < LEAST_ROOM)
        if not wanted:
            goes_on = self._channels.next_pause_end(now)
            return max(min(self._next_look, goes_on or self._next_look) - now, 0.001)
        try:
            await self._claim(wanted)
        except BaseException:
            # Lanes that were planned count as done, so they must be found again.
            self._next_look = 0.0
            raise
        self._send()
        return 0.0

    async def _look(self) -> None:
        started = time.monotonic()
        async with self._database.reading() as session:
            found = await leases.due_lanes(session, self._carrier.prefix)
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
                await leases.cancel(session, gone)
            kept = {key: self._kept(body) for key, body in bodies.items()}
            ends_at = await leases.lease(session, kept, self._lease) if kept else 0.0
        failpoints.reach("send.claimed")
        taken = Counter((row.destination_id, row.lane) for row in picked)
        for one in open_lanes:
            # The next delivery in an order is known when this one has been recorded.
            if taken[one.destination_id, one.lane] >= one.count and not targets[one.destination_id].ordered:
                self._channels.mark_due(one.destination_id, one.lane)
        late: dict[str, list[Claim]] = defaultdict(list)
        by_id = {row.id: row for row in picked}
        for row in picked:
            body = b"" if row.id in unwritten else bodies.get(row.id)
            if body is None:
                continue
            claim = Claim.of(row, b"" if body == LATER else body, targets[row.destination_id], ends_at)
            self._held[claim.id] = claim.destination_id
            if body == LATER:
                self._channels.expect(claim)
                late[row.account_id].append(claim)
            else:
                self._queue(claim, is_written=row.id not in unwritten)
        # No account waits for what another asks to be written.
        for waiting in late.values():
            writing = asyncio.create_task(
                self._write(waiting, [by_id[one.id] for one in waiting], targets), name="write bodies"
            )
            self._writing[writing] = waiting
            writing.add_done_callback(self._writing.__delitem__)

    def _queue(self, claim: Claim, *, is_written: bool = True) -> None:
        """Queue a claim to be sent; one whose body could not be written counts as tried."""
        if not is_written:
            self._impossible(claim)
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
        """Cancel what waits for destinations that are disabled, unsubscribed or deleted, a part at a time."""
        for destination_id in sorted({one.destination_id for one in wanted} - targets.keys()):
            if await cancel_left(session, destination_id) >= leases.CANCELLED_AT_ONCE:
                self._channels.mark_due(destination_id, Lane.FRESH)

    async def _pick(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> list[Row[Any]]:
        """Deliveries that are due, free, and not held by this worker, whose own leases may have run out."""
        picked = await self._due(session, wanted, targets)
        if not any(row.id in self._held for row in picked):
            return picked
        # Deliveries that are held may be in front of those that are free.
        held = Counter(self._held.values())
        more = [replace(one, count=one.count + held[one.destination_id]) for one in wanted]
        most = {(one.destination_id, one.lane): one.count for one in wanted}
        taken: dict[tuple[str, int], list[Row[Any]]] = defaultdict(list)
        for row in await self._due(session, more, targets):
            if row.id not in self._held:
                taken[row.destination_id, row.lane].append(row)
        # In order one is taken, whichever lane it is from.
        return [row for lane, found in taken.items() for row in found[: most.get(lane, 1)]]

    async def _due(
        self, session: AsyncSession, wanted: Sequence[Wanted], targets: Mapping[str, Target]
    ) -> list[Row[Any]]:
        ordered = {one.destination_id for one in wanted if targets[one.destination_id].ordered}
        free = [one for one in wanted if one.destination_id not in ordered]
        picked = await leases.pick(session, free) if free else []
        return picked + await leases.pick_heads(session, ordered) if ordered else picked

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
            except Exception as error:
                if breaks_transaction(error):
                    raise
                # A fault of one body stops no other.
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
        """The part of a body to keep for the retries with the claim itself; None: nothing, or nothing more."""
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
                self._channels.expect(claim, -1)
        for claim in waiting:
            if claim.id not in made:
                self._queue(claim, is_written=False)
            elif claim.id in held:
                claim.body = made[claim.id].encode()
                self._queue(claim)
            else:
                del self._held[claim.id]
        self._send()
        self.ring()
