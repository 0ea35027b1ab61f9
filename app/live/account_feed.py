"""One account's events in one process: heard, put in order, handed to whoever takes them.

The feed's position is the sequence of the last event it has handed out. What is announced and continues it is taken as
it is; where something is missing, the log is read.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from app.auth.actor import Actor
from app.core.outages import report
from app.events import cursors, log
from app.events.broadcast.base import RESYNC
from app.events.log import Appended
from app.events.models import Stream
from app.events.publisher import Growth, channel_of
from app.live.group import Group
from app.live.group_index import Index
from app.live.subscribed import Asked
from app.live.viewer_groups import Audience

if TYPE_CHECKING:
    from app.live.hub import Hub

# More than this at once is read from the log in pages, which lets others run in between.
TAKEN_AT_ONCE: Final = 100
PAGE: Final = 500
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 2.0

logger = structlog.get_logger(__name__)


class Feed:
    """Made for the account's first subscription in the process, and gone with the last one."""

    def __init__(self, hub: "Hub", account_id: str) -> None:
        self.hub = hub
        self.account_id = account_id
        self.users = 0
        self.position = 0
        self.epoch = ""
        self.index = Index()
        self.audiences: dict[Actor, Audience] = {}
        self.opened = asyncio.Event()
        # The highest sequence that is known to be in the log.
        self._known = 0
        self._reader: asyncio.Task[None] | None = None
        self._latest: asyncio.Task[Stream] | None = None
        self._latest_lock = asyncio.Lock()
        self._cursor = (0, "")
        # Reads the whole account's log; what each viewer may see of it is for its group to say.
        self._whole = Actor(account_id, frozenset())
        self.listening = hub.spawn(self._listen(), "feed")

    async def _listen(self) -> None:
        async with self.hub.doorbell.listen(channel_of(self.account_id)) as rings:
            stream = await self.latest()
            self.position, self.epoch = stream.last_sequence, stream.epoch
            self.opened.set()
            self.know(self._known)
            async for message in rings:
                self._hear(message)

    def _hear(self, message: str) -> None:
        if message == RESYNC:
            self.hub.look_soon()
            return
        try:
            # Of what this process has committed itself only the numbers matter.
            growth = Growth.decode(self.account_id, message, self.position)
        except ValueError:
            logger.warning("a message on an account's channel was not understood", account_id=self.account_id)
            self.hub.look_soon()
            return
        self.take(growth.events)
        self.know(growth.last)

    def take(self, events: Sequence[Appended]) -> None:
        """Committed events: those that continue the position are handed out, for the others the log is read."""
        if not events:
            return
        if self.opened.is_set() and len(events) <= TAKEN_AT_ONCE:
            for event in events:
                if event.record.sequence == self.position + 1:
                    self._hand_out(event)
        self.know(events[-1].record.sequence)

    def know(self, last: int) -> None:
        """The log reaches to this sequence at least."""
        self._known = max(self._known, last)
        if self.opened.is_set() and self._known > self.position and self._reader is None:
            self._reader = self.hub.spawn(self._read(), "feed reader")

    def check(self, stream: Stream, position: int) -> None:
        """Compare with the stream's row, which was read when the feed was at `position` or later."""
        if not self.opened.is_set():
            return
        if stream.epoch != self.epoch or stream.last_sequence < position:
            self._restart(stream)
        else:
            self.know(stream.last_sequence)

    async def latest(self) -> Stream:
        """The stream's row as of now: read after this was called, once for all who call meanwhile."""
        if self._latest is None:
            self._latest = self.hub.spawn(self._read_latest(), "feed latest")
        return await asyncio.shield(self._latest)

    def cursor(self, sequence: int) -> str:
        """The cursor of a position."""
        at, cursor = self._cursor
        if at != sequence or not cursor:
            cursor = cursors.encode(self.hub.services.keyring, self.account_id, self.epoch, sequence)
            self._cursor = (sequence, cursor)
        return cursor

    def group(self, actor: Actor, asked: Asked) -> Group:
        """The group of a viewer's subscriptions that are equal to this one."""
        audience = self.audiences.get(actor)
        if audience is None:
            audience = self.audiences[actor] = Audience(self, actor)
        return audience.group(asked)

    def left(self, audience: Audience) -> None:
        """One of the audience's subscriptions has ended."""
        if not audience.groups and self.audiences.get(audience.actor) is audience:
            del self.audiences[audience.actor]
        self.hub.release(self)

    def close(self) -> None:
        """Stop listening and reading."""
        for task in (self.listening, self._reader, self._latest):
            if task is not None:
                task.cancel()

    def _hand_out(self, event: Appended) -> None:
        self.position = event.record.sequence
        self.hub.stats.events += 1
        by_audience: dict[Audience, list[Group]] = {}
        for group in self.index.find(event):
            by_audience.setdefault(group.audience, []).append(group)
        for audience, groups in by_audience.items():
            audience.add(event, groups)

    async def _read(self) -> None:
        """Read the log to the last sequence that is known."""
        try:
            while self._known > self.position:
                if not any(group.is_wanted for group in self._groups()):
                    self._skip(self._known)
                    break
                await self._read_page()
        except Exception as error:
            # The next look at the stream starts this again.
            report("reading an account's log failed, it will be tried again", error)
        finally:
            self._reader = None

    async def _read_page(self) -> None:
        after = self.position
        async with self.hub.services.database.reading() as session:
            records = await log.page(session, self._whole, after, self._known, PAGE)
            named = await log.meters_named(session, self.account_id, [one.sequence for one in records])
        self.hub.stats.reads += 1
        if not records:
            # Retention has passed the feed itself: nothing of this stretch is left to be handed out.
            self._skip(self._known)
            return
        if records[0].sequence > after + 1 and after == self.position:
            self._skip(records[0].sequence - 1)
        for record in records:
            if record.sequence == self.position + 1:
                self._hand_out(Appended(record, tuple(named[record.sequence])))

    def _skip(self, sequence: int) -> None:
        """Go on after this sequence; whoever should have had what lies before finds out in the log."""
        before = self.position
        self.position = max(before, sequence)
        for audience in list(self.audiences.values()):
            audience.skip(before)

    def _restart(self, stream: Stream) -> None:
        """The log is another one than before, a restored backup: no position in it counts any more."""
        cause = cursors.AHEAD if stream.epoch == self.epoch else cursors.OF_ANOTHER_LOG
        error = cursors.expired(self.hub.services.keyring, stream, cause)
        self.epoch, self.position, self._known = stream.epoch, stream.last_sequence, stream.last_sequence
        self._cursor = (0, "")
        for group in self._groups():
            group.miss(self.position)
            for subscription in list(group.members):
                subscription.fail(error)

    def _groups(self) -> list[Group]:
        return [group for audience in self.audiences.values() for group in audience.groups.values()]

    async def _read_latest(self) -> Stream:
        delay = FIRST_DELAY
        async with self._latest_lock:
            # Whoever asks from now on may have committed after this read's snapshot, and gets the next one.
            self._latest = None
            while True:
                try:
                    async with self.hub.services.database.reading() as session:
                        return await log.stream(session, self.account_id)
                except Exception as error:
                    report("reading an account's stream failed, trying again", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_DELAY)
