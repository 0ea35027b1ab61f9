"""Equal subscriptions of one viewer: their events are executed once, and the payloads handed to all of them."""

import asyncio
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from app.auth.actor import Actor
from app.events.log import Appended
from app.live import log_pages
from app.live.failed_events import Faulty, Waiting
from app.live.fan_out import Receivers
from app.live.payload import Batch, Page, Payload
from app.live.subscribed import Asked
from app.live.subscriber import Stage, Subscription

if TYPE_CHECKING:
    from app.live.hub import Hub
    from app.live.viewer_groups import Audience

# Payloads are handed over together up to this length: beyond, a write costs what is written.
BATCH_BYTES: Final = 16 * 1024


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
        self.live = Receivers()
        self.ahead: dict[Subscription, None] = {}
        self.floor = audience.feed.position
        self.recent: deque[Payload] = deque()
        self.pages: deque[Page] = deque()
        self.delivered_at = 0.0
        # What was executed and is to be handed out, what is being handed out, and through where it has been.
        self.ready: list[Payload] = []
        self._current: Batch | None = None
        self.delivered = 0
        self._reading = asyncio.Lock()
        # By their sequences, for as long as a subscription waits for them.
        self._waiting: WeakValueDictionary[int, Waiting] = WeakValueDictionary()

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
            self.live.add(subscription)
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
        self.live.discard(subscription)
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
        self.hub.stats.deliveries += len(self.live) * len(batch)
        await self.live.give(batch)
        for subscription in list(self.ahead):
            if subscription.position < batch.sequence:
                missing = batch.after(subscription.position)
                del self.ahead[subscription]
                self.live.add(subscription)
                subscription.give(missing)
                self.hub.stats.deliveries += len(missing)
        for payload in batch:
            self._remember(payload)
        self._current, self.delivered = None, batch.sequence

    def _remember(self, payload: Payload) -> None:
        self.recent.append(payload)

        def forget() -> None:
            if self.recent and self.recent[0] is payload:
                self.recent.popleft()
                self.floor = max(self.floor, payload.sequence)

        self.hub.shelf.put(self.hub.now(), payload.remember(), forget)

    async def read(self, subscription: Subscription) -> Page:
        """The page of the log after the subscription's position; one that is at hand, where that is fresh enough.

        Raises CursorExpired, and Faulty.
        """
        async with self._reading:
            for page in reversed(self.pages):
                if page.after <= subscription.position < page.through and page.begun >= subscription.asked_at:
                    return page
            waiting = subscription.waiting
            if waiting is not None and self.hub.now() < waiting.retry_at:
                # Another of those who wait for it has tried it in vain just now.
                raise Faulty(waiting.sequence, waiting.errors)
            page = await log_pages.read(self, subscription.position)
            if page.through > page.after:
                self._keep(page)
            return page

    def failed(self, fault: Faulty) -> Waiting:
        """Note that a subscription has met a fault; gives what it is to wait for."""
        waiting = self._waiting.get(fault.sequence)
        if waiting is None:
            waiting = self._waiting[fault.sequence] = Waiting(fault.sequence)
        waiting.failed(fault, self.hub.now())
        return waiting

    def hold(self, sequence: int, through: int) -> None:
        """The event of this sequence is faulty, and none after it, through the other, was handed out.

        Everyone reads the log from there, where it is tried again.
        """
        live, ahead = list(self.live), list(self.ahead)
        self.miss(through)
        for subscription in live:
            subscription.fall_back(sequence - 1)
        for subscription in ahead:
            subscription.fall_back(subscription.position)

    def _keep(self, page: Page) -> None:
        self.pages.append(page)

        def forget() -> None:
            if self.pages and self.pages[0] is page:
                self.pages.popleft()

        self.hub.shelf.put(self.hub.now(), page.remember(), forget)


def may_see(actor: Actor, event: Appended) -> bool:
    """The same rule as `EventRecord.seen_by`, for an event that is at hand."""
    if event.record.account_id != actor.account_id:
        return False
    return actor.sees_whole_account or event.record.customer_id == actor.customer_id
