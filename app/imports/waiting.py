"""Waits for the ends of imports: all that wait for one import share its reads, in each process."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from app.auth.actor import Actor
from app.graphql.http.rates import TooManyRequests
from app.imports.enums import ImportStatus

ASK_EVERY: Final = 0.25
ASK_MORE_SLOWLY: Final = 1.0
MOST_WAITS: Final = 200
"""Requests of one account that wait at the same time, in each process."""
COME_BACK_IN: Final = 5.0

Report = dict[str, Any] | None
"""The fields of an import; None if it is not there."""


class _Wait:
    """The reads of one import, and how many wait for what they find."""

    def __init__(self, reading: asyncio.Task[Report]) -> None:
        self.reading = reading
        self.requests = 0


class ImportWaits:
    """`read` gives the report of an import that this actor sees."""

    def __init__(self, read: Callable[[Actor, str], Awaitable[Report]]) -> None:
        self._read = read
        self._waits: dict[tuple[str, str], _Wait] = {}
        self._requests: Counter[str] = Counter()

    async def until_ended(self, actor: Actor, import_id: str, seconds: float) -> Report:
        """The report of an import that this actor sees, when it has ended or after some seconds.

        Raises TooManyRequests if as many requests of the account wait as may.
        """
        if self._requests[actor.account_id] >= MOST_WAITS:
            raise TooManyRequests(COME_BACK_IN)
        key = actor.account_id, import_id
        wait = self._waits.get(key)
        if wait is None or wait.reading.done():
            wait = self._waits[key] = _Wait(asyncio.create_task(self._read_until_ended(actor, import_id)))
        self._requests[actor.account_id] += 1
        wait.requests += 1
        try:
            await asyncio.wait([wait.reading], timeout=seconds)
        finally:
            wait.requests -= 1
            self._requests[actor.account_id] -= 1
            if not self._requests[actor.account_id]:
                del self._requests[actor.account_id]
            if not wait.requests:
                wait.reading.cancel()
                if self._waits.get(key) is wait:
                    del self._waits[key]
        if wait.reading.done() and not wait.reading.cancelled():
            return wait.reading.result()
        return await self._read(actor, import_id)

    async def _read_until_ended(self, actor: Actor, import_id: str) -> Report:
        pause = ASK_EVERY
        while True:
            await asyncio.sleep(pause)
            report = await self._read(actor, import_id)
            if report is None or report["status"] != ImportStatus.RUNNING.name:
                return report
            pause = min(pause * 1.5, ASK_MORE_SLOWLY)
