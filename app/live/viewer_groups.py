"""The groups of one viewer in a process, and the events that wait for their execution.

Groups of one viewer share everything that is read for an event; viewers share nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from app.auth.actor import Actor
from app.core.outages import report
from app.events.log import Appended
from app.live import log_pages
from app.live.failed_events import EventFailed
from app.live.group import Group
from app.live.group_index import GroupIndex
from app.live.log_head import LogHead
from app.live.runtime import Runtime
from app.live.subscription_request import SubscriptionRequest

# Events that wait for their execution; beyond, the viewer's subscriptions go on through the log.
MAX_PENDING: Final = 256
EVENTS_AT_ONCE: Final = 16
# Seconds that an event waits at most for those that are about to follow it.
MAX_GATHERING: Final = 0.02


class ViewerGroups:
    """Made for the viewer's first subscription.

    `on_handed_out` is called after each hand-out of events, `on_left` for each subscription that ends.
    """

    def __init__(
        self,
        runtime: Runtime,
        head: LogHead,
        index: GroupIndex,
        actor: Actor,
        on_handed_out: Callable[[], None],
        on_left: Callable[["ViewerGroups"], None],
    ) -> None:
        self.runtime = runtime
        self.head = head
        self.actor = actor
        self.groups: dict[object, Group] = {}
        self._index = index
        self._on_handed_out = on_handed_out
        self._on_left = on_left
        self._pending: deque[tuple[Appended, list[Group]]] = deque()
        # Once events were left out: the sequence before the first of them.
        self._complete_through: int | None = None
        self._running = False
        self._added = asyncio.Event()
        # Seconds of the last hand-out, at most `MAX_GATHERING`.
        self._hand_out_time = 0.0

    @property
    def done(self) -> int:
        """The viewer's live subscriptions have been given everything through this sequence."""
        if self._pending:
            return self._pending[0][0].record.sequence - 1
        return self.head.sequence if self._complete_through is None else self._complete_through

    def group(self, request: SubscriptionRequest) -> Group:
        """The group of the subscriptions equal to this one."""
        group = self.groups.get(request.key)
        if group is None:
            group = self.groups[request.key] = Group(self, request)
            self._index.add(group)
        return group

    def left(self, group: Group) -> None:
        """A subscription of the group has ended."""
        if not group.members and self.groups.get(group.request.key) is group:
            del self.groups[group.request.key]
            self._index.remove(group)
        self._on_left(self)

    def add(self, event: Appended, groups: list[Group]) -> None:
        """Execute an event for the groups that take it."""
        listening = []
        for group in groups:
            if group.has_listeners:
                listening.append(group)
            else:
                group.forget_through(event.record.sequence)
        if not listening or self._complete_through is not None:
            return
        if len(self._pending) >= MAX_PENDING:
            self._complete_through = event.record.sequence - 1
            return
        self._pending.append((event, listening))
        self._added.set()
        if not self._running:
            self._running = True
            self.runtime.spawn(self._run(), "viewer groups")

    def skip(self, after: int) -> None:
        """The feed has left out events after this sequence."""
        if self._complete_through is None:
            self._complete_through = after
        if not self._running:
            self._fall_back()

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._execute_pending()
                if self._complete_through is not None:
                    self._fall_back()
        except Exception as fault:
            report("handing out events failed, the log is read instead", fault)
            self._fall_back()
        finally:
            self._running = False

    async def _execute_pending(self) -> None:
        """Execute the next events and hand them out together.

        A socket is written to once for all of them, and a write costs far more than its bytes. So while the account's
        next mutation is under way, its event is waited for, at most as long as the last hand-out took: it would have
        to wait as long for a hand-out of its own.
        """
        ready: dict[Group, None] = {}
        # The first failed event of each group that has one.
        failed: dict[Group, int] = {}
        count, latest = 0, time.monotonic() + MAX_GATHERING
        while count < EVENTS_AT_ONCE:
            if len(self._pending) == count and not await self._next_comes(latest):
                break
            some = list(islice(self._pending, count, EVENTS_AT_ONCE))
            ready |= dict.fromkeys(await self._execute(some, failed))
            count += len(some)
        began = time.monotonic()
        for group in ready:
            await group.deliver()
        through = self._pending[count - 1][0].record.sequence
        for group, sequence in failed.items():
            group.retry_from(sequence, through)
        self._hand_out_time = min(time.monotonic() - began, MAX_GATHERING)
        for _ in range(count):
            event, _ = self._pending.popleft()
            self.runtime.stats.record_lag(event.record.occurred_at)
        self._on_handed_out()

    async def _next_comes(self, latest: float) -> bool:
        """Whether another event comes by then; at once False where none is expected."""
        services = self.runtime.services
        until = min(time.monotonic() + self._hand_out_time, latest)
        while services.writing.is_expected(self.head.account_id) and time.monotonic() < until:
            self._added.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._added.wait()
            except TimeoutError:
                return False
            return True
        return False

    async def _execute(
        self, events: Sequence[tuple[Appended, list[Group]]], failed: dict[Group, int]
    ) -> list[Group]:
        """Execute events for the groups that take them, but none after a group's failed one. Gives those groups."""
        jobs: list[tuple[Group, Appended]] = []
        for event, groups in events:
            for group in groups:
                if group in failed:
                    continue
                if group.has_listeners:
                    jobs.append((group, event))
                else:
                    group.forget_through(event.record.sequence)
        ready = [event.payloads.get(group.early_read) for group, event in jobs]
        requests = [
            (group.request, event.record)
            for (group, event), payload in zip(jobs, ready, strict=True)
            if payload is None
        ]
        self.runtime.stats.executions += len(jobs) - len(requests)
        executed = iter(await log_pages.execute(self.runtime, self.head, self.actor, requests))
        for (group, _), payload in zip(jobs, ready, strict=True):
            outcome = payload or next(executed)
            if isinstance(outcome, EventFailed):
                failed.setdefault(group, outcome.sequence)
            elif group not in failed:
                group.ready.append(outcome)
        return [group for group, _ in jobs]

    def _fall_back(self) -> None:
        """Events were left out: all subscriptions go on through the log, each at its own pace."""
        done = self.done
        self._pending.clear()
        self._complete_through = None
        for group in self.groups.values():
            live, ahead = list(group.live), list(group.ahead)
            group.forget_through(self.head.sequence)
            for subscription in live:
                subscription.fall_back(max(done, group.delivered))
            for subscription in ahead:
                subscription.fall_back(subscription.position)
