"""Everything that the hub's parts share in one process: services, concurrency limits, counters, background tasks."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from app.core import clock
from app.core.outages import report
from app.events.doorbell import Doorbell
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.live.early_reads import EarlyReads
from app.live.eviction_queue import EvictionQueue

T = TypeVar("T")

LIVE_SLOTS: Final = 8
PAGE_SLOTS: Final = 2


@dataclass
class HubStats:
    """Counters since the process began."""

    events: int = 0
    executions: int = 0
    deliveries: int = 0
    catch_ups: int = 0
    pages: int = 0
    # Takes the seconds from an event's commit to its hand-over to the last of a viewer's subscriptions.
    observe_lag: Callable[[float], None] | None = None

    def record_lag(self, occurred_at: datetime) -> None:
        if self.observe_lag is not None:
            self.observe_lag(max(0.0, (clock.now() - occurred_at).total_seconds()))


class Runtime:
    """Belongs to the hub. The doorbell must be open before the first subscription."""

    def __init__(self, services: Services, engine: Engine, doorbell: Doorbell) -> None:
        self.services = services
        self.engine = engine
        self.doorbell = doorbell
        self.recent = EvictionQueue()
        self.early_reads = EarlyReads()
        services.database.read_early(self.early_reads.run, self.early_reads.prepare)
        self.stats = HubStats()
        self.live_slots = asyncio.Semaphore(LIVE_SLOTS)
        self.page_slots = asyncio.Semaphore(PAGE_SLOTS)
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that ends with the process at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def cancel_tasks(self) -> None:
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            report("a task of the hub failed", error, task=task.get_name())
