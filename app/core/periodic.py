"""The worker's loops: each runs its turns for ever, sleeps until it is rung, and outlives every error."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from app.core.outages import DATABASE, is_lost, kind_of, may_pass

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LONGEST_RECORD_PAUSE = 1.0
"""After an outage results are recorded before other workers, which wait longer, claim their deliveries anew."""

log = structlog.get_logger(__name__)


class Bell:
    """Wakes one sleeping loop; rung while it is awake, the next sleep ends at once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        """Until rung, but no longer than this."""
        await wait_briefly(self._rung, seconds)
        self._rung.clear()


async def insist(name: str, write: Callable[[], Awaitable[None]]) -> None:
    """Do it, again after a growing pause for as long as the database is away. Raises any other error."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await write()
        except Exception as error:
            if not may_pass(error):
                raise
            _tell(name, error, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_RECORD_PAUSE)


class Loop:
    """Calls `turn` again and again; what it returns is for how many seconds to sleep before the next.

    An error, such as a database that restarts, is logged, and the turn is tried again after a growing pause.
    """

    def __init__(
        self, name: str, turn: Callable[[], Awaitable[float]], longest_pause: float = LONGEST_PAUSE
    ) -> None:
        self.bell = Bell()
        self.failures = 0
        self._name = name
        self._turn = turn
        self._longest_pause = longest_pause
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End after the current turn."""
        self._stopping.set()
        self.bell.ring()

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                wait = await self._turn()
            except Exception as error:
                self.failures += 1
                _tell(self._name, error, pause)
                # A ring does not cut this short: whatever is broken is not asked more often for being busy.
                await wait_briefly(self._stopping, pause)
                pause = min(pause * 2, self._longest_pause)
                continue
            pause = FIRST_PAUSE
            if wait > 0 and not self._stopping.is_set():
                await self.bell.sleep(wait)
            else:
                # Even a loop that never has to wait lets the others run.
                await asyncio.sleep(0)


def _tell(name: str, error: Exception, pause: float) -> None:
    if is_lost(error):
        DATABASE.note(error, f"worker_loop_failed {name}")
    elif may_pass(error):
        log.warning("worker_loop_failed", loop=name, error=kind_of(error), pause=pause)
    else:
        log.error("worker_loop_failed", loop=name, pause=pause, exc_info=error)


async def wait_briefly(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but no longer than this."""
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
