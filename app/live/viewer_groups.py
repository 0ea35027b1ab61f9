"""All that one viewer subscribes to in a process: groups of equal subscriptions, and what they get, in order.

A group's events are executed once, whatever the number of its subscriptions, and the payload is handed to all of them.
Groups of one viewer share what is read for an event; viewers share nothing.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from app.auth.actor import Actor
from app.core.outages import report
from app.events.log import Appended
from app.live import log_pages
from app.live.failed_events import Faulty
from app.live.group import Group
from app.live.subscribed import Asked

if TYPE_CHECKING:
    from app.live.account_feed import Feed

# Events that wait for their execution; beyond, the viewer's subscriptions go on through the log.
PENDING_LIMIT: Final = 256
EVENTS_AT_ONCE: Final = 16
# Seconds that an event waits at most for all those that are about to follow it.
LONGEST_GATHERING: Final = 0.02


class Audience:
    """One viewer's groups, and the events that wait for their execution."""

    def __init__(self, feed: "Feed", actor: Actor) -> None:
        self.feed = feed
        self.actor = actor
        self.groups: dict[object, Group] = {}
        self._pending: deque[tuple[Appended, list[Group]]] = deque()
        # Once events were left out: the sequence before the first of them.
        self._whole_through: int | None = None
        self._running = False
        self._added = asyncio.Event()
        # Seconds that the last hand-out took, as far as they count.
        self._took = 0.0

    @property
    def done(self) -> int:
        """All its live subscriptions have been given everything through this sequence."""
        if self._pending:
            return self._pending[0][0].record.sequence - 1
        return self.feed.position if self._whole_through is None else self._whole_through

    def group(self, asked: Asked) -> Group:
        """The group of the subscriptions equal to this one."""
        group = self.groups.get(asked.key)
        if group is None:
            group = self.groups[asked.key] = Group(self, asked)
            self.feed.index.add(group)
        return group

    def left(self, group: Group) -> None:
        """One of the group's subscriptions has ended."""
        if not group.members and self.groups.get(group.asked.key) is group:
            del self.groups[group.asked.key]
            self.feed.index.remove(group)
        self.feed.left(self)

    def add(self, event: Appended, groups: list[Group]) -> None:
        """An event that these groups take."""
        wanted = []
        for group in groups:
            if group.is_wanted:
                wanted.append(group)
            else:
                group.miss(event.record.sequence)
        if not wanted or self._whole_through is not None:
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._whole_through = event.record.sequence - 1
            return
        self._pending.append((event, wanted))
        self._added.set()
        if not self._running:
            self._running = True
            self.feed.hub.spawn(self._run(), "audience")

    def skip(self, done: int) -> None:
        """The feed went on without handing out what lies after this sequence."""
        if self._whole_through is None:
            self._whole_through = done
        if not self._running:
            self._fall_back()

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._round()
                if self._whole_through is not None:
                    self._fall_back()
        except Exception as fault:
            report("handing out events failed, the log is read instead", fault)
            self._fall_back()
        finally:
            self._running = False

    async def _round(self) -> None:
        """Execute the next events and hand them out together.

        A socket is written to once for all of them, and a write costs far more than what is written. So while the
        account's next mutation is under way, its event is waited for, at most as long as the last hand-out took:
        it would have to wait as long for one of its own.
        """
        ready: dict[Group, None] = {}
        # The first faulty event of each group that has one.
        held: dict[Group, int] = {}
        count, latest = 0, self.feed.hub.now() + LONGEST_GATHERING
        while count < EVENTS_AT_ONCE:
            if len(self._pending) == count and not await self._next_soon(latest):
                break
            some = list(islice(self._pending, count, EVENTS_AT_ONCE))
            ready |= dict.fromkeys(await self._execute(some, held))
            count += len(some)
        began = self.feed.hub.now()
        for group in ready:
            await group.deliver()
        through = self._pending[count - 1][0].record.sequence
        for group, sequence in held.items():
            group.hold(sequence, through)
        self._took = min(self.feed.hub.now() - began, LONGEST_GATHERING)
        for _ in range(count):
            event, _ = self._pending.popleft()
            self.feed.hub.stats.saw(event.record.occurred_at)

    async def _next_soon(self, latest: float) -> bool:
        """Whether one more event has come by then; at once False where none is expected."""
        writing = self.feed.hub.services.writing
        until = min(self.feed.hub.now() + self._took, latest)
        while writing[self.feed.account_id] and self.feed.hub.now() < until:
            self._added.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._added.wait()
            except TimeoutError:
                return False
            return True
        return False

    async def _execute(
        self, events: Sequence[tuple[Appended, list[Group]]], held: dict[Group, int]
    ) -> list[Group]:
        """Execute events for the groups that take them, none after one that is `held`; gives those groups."""
        jobs: list[tuple[Group, Appended]] = []
        for event, groups in events:
            for group in groups:
                if group in held:
                    continue
                if group.is_wanted:
                    jobs.append((group, event))
                else:
                    group.miss(event.record.sequence)
        outcomes = await log_pages.execute(self.feed, self.actor, jobs, self.feed.hub.live_slots)
        for (group, _), outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Faulty):
                held.setdefault(group, outcome.sequence)
            elif group not in held:
                group.ready.append(outcome)
        return [group for group, _ in jobs]

    def _fall_back(self) -> None:
        """Events were left out: everyone goes on through the log, where each has its own pace."""
        done = self.done
        self._pending.clear()
        self._whole_through = None
        for group in self.groups.values():
            live, ahead = list(group.live), list(group.ahead)
            group.miss(self.feed.position)
            for subscription in live:
                subscription.fall_back(max(done, group.delivered))
            for subscription in ahead:
                subscription.fall_back(subscription.position)
            self.feed.hub.stats.overloads += bool(live or ahead)
