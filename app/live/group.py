"""Equal subscriptions of one viewer: each event is executed once, and its payload handed to all of them."""

import asyncio
import time
from collections import deque
from itertools import takewhile
from typing import Final, Protocol
from weakref import WeakValueDictionary

from app.auth.actor import Actor
from app.events.log import Appended
from app.live import log_pages
from app.live.failed_events import EventFailed, Retry
from app.live.fan_out import FanOut
from app.live.log_head import LogHead
from app.live.payload import Batch, Page, Payload
from app.live.runtime import Runtime
from app.live.subscription import Stage, Subscription
from app.live.subscription_request import SubscriptionRequest

# Payloads are handed over together up to this length: beyond it, a write costs as much as its bytes.
BATCH_BYTES: Final = 16 * 1024


class GroupsOfViewer(Protocol):
    """All groups of one viewer, as they are seen from one of them; see `ViewerGroups`."""

    runtime: Runtime
    head: LogHead
    actor: Actor

    @property
    def done(self) -> int: ...
    def add(self, event: Appended, groups: list["Group"]) -> None: ...
    def left(self, group: "Group") -> None: ...


class Group:
    """Equal subscriptions of one viewer.

    Its `recent` payloads are complete from `floor` on: they have every event that the group takes after that sequence
    and through the `done` of their siblings.
    """

    def __init__(self, siblings: GroupsOfViewer, request: SubscriptionRequest) -> None:
        self.siblings = siblings
        self.runtime = siblings.runtime
        self.head = siblings.head
        self.actor = siblings.actor
        self.request = request
        self.filter = request.filter
        self.members: set[Subscription] = set()
        self.live = FanOut()
        self.ahead: dict[Subscription, None] = {}
        self.floor = self.head.sequence
        self.recent: deque[Payload] = deque()
        self.pages: deque[Page] = deque()
        self.delivered_at = 0.0
        # Payloads to be handed out, those that are being handed out, and the sequence through which all have been.
        self.ready: list[Payload] = []
        self._current: Batch | None = None
        self.delivered = 0
        self._reading = asyncio.Lock()
        # By sequence, for as long as a subscription waits for the event.
        self._retries: WeakValueDictionary[int, Retry] = WeakValueDictionary()

    def takes(self, event: Appended) -> bool:
        """Whether its viewer may see the event and its filter takes it."""
        return may_see(self.actor, event) and self.filter.takes(event.record, event.meter_ids)

    @property
    def has_listeners(self) -> bool:
        """Whether a subscription is there for the next event."""
        return bool(self.live or self.ahead)

    @property
    def done(self) -> int:
        """Its live subscriptions have been given everything through this sequence."""
        return max(self.delivered, self.siblings.done)

    def progress_cursor(self, sequence: int) -> str:
        """The cursor of a position, which must not show a bound viewer whether other events have moved it."""
        if self.actor.sees_whole_account:
            return self.head.cursor(sequence)
        return self.head.unlinkable_cursor(sequence)

    def join(self, subscription: Subscription) -> bool:
        """Make a subscription live if all that it missed, if anything, is kept here. There is no await in here."""
        missing = self._missing(subscription)
        if missing is None:
            return False
        for at, payload in enumerate(missing):
            keeps_up = subscription.sink.push(Batch((payload,)))
            subscription.position, subscription.sent_at = payload.sequence, time.monotonic()
            self.runtime.stats.deliveries += 1
            if not keeps_up and at + 1 < len(missing):
                return False
        # The current batch goes to earlier subscriptions only; this one has got it as missing.
        reached = self.done if self._current is None else self._current.sequence
        if subscription.position > reached:
            subscription.stage = Stage.AHEAD
            self.ahead[subscription] = None
        else:
            self.live.add(subscription)
        return True

    def _missing(self, subscription: Subscription) -> list[Payload] | None:
        """The kept payloads that the subscription lacks; None if it lacks anything else too."""
        position, requested_at = subscription.position, subscription.requested_at
        if self.floor > position:
            return None
        if any(payload.started_at < requested_at and payload.sequence > position for payload in self.ready):
            return None
        missing = [] if self._current is None else list(reversed(self._current.payloads))
        missing.extend(takewhile(lambda payload: payload.sequence > position, reversed(self.recent)))
        if missing and missing[-1].started_at < requested_at:
            return None
        return [payload for payload in reversed(missing) if payload.sequence > position]

    def pause(self, subscription: Subscription) -> None:
        """A subscription is no longer live."""
        self.live.discard(subscription)
        self.ahead.pop(subscription, None)

    def leave(self, subscription: Subscription) -> None:
        """A subscription has ended."""
        self.pause(subscription)
        self.members.discard(subscription)
        self.siblings.left(self)

    def update_writer(self, subscription: Subscription) -> None:
        """A live subscription's sink has another direct writer."""
        self.live.update_writer(subscription)

    def forget_through(self, sequence: int) -> None:
        """An event through this sequence is not executed here: a subscription that needs it reads the log."""
        self.floor = max(self.floor, sequence)
        self.recent.clear()
        self.ready.clear()

    async def deliver(self) -> None:
        """Hand what is ready to all live subscriptions."""
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
        self.delivered_at = time.monotonic()
        self.runtime.stats.deliveries += len(self.live) * len(batch)
        await self.live.deliver(batch)
        for subscription in list(self.ahead):
            if subscription.position < batch.sequence:
                missing = batch.after(subscription.position)
                del self.ahead[subscription]
                self.live.add(subscription)
                subscription.deliver(missing)
                self.runtime.stats.deliveries += len(missing)
        for payload in batch:
            self._retain(payload)
        self._current, self.delivered = None, batch.sequence

    def _retain(self, payload: Payload) -> None:
        self.recent.append(payload)

        def evict() -> None:
            if self.recent and self.recent[0] is payload:
                self.recent.popleft()
                self.floor = max(self.floor, payload.sequence)

        self.runtime.recent.add(time.monotonic(), payload.retain(), evict)

    async def read(self, subscription: Subscription) -> Page:
        """The page of the log after the subscription's position; a kept page where that is fresh enough.

        Raises CursorExpired and EventFailed.
        """
        async with self._reading:
            for page in reversed(self.pages):
                if (
                    page.after <= subscription.position < page.through
                    and page.started_at >= subscription.requested_at
                ):
                    return page
            retry = subscription.retry
            if retry is not None and time.monotonic() < retry.due_at:
                # Another subscription has tried in vain while this one waited for the lock.
                raise EventFailed(retry.sequence, retry.errors)
            page = await log_pages.read(
                self.runtime, self.head, self.actor, self.request, subscription.position
            )
            if page.through > page.after:
                self._keep(page)
            return page

    def note_failure(self, failure: EventFailed) -> Retry:
        """Count a subscription's failed attempt; gives the next one, which the subscription waits for."""
        retry = self._retries.get(failure.sequence)
        if retry is None:
            retry = self._retries[failure.sequence] = Retry(failure.sequence)
        retry.note(failure, time.monotonic())
        return retry

    def retry_from(self, sequence: int, through: int) -> None:
        """The event of this sequence has failed, and no event from it through the other was handed out.

        All subscriptions read the log from there, where the event is retried.
        """
        live, ahead = list(self.live), list(self.ahead)
        self.forget_through(through)
        for subscription in live:
            subscription.fall_back(sequence - 1)
        for subscription in ahead:
            subscription.fall_back(subscription.position)

    def _keep(self, page: Page) -> None:
        self.pages.append(page)

        def evict() -> None:
            if self.pages and self.pages[0] is page:
                self.pages.popleft()

        self.runtime.recent.add(time.monotonic(), page.retain(), evict)


def may_see(actor: Actor, event: Appended) -> bool:
    """The same rule as `EventRecord.seen_by`, for an event that is at hand."""
    if event.record.account_id != actor.account_id:
        return False
    return actor.sees_whole_account or event.record.customer_id == actor.customer_id
