"""All that one viewer subscribes to in a process: groups of equal subscriptions, and what they get, in order.

A group's events are executed once, whatever the number of its subscriptions, and the payload is handed to all of them.
Groups of one viewer share what is read for an event; viewers share nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import structlog

from app.auth.actor import Actor
from app.events import pages
from app.events.asked import Asked
from app.events.log import Appended
from app.events.payload import OVERHEAD, Batch, Page, Payload, Write
from app.events.subscriber import Stage, Subscription

if TYPE_CHECKING:
    from app.events.feed import Feed
    from app.events.hub import Hub

# Events that wait for their execution; beyond, the viewer's subscriptions go on through the log.
PENDING_LIMIT: Final = 256
EVENTS_AT_ONCE: Final = 16
# Sockets served before others may run.
PUSHES_AT_ONCE: Final = 500
# Payloads are handed over together up to this length: beyond, a write costs what is written.
BATCH_BYTES: Final = 16 * 1024
# Seconds that an event waits at most for all those that are about to follow it.
LONGEST_GATHERING: Final = 0.02

log = structlog.get_logger(__name__)


class Lines:
    """A group's live subscriptions whose sinks are written to at once, and alike."""

    __slots__ = ("encode", "writes")

    def __init__(self, encode: Callable[[Batch], bytes]) -> None:
        self.encode = encode
        self.writes: dict[Subscription, Write] = {}


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
        # The live ones again: those with a line, by its key, and those without.
        self._lines: dict[str, Lines] = {}
        self._unwired: dict[Subscription, None] = {}
        # Whether one of them has come or gone since a hand-out began.
        self._rewired = False
        self.floor = audience.feed.position
        self.recent: deque[Payload] = deque()
        self.pages: deque[Page] = deque()
        self.delivered_at = 0.0
        # What was executed and is to be handed out, what is being handed out, and through where it has been.
        self.ready: list[Payload] = []
        self._current: Batch | None = None
        self.delivered = 0
        self._reading = asyncio.Lock()

    def takes(self, event: Appended) -> bool:
        """Whether its viewer may see the event and its filter takes it."""
        return may_see(self.actor, event) and self.filter.takes(event.record, event.meter_ids)

    @property
    def is_wanted(self) -> bool:
        """Whether anyone is there for the next event."""
        return bool(self.live or self.ahead)

    @property
    def done(self) -> int:
        """Its live subscriptions have been given everything through this sequence."""
        return max(self.delivered, self.audience.done)

    def join(self, subscription: Subscription) -> bool:
        """Make it live if it has missed nothing, or nothing but what is at hand. There is no await in here."""
        missing = self._missing(subscription)
        if missing is None:
            return False
        for at, payload in enumerate(missing):
            keeps_up = subscription.sink.push(Batch((payload,)))
            subscription.position, subscription.sent_at = payload.sequence, self.hub.now()
            self.hub.stats.deliveries += 1
            if not keeps_up and at + 1 < len(missing):
                return False
        # What is being handed out now has gone to those who were there before; this one has got it from `missing`.
        reached = self.done if self._current is None else self._current.sequence
        if subscription.position > reached:
            subscription.stage = Stage.AHEAD
            self.ahead[subscription] = None
        else:
            self._go_live(subscription)
        return True

    def _missing(self, subscription: Subscription) -> list[Payload] | None:
        """What it lacks of the payloads at hand; None if something else is lacking too."""
        if self.floor > subscription.position:
            return None
        if any(
            one.begun < subscription.asked_at and one.sequence > subscription.position for one in self.ready
        ):
            return None
        missing = [] if self._current is None else list(reversed(self._current.payloads))
        missing.extend(takewhile(lambda one: one.sequence > subscription.position, reversed(self.recent)))
        if missing and missing[-1].begun < subscription.asked_at:
            return None
        missing = [one for one in reversed(missing) if one.sequence > subscription.position]
        return missing

    def pause(self, subscription: Subscription) -> None:
        """It is no longer live."""
        if subscription in self.live:
            del self.live[subscription]
            self._unwire(subscription)
        self.ahead.pop(subscription, None)

    def rewire(self, subscription: Subscription) -> None:
        """The sink of a live subscription has another line, or none any more."""
        self._unwire(subscription)
        self._wire(subscription)

    def _go_live(self, subscription: Subscription) -> None:
        subscription.stage = Stage.LIVE
        self.live[subscription] = None
        self._wire(subscription)

    def _wire(self, subscription: Subscription) -> None:
        line = subscription.line = subscription.sink.line
        if line is None:
            self._unwired[subscription] = None
            return
        lines = self._lines.get(line.key)
        if lines is None:
            lines = self._lines[line.key] = Lines(line.encode)
        lines.writes[subscription] = line.write

    def _unwire(self, subscription: Subscription) -> None:
        self._rewired = True
        line, subscription.line = subscription.line, None
        if line is None:
            del self._unwired[subscription]
            return
        lines = self._lines[line.key]
        del lines.writes[subscription]
        if not lines.writes:
            del self._lines[line.key]

    def leave(self, subscription: Subscription) -> None:
        """It has ended."""
        self.pause(subscription)
        self.members.discard(subscription)
        self.audience.left(self)

    def miss(self, sequence: int) -> None:
        """An event through this sequence is not executed here: whoever needs it reads the log."""
        self.floor = max(self.floor, sequence)
        self.recent.clear()
        self.ready.clear()

    async def deliver(self) -> None:
        """Hand what is ready to all that are live."""
        while self.ready:
            await self._hand_out(self._take_ready())

    def _take_ready(self) -> Batch:
        size = count = 0
        while count < len(self.ready) and size < BATCH_BYTES:
            size += len(self.ready[count].body)
            count += 1
        batch = Batch(self.ready[:count])
        del self.ready[:count]
        return batch

    async def _hand_out(self, batch: Batch) -> None:
        self._current = batch
        self.delivered_at = self.hub.now()
        self._rewired = False
        # Who comes later gets what is handed out now in another way.
        wired = [(lines, list(lines.writes.items())) for lines in self._lines.values()]
        unwired = list(self._unwired)
        self.hub.stats.deliveries += len(self.live) * len(batch)
        for subscription in list(self.ahead):
            if subscription.position < batch.sequence:
                missing = batch.after(subscription.position)
                del self.ahead[subscription]
                self._go_live(subscription)
                subscription.give(missing)
                self.hub.stats.deliveries += len(missing)
        served = 0
        for lines, members in wired:
            frames = lines.encode(batch)
            for start in range(0, len(members), PUSHES_AT_ONCE):
                if served >= PUSHES_AT_ONCE:
                    await asyncio.sleep(0)
                    served = 0
                some = members[start : start + PUSHES_AT_ONCE]
                served += len(some)
                if self._rewired:
                    # Whoever has lost its line is given the batch as those without one.
                    unwired += [one for one, _ in some if one not in lines.writes]
                    some = [one for one in some if one[0] in lines.writes]
                for subscription, write in some:
                    try:
                        write(frames)
                    except Exception as fault:
                        subscription.fault(fault)
        for at, subscription in enumerate(unwired, served):
            if at and not at % PUSHES_AT_ONCE:
                await asyncio.sleep(0)
            # Whoever was pushed aside while others ran is not there any more.
            if subscription.stage is Stage.LIVE:
                subscription.give(batch)
        for payload in batch:
            payload.frames.clear()
            self._remember(payload)
        self._current, self.delivered = None, batch.sequence

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
        except Exception:
            log.exception("handing out events failed, the log is read instead")
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
        count, latest = 0, self.feed.hub.now() + LONGEST_GATHERING
        while count < EVENTS_AT_ONCE:
            if len(self._pending) == count and not await self._next_soon(latest):
                break
            some = list(islice(self._pending, count, EVENTS_AT_ONCE))
            ready |= dict.fromkeys(await self._execute(some))
            count += len(some)
        began = self.feed.hub.now()
        for group in ready:
            await group.deliver()
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

    async def _execute(self, events: Sequence[tuple[Appended, list[Group]]]) -> list[Group]:
        """Execute events for the groups that take them; gives those groups."""
        jobs: list[tuple[Group, Appended]] = []
        for event, groups in events:
            for group in groups:
                if group.is_wanted:
                    jobs.append((group, event))
                else:
                    group.miss(event.record.sequence)
        payloads = await pages.execute(self.feed, self.actor, jobs, self.feed.hub.live_slots)
        for (group, _), payload in zip(jobs, payloads, strict=True):
            group.ready.append(payload)
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


def may_see(actor: Actor, event: Appended) -> bool:
    """The same rule as `EventRecord.seen_by`, for an event that is at hand."""
    if event.record.account_id != actor.account_id:
        return False
    return actor.sees_whole_account or event.record.customer_id == actor.customer_id
