"""A backend over a link that is lost now and then: it reconnects for ever, subscribes again, and signals RESYNC.

One task owns the listening link and alone sends on it, so subscribing and leaving need no lock: they note the channels
and wake the task. A quiet link is pinged, because a peer that vanished says no farewell.
"""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Final

import structlog

from app.events.broadcast.base import RESYNC, Backend, NotPublished

DEADLINE: Final = 2.0
"""Seconds that one exchange with the broadcaster may take."""
HEARTBEAT: Final = 5.0
"""Seconds after which a quiet listening link is pinged."""
CHANNELS_AT_ONCE: Final = 500
"""Channels that are joined or left in one round trip, within one deadline."""
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 5.0

Deliver = Callable[[str, str], None]
log = structlog.get_logger(__name__)


def delays() -> Iterator[float]:
    """Seconds before each further attempt: 0.1 doubling to 5, less up to half so that peers spread out."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        delay = min(delay * 2, LAST_DELAY)


class Link(ABC):
    """A listening connection, from `open` to its end. Every method ends within the deadline or raises."""

    def __init__(self, url: str, deadline: float, deliver: Deliver, wake: Callable[[], None]) -> None:
        """`deliver(channel, message)` gets each message; `wake()` is called after `lost` was set."""
        self.url = url
        self.deadline = deadline
        self.deliver = deliver
        self.wake = wake
        self.lost: Exception | None = None

    def lose(self, error: Exception) -> None:
        """Note that the connection is gone, and wake its owner."""
        self.lost = error
        self.wake()

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def listen(self, channels: Collection[str]) -> None:
        """Join these channels, in one round trip; on return the broadcaster has confirmed all of them."""

    @abstractmethod
    async def unlisten(self, channels: Collection[str]) -> None:
        """Leave these channels, in one round trip."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the broadcaster has answered."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection in any state; never raises."""


class LinkedBackend(Backend, ABC):
    """The common half of the network backends; a subclass makes the link and publishes.

    Tests wait shorter for a silent broadcaster, or far longer, so that they notice a broken connection only.
    """

    def __init__(self, url: str, *, deadline: float = DEADLINE, heartbeat: float = HEARTBEAT) -> None:
        super().__init__()
        self.url = url
        self.deadline = deadline
        self.heartbeat = heartbeat
        self._joining: set[str] = set()
        self._leaving: set[str] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._told_lost = False
        self._publishing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def _new_link(self, deliver: Deliver, wake: Callable[[], None]) -> Link: ...

    @abstractmethod
    def _check(self, channel: str, message: str) -> None:
        """Raise `MessageRefused` for a message that can never be published."""

    @abstractmethod
    async def _send(self, channel: str, message: str) -> None:
        """Publish, after connecting if need be; may be cancelled at any point."""

    @abstractmethod
    async def _close_publisher(self) -> None: ...

    async def connect(self) -> None:
        """Start listening; returns after the first attempt, whether it succeeded or not."""
        self._task = asyncio.create_task(self._keep_linked(), name="doorbell link")
        try:
            await self._tried.wait()
        except asyncio.CancelledError:
            # Nobody calls `disconnect` after a `connect` that was cancelled.
            self._task.cancel()
            raise

    async def disconnect(self) -> None:
        while self._task is not None and not self._task.done():
            # redis-py waits with asyncio.wait_for, which on Python 3.11 may swallow a cancellation.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self.deadline):
                await self._close_publisher()

    async def subscribe(self, group: str) -> None:
        """Return when the broadcaster has confirmed; at once in an outage, after which RESYNC follows."""
        self._channels.add(group)
        self._joining.add(group)
        self._leaving.discard(group)
        self._wake.set()
        if not self.healthy:
            return
        waiter = self._waiting.setdefault(group, asyncio.get_running_loop().create_future())
        await asyncio.wait([waiter], timeout=self.deadline)
        if self._waiting.get(group) is waiter:
            del self._waiting[group]

    async def unsubscribe(self, group: str) -> None:
        self._channels.discard(group)
        self._joining.discard(group)
        self._leaving.add(group)
        self._wake.set()

    async def publish(self, channel: str, message: str) -> None:
        """Publish within the deadline, or raise `NotPublished` or `MessageRefused`."""
        self._check(channel, message)
        try:
            async with asyncio.timeout(self.deadline), self._publishing:
                await self._send(channel, message)
        # Drivers raise many kinds of errors for a broken connection, and all mean the same here.
        except Exception as error:
            raise NotPublished(_reason(error)) from error

    async def _keep_linked(self) -> None:
        waits = delays()
        while True:
            link = self._new_link(self._inbox.put, self._wake.set)
            try:
                async with asyncio.timeout(self.deadline):
                    await link.open()
                await self._serve(link)
            # Nothing may end this task: a wrong address or password may be right later.
            except Exception as error:
                if not self._told_lost:
                    self._told_lost = True
                    log.warning("doorbell_listener_lost", reason=_reason(error))
                if self.healthy:
                    waits = delays()
            finally:
                self.healthy = False
                self._release_waiting()
                await link.close()
            self._tried.set()
            await asyncio.sleep(next(waits))

    async def _serve(self, link: Link) -> None:
        self._joining, self._leaving = set(self._channels), set()
        while True:
            self._wake.clear()
            joining, self._joining = self._joining, set()
            leaving, self._leaving = self._leaving, set()
            for channels in _in_parts(leaving):
                await link.unlisten(channels)
            for channels in _in_parts(joining):
                await link.listen(channels)
                self._joined(channels)
            if not self.healthy:
                self._report_back()
            await self._pause(link)

    def _joined(self, channels: Collection[str]) -> None:
        """Confirm to the waiting subscribers; a channel that nobody waits for may have missed something: RESYNC."""
        for channel in channels:
            waiter = self._waiting.pop(channel, None)
            if waiter is not None:
                waiter.set_result(None)
            elif channel in self._channels:
                self._inbox.put(channel, RESYNC)

    def _report_back(self) -> None:
        self.healthy = True
        self._tried.set()
        if self._told_lost:
            self._told_lost = False
            log.info("doorbell_listener_back", channels=len(self._channels))

    async def _pause(self, link: Link) -> None:
        """Wait for something to do. Raises the link's error when it is lost."""
        try:
            async with asyncio.timeout(self.heartbeat):
                await self._wake.wait()
        except TimeoutError:
            await link.ping()
        if link.lost is not None:
            raise link.lost

    def _release_waiting(self) -> None:
        for waiter in self._waiting.values():
            waiter.set_result(None)
        self._waiting.clear()


def _in_parts(channels: Collection[str]) -> Iterator[list[str]]:
    names = list(channels)
    for start in range(0, len(names), CHANNELS_AT_ONCE):
        yield names[start : start + CHANNELS_AT_ONCE]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
