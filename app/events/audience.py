"""All that one viewer subscribes to in a process: groups of equal subscriptions, and what they get, in order.

A group's events are executed once, whatever the number of its subscriptions, and the payload is handed to all of them.
Groups of one viewer share what is read for an event; viewers share nothing.
"""

import asyncio
from collections import deque
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import structlog

from app.auth.actor import Actor
from app.events import pages
from app.events.asked import Asked
from app.events.log import Appended
from app.events.payload import OVERHEAD, Page, Payload
from app.events.subscriber import Stage, Subscription

if TYPE_CHECKING:
    from app.events.feed import Feed
    from app.events.hub import Hub

# Events that wait for their execution; beyond, the viewer's subscriptions go on through the log.
PENDING_LIMIT: Final = 256
EVENTS_AT_ONCE: Final = 16
# Sockets served before others may run.
PUSHES_AT_ONCE: Final = 500

log = structlog.get_logger(__name__)


class Group:
    """Equal subscriptions of equal viewers.

    What it keeps of late (`recent`) is complete from `floor` on: every event that the group takes after that sequence
    and through the audience's `done` is there.
    """

    def __init__(self, audience: "Audience", asked: Asked) -> None:
        self.audience = audience
        self.asked = asked
        self.actor = audience.actor
        self.filter = asked.filter
        self.feed = audience.feed
        self.hub: Hub = audience.feed.hub
        self.members: set[Subscription] = set()
        self.live: dict[Subscription, None] = {}
        self.ahead: dict[Subscription, None] = {}
        self.floor = audience.feed.position
        self.recent: deque[Payload] = deque()
        self.pages: deque[Page] = deque()
        self.delivered_at = 0.0
        self._current: Payload | None = None
        self._reading = asyncio.Lock()

    def takes(self, event: Appended) -> bool:
        """Whether its viewer may see the event and its filter takes it."""
        return may_see(self.actor, event) and self.filter.takes(event.record, event.meter_ids)

    @property
    def is_wanted(self) -> bool:
        """Whether anyone is there for the next event."""
        return bool(self.live or self.ahead)

    def join(self, subscription: Subscription) -> bool:
        """Make it live if it has missed nothing, or nothing but what is at hand. There is no await in here."""
        missing = self._missing(subscription)
        if missing is None:
            return False
        for at, payload in enumerate(missing):
            keeps_up = subscription.sink.push(payload)
            subscription.position, subscription.sent_at = payload.sequence, self.hub.now()
            self.hub.stats.deliveries += 1
            if not keeps_up and at + 1 < len(missing):
                return False
        # What is being handed out now has gone to those who were there before; this one has got it from `missing`.
        reached = self.audience.done if self._current is None else self._current.sequence
        if subscription.position > reached:
            subscription.stage = Stage.AHEAD
            self.ahead[subscription] = None
        else:
            subscription.stage = Stage.LIVE
            self.live[subscription] = None
        return True

    def _missing(self, subscription: Subscription) -> list[Payload] | None:
        """What it lacks of the payloads at hand; None if something else is lacking too."""
        if self.floor > subscription.position:
            return None
        missing = [] if self._current is None else [self._current]
        missing.extend(takewhile(lambda one: one.sequence > subscription.position, reversed(self.recent)))
        if missing and missing[-1].begun < subscription.asked_at:
            return None
        missing = [one for one in reversed(missing) if one.sequence > subscription.position]
        return missing

    def pause(self, subscription: Subscription) -> None:
        """It is no longer live."""
        self.live.pop(subscription, None)
        self.ahead.pop(subscription, None)

    def leave(self, subscription: Subscription) -> None:
        """It has ended."""
        self.pause(subscription)
        self.members.discard(subscription)
        self.audience.left(self)

    def miss(self, sequence: int) -> None:
        """An event through this sequence is not executed here: whoever needs it reads the log."""
        self.floor = max(self.floor, sequence)
        self.recent.clear()

    async def deliver(self, payload: Payload) -> None:
        """Hand a payload to all that are live."""
        self._current = payload
        for subscription in list(self.ahead):
            if subscription.position < payload.sequence:
                del self.ahead[subscription]
                subscription.stage = Stage.LIVE
                self.live[subscription] = None
        receivers = list(self.live)
        self.delivered_at = self.hub.now()
        for start in range(0, len(receivers), PUSHES_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            for subscription in islice(receivers, start, start + PUSHES_AT_ONCE):
                # Whoever was pushed aside while others ran is not there any more.
                if subscription in self.live:
                    subscription.give(payload)
        self.hub.stats.deliveries += len(receivers)
        payload.frames.clear()
        self._remember(payload)
        self._current = None

    def _remember(self, payload: Payload) -> None:
        self.recent.append(payload)

        def forget() -> None:
            if self.recent and self.recent[0] is payload:
                self.recent.popleft()
                self.floor = max(self.floor, payload.sequence)

        self.hub.shelf.put(self.hub.now(), len(payload.body) + OVERHEAD, forget)

    async def read(self, subscription: Subscription) -> Page:
        """The page of the log after the subscription's position; one that is at hand, where that is fresh enough."""
        async with self._reading:
            for page in reversed(self.pages):
                if page.after <= subscription.position < page.through and page.begun >= subscription.asked_at:
                    return page
            page = await pages.read(self, subscription.position)
            if page.through > page.after:
                self._keep(page)
            return page

    def _keep(self, page: Page) -> None:
        self.pages.append(page)

        def forget() -> None:
            if self.pages and self.pages[0] is page:
                self.pages.popleft()

        self.hub.shelf.put(self.hub.now(), page.size, forget)


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
                await self._execute_some()
                if self._whole_through is not None:
                    self._fall_back()
        except Exception:
            log.exception("handing out events failed, the log is read instead")
            self._fall_back()
        finally:
            self._running = False

    async def _execute_some(self) -> None:
        """Execute the next events together and hand them out one after the other."""
        jobs: list[tuple[Group, Appended]] = []
        for event, groups in islice(self._pending, EVENTS_AT_ONCE):
            for group in groups:
                if group.is_wanted:
                    jobs.append((group, event))
                else:
                    group.miss(event.record.sequence)
        count = min(len(self._pending), EVENTS_AT_ONCE)
        payloads = await pages.execute(self.feed, self.actor, jobs, self.feed.hub.live_slots)
        for _ in range(count):
            event, _ = self._pending[0]
            for (group, of), payload in zip(jobs, payloads, strict=True):
                if of is event:
                    await group.deliver(payload)
            self.feed.hub.stats.saw(event.record.occurred_at)
            self._pending.popleft()

    def _fall_back(self) -> None:
        """Events were left out: everyone goes on through the log, where each has its own pace."""
        done = self.done
        self._pending.clear()
        self._whole_through = None
        for group in self.groups.values():
            live, ahead = list(group.live), list(group.ahead)
            group.miss(self.feed.position)
            for subscription in live:
                subscription.fall_back(done)
            for subscription in ahead:
                subscription.fall_back(subscription.position)
            self.feed.hub.stats.overloads += bool(live or ahead)


def may_see(actor: Actor, event: Appended) -> bool:
    """The same rule as `EventRecord.seen_by`, for an event that is at hand."""
    if event.record.account_id != actor.account_id:
        return False
    return actor.sees_whole_account or event.record.customer_id == actor.customer_id
