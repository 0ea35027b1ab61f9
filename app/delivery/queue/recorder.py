"""The recorder writes down the results of attempts, and gives back unused claims, many at once."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from app.core import failpoints
from app.core.periodic import LONGEST_RECORD_PAUSE, Loop
from app.delivery.queue.attempt_log import log_lost_lease
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.leases import Claim, Key
from app.delivery.queue.models import Lane
from app.delivery.queue.recording import Recording
from app.delivery.queue.sender_parts import SenderParts

RECORDED_AT_ONCE = 400
GATHER_SECONDS = 0.04
"""How long results wait for others to be recorded with, while more are on their way."""

GATHERED_ENOUGH = 200
CHECK_EVERY = 1.0


class Recorder:
    """The recorder of one sender. `recorded_some` gets the seconds until something may be due because of a result."""

    def __init__(self, parts: SenderParts, recorded_some: Callable[[float], None]) -> None:
        self._recording = Recording(parts.database, parts.provider, parts.log)
        self._scheduler, self._held, self._stats = parts.scheduler, parts.held, parts.stats
        self._log = parts.log
        self._recorded_some = recorded_some
        self._loop = Loop(f"record {parts.kind.prefix}", self._turn, LONGEST_RECORD_PAUSE)
        self._results: list[AttemptResult] = []
        self._given_back: list[Claim] = []
        self._all_recorded = asyncio.Event()
        self.is_behind = False
        """Whether the last try to record failed: nothing is to be claimed before the next one succeeds."""
        self.recorded = 0

    @property
    def waiting(self) -> int:
        """Results that are not recorded yet."""
        return len(self._results)

    @property
    def failures(self) -> int:
        return self._loop.failures

    def add(self, result: AttemptResult) -> None:
        self._results.append(result)
        self._loop.bell.ring()

    def give_back(self, dropped: Sequence[Claim]) -> None:
        """Let anyone claim these at once."""
        if dropped:
            self._given_back.extend(dropped)
            self._loop.bell.ring()

    async def run(self) -> None:
        """Record until cancelled."""
        await self._loop.run()

    async def flush(self) -> None:
        """Return when nothing is left to record; `run` must be running."""
        while self._results or self._given_back:
            self._loop.bell.ring()
            self._all_recorded.clear()
            await self._all_recorded.wait()

    async def _turn(self) -> float:
        if not self._results and not self._given_back:
            return CHECK_EVERY
        if len(self._results) < GATHERED_ENOUGH and self._scheduler.held:
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
        if recorded.lost:
            self._count_lost(results, recorded.lost)
        self._mark_due(results, given_back)
        if not self._results and not self._given_back:
            self._all_recorded.set()
        delays = [one.verdict.delay for one in results if one.verdict.delay is not None]
        self._recorded_some(min(delays, default=CHECK_EVERY))

    def _count_lost(self, results: Sequence[AttemptResult], lost: Collection[Key]) -> None:
        for result in results:
            if result.claim.key in lost:
                self._stats.leases_lost += 1
                log_lost_lease(self._log, result.claim)

    def _mark_due(self, results: Sequence[AttemptResult], given_back: Sequence[Claim]) -> None:
        for claim in given_back:
            self._scheduler.mark_due(claim.destination_id, claim.lane)
        for result in results:
            if result.claim.ordered:
                # The next delivery in its order is known now.
                self._scheduler.mark_due(result.claim.destination_id, Lane.FRESH)
