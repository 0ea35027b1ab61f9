"""An account's events in one process: received, put in order, handed to the groups that take them.

An announced event that continues the feed's head is taken as it is; where something is missing, the log is read.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import structlog

from app.auth.actor import Actor
from app.core.outages import report
from app.events import cursors, log
from app.events.broadcast.base import RESYNC
from app.events.log import Appended
from app.events.models import StreamBounds
from app.events.publisher import Growth, channel_of
from app.events.stream_bounds import read_bounds
from app.live.early_reads import MOST_GROUPS, EarlyRead
from app.live.group import Group, GroupsOfViewer
from app.live.group_index import GroupIndex
from app.live.log_head import LogHead
from app.live.runtime import Runtime
from app.live.subscription_request import SubscriptionRequest
from app.live.viewer_groups import ViewerGroups

# More events than this are read from the log in pages, between which other tasks have their turn.
TAKEN_AT_ONCE: Final = 100
PAGE: Final = 500
FIRST_DELAY: Final = 0.1
MAX_DELAY: Final = 2.0

logger = structlog.get_logger(__name__)


class AccountFeed:
    """Made for the account's first subscription in the process, and gone with the last one.

    It calls `poll_soon` where the doorbell may have missed something, and `on_left` for each subscription that ends.
    """

    def __init__(
        self,
        runtime: Runtime,
        account_id: str,
        *,
        poll_soon: Callable[[], None],
        on_left: Callable[["AccountFeed"], None],
    ) -> None:
        self.account_id = account_id
        self.users = 0
        self.head = LogHead(runtime.services.keyring, account_id)
        self.viewer_groups: dict[Actor, ViewerGroups] = {}
        self.opened = asyncio.Event()
        self._runtime = runtime
        self._poll_soon = poll_soon
        self._on_left = on_left
        self._index = GroupIndex()
        # The highest sequence that is known to be in the log.
        self._known = 0
        self._reader: asyncio.Task[None] | None = None
        self._latest: asyncio.Task[StreamBounds] | None = None
        self._latest_lock = asyncio.Lock()
        # Whether the groups are those for which early reads were prepared.
        self._has_same_groups = False
        # Reads the whole account's log; each group checks what its viewer may see of it.
        self._whole = Actor(account_id, frozenset())
        self._listener = runtime.spawn(self._listen(), "feed")

    @property
    def groups(self) -> Iterator[Group]:
        return (group for one in self.viewer_groups.values() for group in one.groups.values())

    async def _listen(self) -> None:
        async with self._runtime.doorbell.listen(channel_of(self.account_id)) as rings:
            self.head.restart(await self.latest())
            self.opened.set()
            self.note_last(self._known)
            async for message in rings:
                self._receive(message)

    def _receive(self, message: str) -> None:
        if message == RESYNC:
            self._poll_soon()
            return
        try:
            # Of the events that this process has committed itself only the numbers matter.
            growth = Growth.decode(self.account_id, message, self.head.sequence)
        except ValueError:
            logger.warning("a message on an account's channel was not understood", account_id=self.account_id)
            self._poll_soon()
            return
        self.take(growth.events)
        self.note_last(growth.last)

    def take(self, events: Sequence[Appended]) -> None:
        """Hand out the committed events that continue the head, and read the log for the others."""
        if not events:
            return
        if self.opened.is_set() and len(events) <= TAKEN_AT_ONCE:
            for event in events:
                if event.record.sequence == self.head.sequence + 1:
                    self._hand_out(event)
        self.note_last(events[-1].record.sequence)

    def note_last(self, sequence: int) -> None:
        """The log has events up to this sequence at least."""
        self._known = max(self._known, sequence)
        if self.opened.is_set() and self._known > self.head.sequence and self._reader is None:
            self._reader = self._runtime.spawn(self._read(), "feed reader")

    def compare(self, stream: StreamBounds, position: int) -> None:
        """Compare with the stream's bounds, which were read when the head was at `position` or later."""
        if not self.opened.is_set():
            return
        if stream.epoch != self.head.epoch or stream.last_sequence < position:
            self._restart(stream)
        else:
            self.note_last(stream.last_sequence)

    async def latest(self) -> StreamBounds:
        """The stream's bounds as of now: read after this was called, once for all callers meanwhile."""
        if self._latest is None:
            self._latest = self._runtime.spawn(self._read_latest(), "feed latest")
        return await asyncio.shield(self._latest)

    def group(self, actor: Actor, request: SubscriptionRequest) -> Group:
        """The group of a viewer's subscriptions that are equal to this one."""
        of_actor = self.viewer_groups.get(actor)
        if of_actor is None:
            of_actor = ViewerGroups(
                self._runtime, self.head, self._index, actor, self._prepare_early_reads, self._left
            )
            self.viewer_groups[actor] = of_actor
        self._has_same_groups = False
        return of_actor.group(request)

    def close(self) -> None:
        """Stop listening and reading."""
        for task in (self._listener, self._reader, self._latest):
            if task is not None:
                task.cancel()
        self._runtime.early_reads.put(self.account_id, ())

    def _prepare_early_reads(self) -> None:
        """Lets later events be read within their transactions, for the groups that are there now."""
        if self._has_same_groups or not self._runtime.services.database.is_sqlite:
            return
        self._has_same_groups = True
        groups = list(islice(self.groups, MOST_GROUPS + 1))
        if len(groups) > MOST_GROUPS:
            groups = []
        for group in groups:
            if group.early_read is None:
                group.early_read = EarlyRead.of(self._runtime.services, group.actor, self.head, group.request)
        reads = [group.early_read for group in groups if group.early_read is not None]
        self._runtime.early_reads.put(self.account_id, reads)

    def _left(self, groups: ViewerGroups) -> None:
        """A subscription of the viewer has ended."""
        self._has_same_groups = False
        if not groups.groups and self.viewer_groups.get(groups.actor) is groups:
            del self.viewer_groups[groups.actor]
        self._on_left(self)

    def _hand_out(self, event: Appended) -> None:
        self.head.sequence = event.record.sequence
        self._runtime.stats.events += 1
        by_viewer: dict[GroupsOfViewer, list[Group]] = {}
        for group in self._index.find(event):
            by_viewer.setdefault(group.siblings, []).append(group)
        for siblings, groups in by_viewer.items():
            siblings.add(event, groups)

    async def _read(self) -> None:
        """Read the log up to the last sequence that is known."""
        try:
            while self._known > self.head.sequence:
                if not any(group.has_listeners for group in self.groups):
                    self._skip(self._known)
                    break
                await self._read_page()
        except Exception as error:
            # The next poll of the stream starts this again.
            report("reading an account's log failed, it will be tried again", error)
        finally:
            self._reader = None

    async def _read_page(self) -> None:
        after = self.head.sequence
        async with self._runtime.services.database.reading() as session:
            records = await log.page(session, self._whole, after, self._known, PAGE)
            named = await log.meters_named(session, self.account_id, [record.sequence for record in records])
        if not records:
            # Retention has passed the feed itself: no event of this stretch is left.
            self._skip(self._known)
            return
        if records[0].sequence > after + 1 and after == self.head.sequence:
            self._skip(records[0].sequence - 1)
        for record in records:
            if record.sequence == self.head.sequence + 1:
                self._hand_out(Appended(record, tuple(named[record.sequence])))

    def _skip(self, sequence: int) -> None:
        """Go on after this sequence; subscriptions that lack an event before it read the log."""
        before = self.head.sequence
        self.head.sequence = max(before, sequence)
        for groups in list(self.viewer_groups.values()):
            groups.skip(before)

    def _restart(self, stream: StreamBounds) -> None:
        """The log was replaced by a restored backup: no position in the earlier one counts any more."""
        cause = cursors.AHEAD if stream.epoch == self.head.epoch else cursors.OF_ANOTHER_LOG
        error = cursors.expired(self._runtime.services.keyring, stream, cause)
        self.head.restart(stream)
        self._known = stream.last_sequence
        for group in list(self.groups):
            group.forget_through(self.head.sequence)
            for subscription in list(group.members):
                subscription.fail(error)

    async def _read_latest(self) -> StreamBounds:
        delay = FIRST_DELAY
        async with self._latest_lock:
            # A later caller may have committed after this read's snapshot, and gets the next read.
            self._latest = None
            while True:
                try:
                    return await read_bounds(self._runtime.services.database, self.account_id)
                except Exception as error:
                    report("reading an account's stream failed, trying again", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
