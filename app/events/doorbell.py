"""The doorbell: tells every process that an account's log has grown.

The contract: messages may be lost or repeated, and after an outage each listener gets RESYNC, which says
"read the log". So a lost message costs latency, never an event, and a broadcaster that is away stops nobody.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self
from urllib.parse import urlsplit

import structlog
from broadcaster import Broadcast

from app.events.broadcast.base import RESYNC, Backend, DoorbellLost, MessageRefused, utf8
from app.events.broadcast.linked import delays
from app.events.broadcast.memory import MemoryBackend

RINGS_LIMIT: Final = 1_000
OWED_LIMIT: Final = 100_000
MESSAGES_AT_ONCE: Final = 100

log = structlog.get_logger(__name__)


class Rings:
    """What one listener has not taken yet: at most `limit` messages, else a single RESYNC in their place.

    Iterate it with one task; it ends when the listener leaves or the doorbell closes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: str) -> None:
        """Add a message. RESYNC, come from afar or put for want of room, covers all that came before it."""
        if message == RESYNC or len(self._waiting) >= self._limit:
            self._waiting.clear()
            message = RESYNC
        self._waiting.append(message)
        self._changed.set()

    def close(self) -> None:
        """End the iteration at once."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._closed:
            if self._waiting:
                return self._waiting.popleft()
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration


class _Line:
    """One channel's subscription at the broadcaster, shared by the process's listeners of it."""

    def __init__(self) -> None:
        self.rings: set[Rings] = set()
        self.ready = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End every listener's iteration."""
        for rings in self.rings:
            rings.close()

    def cancel(self) -> None:
        """End the subscription."""
        # Cancelled while it subscribes, Broadcast would raise KeyError; such a task ends by itself.
        if self.task is not None and self.ready.is_set():
            self.task.cancel()


class Doorbell:
    """Best-effort messages between processes: `async with Doorbell.from_url(url) as doorbell`."""

    def __init__(self, backend: Backend, *, rings_limit: int = RINGS_LIMIT) -> None:
        """`rings_limit`: how many messages a listener may leave untaken before they become one RESYNC."""
        self._backend = backend
        self._broadcast = Broadcast(backend=backend)
        self._rings_limit = rings_limit
        self._open = False
        self._lines: dict[str, _Line] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outage = False
        self._owed: dict[str, None] = {}
        self._repaying: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> "Doorbell":
        """`memory://`, `redis://`, `rediss://` or `postgresql://`; ValueError for anything else."""
        return cls(_backend(url))

    @property
    def healthy(self) -> bool:
        """Whether messages go out and come in, as far as is known."""
        return self._open and self._backend.healthy and not self._outage

    async def __aenter__(self) -> Self:
        """Start. A broadcaster that is away does not stop it: it is looked for until it is there."""
        await self._broadcast.connect()
        self._open = True
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop: every listener's iteration ends."""
        self._open = False
        if self._repaying is not None:
            self._repaying.cancel()
        for line in self._lines.values():
            line.close()
            line.cancel()
        await self._broadcast.disconnect()
        # Broadcast cancels its own task without waiting for it.
        await asyncio.sleep(0)
        await asyncio.gather(*self._tasks.values(), *filter(None, [self._repaying]), return_exceptions=True)

    async def publish(self, channel: str, message: str, *, instead: str = RESYNC) -> None:
        """Send the message to the channel's listeners everywhere, as far as possible; never raises.

        `instead` is sent where the broadcaster cannot carry the message (PostgreSQL: more than 7,500 bytes).
        Waits for two seconds at most; during an outage not at all, the channel gets RESYNC when it is over.
        """
        if not self._open:
            return
        if self._outage or channel in self._owed:
            self._owe(channel)
            return
        try:
            await self._send(channel, message, instead, RESYNC)
        except DoorbellLost as error:
            if not self._outage:
                self._outage = True
                log.warning("doorbell_publishing_lost", reason=str(error))
            self._owe(channel)
        except asyncio.CancelledError:
            # Whoever is cancelled between its commit and the end of this has still made an event.
            self._owe(channel)
            raise

    @contextlib.asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Rings]:
        """The channel's messages from now on: what is published after entering arrives, while all is well.

        Any number may listen to one channel; the process subscribes once, and leaves with the last of them.
        After the doorbell has closed there are none. Raises ValueError for a name that is no text.
        """
        utf8(channel)
        rings = Rings(self._rings_limit)
        if not self._open:
            rings.close()
            yield rings
            return
        line = self._lines.get(channel) or self._start_line(channel)
        line.rings.add(rings)
        try:
            await line.ready.wait()
            yield rings
        finally:
            rings.close()
            line.rings.discard(rings)
            if not line.rings:
                self._stop_line(channel, line)

    async def _send(self, channel: str, *messages: str) -> None:
        """Publish the first of the messages that the broadcaster can carry."""
        for message in messages:
            with contextlib.suppress(MessageRefused):
                await self._broadcast.publish(channel, message)
                return

    def _owe(self, channel: str) -> None:
        """Remember that this channel's listeners need a RESYNC."""
        # Beyond the limit they find the event by their slow poll of the log.
        if not self._open or len(self._owed) >= OWED_LIMIT:
            return
        self._owed[channel] = None
        if self._repaying is None or self._repaying.done():
            self._repaying = asyncio.create_task(self._repay(), name="doorbell repay")

    async def _repay(self) -> None:
        waits = delays()
        while self._owed:
            # Taken off before it is paid: what is owed meanwhile may be newer than this RESYNC.
            channel = next(iter(self._owed))
            del self._owed[channel]
            try:
                await self._send(channel, RESYNC)
            except DoorbellLost:
                self._owe(channel)
                await asyncio.sleep(next(waits))
                continue
            waits = delays()
            if self._outage:
                self._outage = False
                log.info("doorbell_publishing_back", channels=len(self._owed) + 1)

    def _start_line(self, channel: str) -> _Line:
        line = self._lines[channel] = _Line()
        task = asyncio.create_task(self._pump(channel, line, self._tasks.get(channel)), name="doorbell line")
        self._tasks[channel] = line.task = task
        task.add_done_callback(lambda _: self._forget(channel, task))
        return line

    def _forget(self, channel: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(channel) is task:
            del self._tasks[channel]

    def _stop_line(self, channel: str, line: _Line) -> None:
        if self._lines.get(channel) is line:
            del self._lines[channel]
            line.cancel()

    async def _pump(self, channel: str, line: _Line, previous: asyncio.Task[None] | None) -> None:
        """Hold the one subscription of the channel and hand its messages out."""
        # Broadcast mixes up a subscription that ends and one that begins: one at a time.
        if previous is not None:
            await asyncio.wait([previous])
        try:
            async with self._broadcast.subscribe(channel) as subscriber:
                line.ready.set()
                while line.rings and self._open:
                    for _ in range(MESSAGES_AT_ONCE):
                        message = (await subscriber.get()).message
                        for rings in line.rings:
                            rings.put(message)
                    # The listeners take what they have, else after a burst all would seem to be slow.
                    await asyncio.sleep(0)
        finally:
            if self._lines.get(channel) is line:
                del self._lines[channel]
            line.close()
            line.ready.set()


def _backend(url: str) -> Backend:
    # The drivers are imported where they are needed: a small installation starts faster without them.
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryBackend()
    if scheme in ("redis", "rediss"):
        from app.events.broadcast.valkey import ValkeyBackend

        return ValkeyBackend(url)
    if scheme == "postgresql":
        from app.events.broadcast.postgres import PostgresBackend

        return PostgresBackend(url)
    raise ValueError(f"Voltwire cannot broadcast over {scheme}://; use memory, redis, rediss or postgresql.")
