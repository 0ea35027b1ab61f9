"""The doorbell: tells every process that an account's log has grown.

Messages may be lost or repeated, and after an outage each listener gets RESYNC, which means "read the log". So a lost
message costs latency, never an event, and a broadcaster that is away stops nobody.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self
from urllib.parse import urlsplit

import structlog
from broadcaster import Broadcast

from app.events.broadcast.base import RESYNC, Backend, MessageRefused, NotPublished, utf8
from app.events.broadcast.linked import delays
from app.events.broadcast.memory import MemoryBackend

QUEUE_LIMIT: Final = 1_000
"""Messages that may wait for one listener before they become one RESYNC."""
OWED_LIMIT: Final = 100_000
MESSAGES_AT_ONCE: Final = 100

log = structlog.get_logger(__name__)


class Listener:
    """The messages of one listener: at most `limit` wait, else a single RESYNC takes their place.

    One task iterates over it; the iteration ends when the listener leaves or the doorbell closes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: str) -> None:
        """Add a message. A RESYNC, from the broadcaster or for want of room, replaces all messages before it."""
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


class _Subscription:
    """The subscription of a channel at the broadcaster, shared by the process's listeners."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self.ready = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End every listener's iteration."""
        for listener in self.listeners:
            listener.close()

    def cancel(self) -> None:
        """End the subscription."""
        # Broadcast raises KeyError when it is cancelled while it subscribes; such a task ends by itself.
        if self.task is not None and self.ready.is_set():
            self.task.cancel()


class Doorbell:
    """Best-effort messages between processes: `async with Doorbell.from_url(url) as doorbell`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._broadcast = Broadcast(backend=backend)
        self._open = False
        self._subscriptions: dict[str, _Subscription] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outage = False
        self._owed: dict[str, None] = {}
        self._repaying: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> "Doorbell":
        """`memory://`, `redis://`, `rediss://` or `postgresql://`; ValueError for anything else."""
        return cls(_backend(url))

    @property
    def reaches_others(self) -> bool:
        """Whether other processes may hear it."""
        return self._backend.reaches_others

    @property
    def healthy(self) -> bool:
        """Whether messages go out and come in, as far as is known."""
        return self._open and self._backend.healthy and not self._outage

    async def __aenter__(self) -> Self:
        """Start. If the broadcaster is away, the backend looks for it until it is there."""
        await self._broadcast.connect()
        self._open = True
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop: every listener's iteration ends."""
        self._open = False
        if self._repaying is not None:
            self._repaying.cancel()
        for subscription in self._subscriptions.values():
            subscription.close()
            subscription.cancel()
        await self._broadcast.disconnect()
        # Broadcast cancels its own task without waiting for it.
        await asyncio.sleep(0)
        await asyncio.gather(*self._tasks.values(), *filter(None, [self._repaying]), return_exceptions=True)

    async def publish(self, channel: str, message: str) -> None:
        """Send the message to the channel's listeners in all processes, if it can be sent; never raises.

        RESYNC is sent where the broadcaster cannot carry the message (PostgreSQL: more than 7,500 bytes).
        It waits for two seconds at most, and not at all during an outage, after which the channel gets RESYNC.
        """
        if not self._open:
            return
        if self._outage or channel in self._owed:
            self._owe(channel)
            return
        try:
            await self._send(channel, message, RESYNC)
        except NotPublished as error:
            if not self._outage:
                self._outage = True
                log.warning("doorbell_publishing_lost", reason=str(error))
            self._owe(channel)
        except asyncio.CancelledError:
            # The caller has committed its event all the same.
            self._owe(channel)
            raise

    @contextlib.asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Listener]:
        """The channel's messages: while the broadcaster is there, those published after entering arrive.

        Any number may listen to one channel; the process subscribes once, and unsubscribes with the last of them.
        A closed doorbell yields no messages. Raises ValueError for a name that is no text.
        """
        utf8(channel)
        listener = Listener(QUEUE_LIMIT)
        if not self._open:
            listener.close()
            yield listener
            return
        subscription = self._subscriptions.get(channel) or self._subscribe(channel)
        subscription.listeners.add(listener)
        try:
            await subscription.ready.wait()
            yield listener
        finally:
            listener.close()
            subscription.listeners.discard(listener)
            if not subscription.listeners:
                self._unsubscribe(channel, subscription)

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
            # Taken off before it is sent: a message owed meanwhile may be newer than this RESYNC.
            channel = next(iter(self._owed))
            del self._owed[channel]
            try:
                await self._send(channel, RESYNC)
            except NotPublished:
                self._owe(channel)
                await asyncio.sleep(next(waits))
                continue
            waits = delays()
            if self._outage:
                self._outage = False
                log.info("doorbell_publishing_back", channels=len(self._owed) + 1)

    def _subscribe(self, channel: str) -> _Subscription:
        subscription = self._subscriptions[channel] = _Subscription()
        task = asyncio.create_task(
            self._pump(channel, subscription, self._tasks.get(channel)), name="doorbell line"
        )
        self._tasks[channel] = subscription.task = task
        task.add_done_callback(lambda _: self._forget(channel, task))
        return subscription

    def _forget(self, channel: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(channel) is task:
            del self._tasks[channel]

    def _unsubscribe(self, channel: str, subscription: _Subscription) -> None:
        if self._subscriptions.get(channel) is subscription:
            del self._subscriptions[channel]
            subscription.cancel()

    async def _pump(
        self, channel: str, subscription: _Subscription, previous: asyncio.Task[None] | None
    ) -> None:
        """Hold the process's subscription of the channel and hand its messages to the listeners."""
        # Broadcast mixes up two subscriptions of a channel, one of which ends while the other begins.
        if previous is not None:
            await asyncio.wait([previous])
        try:
            async with self._broadcast.subscribe(channel) as subscriber:
                subscription.ready.set()
                while subscription.listeners and self._open:
                    for _ in range(MESSAGES_AT_ONCE):
                        message = (await subscriber.get()).message
                        for listener in subscription.listeners:
                            listener.put(message)
                    # The listeners take their messages, else all of them would seem slow after a burst.
                    await asyncio.sleep(0)
        finally:
            if self._subscriptions.get(channel) is subscription:
                del self._subscriptions[channel]
            subscription.close()
            subscription.ready.set()


def _backend(url: str) -> Backend:
    # Only the driver in use is imported: a small installation starts faster without them.
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
