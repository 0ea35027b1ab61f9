"""Equal subscriptions of one viewer: each event is executed once, and its payload handed to all of them."""

import asyncio
import time
from collections import deque
from itertools import takewhile
from typing import Final, Protocol
from weakref import WeakValueDictionary

from app.auth.actor import Actor
from app.core.errors import ApiError
from app.events.log import Appended
from app.live import log_pages
from app.live.early_reads import EarlyRead
from app.live.failed_events import EventFailed, Retry
from app.live.fan_out import FanOut
from app.live.log_head import LogHead
from app.live.payload import Batch, Page, Payload, batched
from app.live.runtime import Runtime
from app.live.subscription import Stage, Subscription
from app.live.subscription_request import SubscriptionRequest

# A stretch of the log that was just read is read again for later subscriptions after so many times the seconds that
# this took, and at most `MAX_SPACING`.
SPACING: Final = 10
MAX_SPACING: Final = 0.1
# A page begins at most so many events before the position for which it is read.
NEAR: Final = log_pages.PAGE // 2


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
        # Events are read by it early, where that is possible.
        self.early_read: EarlyRead | None = None
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
        # The read of a page that has not begun, and the positions that wait for it, the first one first.
        self._next_read: asyncio.Task[tuple[int, Page | ApiError | EventFailed]] | None = None
        self._waiting: dict[int, None] = {}
        # By sequence, for as long as a subscription waits for the event.
        self._retries: WeakValueDictionary[int, Retry] = WeakValueDictionary()

    def takes(self, event: Appended) -> bool:
        """Whether its viewer may see the event and its filter takes it."""
        return event.is_seen_by(self.actor) and self.filter.takes(event.record, event.meter_ids)

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
        batch = next(batched(self.ready))
        del self.ready[: len(batch)]
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
        """The page of the log after the subscription's position, which shows nothing older than the subscription.

        Subscriptions that wait at one time share a read, as far as it covers their positions. Raises CursorExpired and
        EventFailed.
        """
        while True:
            for page in reversed(self.pages):
                if page.covers(subscription.position) and page.started_at >= subscription.requested_at:
                    return page
            retry = subscription.retry
            if retry is not None and time.monotonic() < retry.due_at:
                # Another subscription has tried in vain meanwhile.
                raise EventFailed(retry.sequence, retry.errors)
            self._waiting[subscription.position] = None
            if self._next_read is None:
                self._next_read = self.runtime.spawn(self._read(), "page")
            position, found = await asyncio.shield(self._next_read)
            if isinstance(found, Page):
                if position == subscription.position or found.covers(subscription.position):
                    return found
            elif position == subscription.position or (isinstance(found, EventFailed) and not found.sequence):
                raise found

    async def _read(self) -> tuple[int, Page | ApiError | EventFailed]:
        """Read the page for the first that waits, from the position of others a little before it; gives its start."""
        async with self._reading:
            first = next(iter(self._waiting))
            await self._space_reads(first)
            position = min(one for one in self._waiting if first - NEAR <= one <= first)
            # Later subscriptions must be shown nothing that was read before them: they get the next read.
            self._waiting.clear()
            self._next_read = None
            try:
                page = await log_pages.read(self.runtime, self.head, self.actor, self.request, position)
            except ApiError as error:
                return position, error
            except Exception as error:
                return position, EventFailed.of(error)
            if page.through > page.after:
                self._keep(page)
            return position, page

    async def _space_reads(self, position: int) -> None:
        """Wait a moment if the stretch was just read: of many clients that come back, more then share the next read."""
        latest = next((page for page in reversed(self.pages) if page.covers(position)), None)
        if latest is not None:
            spacing = min(SPACING * (latest.ended_at - latest.started_at), MAX_SPACING)
            await asyncio.sleep(max(0.0, latest.ended_at + spacing - time.monotonic()))

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
