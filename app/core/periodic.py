"""The worker's loops: each repeats its turn, sleeps until its bell rings, and continues after every error."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from app.core.outages import DATABASE, error_name, is_database_away, is_transient

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LONGEST_RECORD_PAUSE = 1.0
"""Shorter than the pause of loops, so that after an outage results are recorded before deliveries are claimed anew."""

log = structlog.get_logger(__name__)


class Bell:
    """Wakes one sleeping loop; if it rings while the loop is awake, the next sleep ends at once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps until the bell rings, for `seconds` at most."""
        await wait_at_most(self._rung, seconds)
        self._rung.clear()


async def retry_until_written(name: str, write: Callable[[], Awaitable[None]]) -> None:
    """Writes, and retries after growing pauses while errors are transient. Raises any other error."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await write()
        except Exception as error:
            if not is_transient(error):
                raise
            _log_failure(name, error, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_RECORD_PAUSE)


class Loop:
    """Repeats `turn`, which returns the seconds to sleep before the next one.

    An error, such as a restart of the database, is logged, and the turn is retried after a growing pause.
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
        """Ends the loop after the current turn."""
        self._stopping.set()
        self.bell.ring()

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                wait = await self._turn()
            except Exception as error:
                self.failures += 1
                _log_failure(self._name, error, pause)
                # The bell does not cut this pause short: a broken database is not asked more often on a busy server.
                await wait_at_most(self._stopping, pause)
                pause = min(pause * 2, self._longest_pause)
                continue
            pause = FIRST_PAUSE
            if wait > 0 and not self._stopping.is_set():
                await self.bell.sleep(wait)
            else:
                # A loop that never waits must let other tasks run.
                await asyncio.sleep(0)


def _log_failure(name: str, error: Exception, pause: float) -> None:
    if is_database_away(error):
        DATABASE.note(error, f"worker_loop_failed {name}")
    elif is_transient(error):
        log.warning("worker_loop_failed", loop=name, error=error_name(error), pause=pause)
    else:
        log.error("worker_loop_failed", loop=name, pause=pause, exc_info=error)


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set, for `seconds` at most."""
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
