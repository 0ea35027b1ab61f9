"""The recorder: writes down what came of attempts, and gives back what was claimed in vain, many at once."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from app.core import failpoints
from app.core.periodic import LONGEST_RECORD_PAUSE, Loop
from app.db.database import Database
from app.delivery.queue.attempt_store import Result
from app.delivery.queue.leases import Claim, Key
from app.delivery.queue.models import Lane
from app.delivery.queue.provider import Carrier
from app.delivery.queue.recording import Recording
from app.delivery.queue.scheduler import Channels

RECORDED_AT_ONCE = 400
GATHER_SECONDS = 0.04
"""How long outcomes wait for others to be recorded with, while more are on their way."""

GATHERED_ENOUGH = 200
LOOK_EVERY = 1.0

_Recorded = Callable[[float], None]


class Recorder:
    """One sender's. `recorded_some` is told within how many seconds something may be due because of it.

    `held` has all deliveries that the sender holds, by id; those leave it whose outcome is recorded.
    """

    def __init__(
        self,
        database: Database,
        carrier: Carrier,
        channels: Channels,
        held: dict[str, str],
        log: Any,
        recorded_some: _Recorded,
    ) -> None:
        self._recording = Recording(database, carrier, log)
        self._channels = channels
        self._held = held
        self._log = log
        self._recorded_some = recorded_some
        self._loop = Loop(f"record {carrier.prefix}", self._turn, LONGEST_RECORD_PAUSE)
        self._results: list[Result] = []
        self._given_back: list[Claim] = []
        self._all_recorded = asyncio.Event()
        self.is_behind = False
        """Whether the last try to record failed: nothing is to be claimed before the next one succeeds."""
        self.recorded = 0
        self.leases_lost = 0

    @property
    def waiting(self) -> int:
        """Outcomes that are not recorded yet."""
        return len(self._results)

    @property
    def failures(self) -> int:
        return self._loop.failures

    def add(self, result: Result) -> None:
        self._results.append(result)
        self._loop.bell.ring()

    def give_back(self, dropped: Sequence[Claim]) -> None:
        """Anyone may claim these at once."""
        if dropped:
            self._given_back.extend(dropped)
            self._loop.bell.ring()

    async def run(self) -> None:
        """Until cancelled."""
        await self._loop.run()

    async def flush(self) -> None:
        """Return when nothing is left to record; `run` must be running."""
        while self._results or self._given_back:
            self._loop.bell.ring()
            self._all_recorded.clear()
            await self._all_recorded.wait()

    async def _turn(self) -> float:
        if not self._results and not self._given_back:
            return LOOK_EVERY
        if len(self._results) < GATHERED_ENOUGH and self._channels.held:
            await asyncio.sleep(GATHER_SECONDS)
        await self._record()
        return 0.0

    async def _record(self) -> None:
        results, given_back = self._results[:RECORDED_AT_ONCE], self._given_back[:]
        failpoints.reach("send.before_record")
        try:
            recorded = await self._recording.write(results, given_back, again=self.is_behind)
        except BaseException:
            self.is_behind = True
            raise
        self.is_behind = False
        failpoints.reach("send.recorded")
        del self._results[: len(results)], self._given_back[: len(given_back)]
        for claim in [*(one.claim for one in results), *given_back]:
            self._held.pop(claim.id, None)
        self.recorded += len(recorded.done)
        self._count_lost(results, recorded.lost)
        self._mark_due(results, given_back)
        if not self._results and not self._given_back:
            self._all_recorded.set()
        delays = [one.verdict.delay for one in results if one.verdict.delay is not None]
        self._recorded_some(min(delays, default=LOOK_EVERY))

    def _count_lost(self, results: Sequence[Result], lost: Collection[Key]) -> None:
        for result in results:
            if result.claim.key in lost:
                self.leases_lost += 1
                self._log.warning(
                    "delivery_lease_lost", delivery_id=result.claim.id, attempt=result.claim.attempt
                )

    def _mark_due(self, results: Sequence[Result], given_back: Sequence[Claim]) -> None:
        for claim in given_back:
            self._channels.mark_due(claim.destination_id, claim.lane)
        for result in results:
            if result.claim.ordered:
                # What comes next in its order is known now.
                self._channels.mark_due(result.claim.destination_id, Lane.FRESH)
