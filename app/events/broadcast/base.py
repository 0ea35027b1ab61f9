"""What all backends share: the word RESYNC, two errors, and a bounded inbox."""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

from broadcaster import BroadcastBackend, Event

RESYNC: Final = "resync"
"""The message that says "something may have been lost: read the log"; all others are the users' own."""

INBOX_LIMIT: Final = 10_000


class DoorbellLost(Exception):
    """Not published: the broadcaster is away or did not answer in time. The next publish tries anew."""


class MessageRefused(ValueError):
    """The broadcaster can never carry this message; the sentence says why."""


def utf8(text: str) -> bytes:
    """The text as it travels; raises `MessageRefused` for what is no text."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageRefused("It holds half a character (a lone surrogate): send whole text.") from error


class Inbox:
    """Events that arrived and were not fetched: at most `limit`, then one RESYNC for each channel instead."""

    def __init__(self, channels: Collection[str], limit: int = INBOX_LIMIT) -> None:
        """`channels` is the caller's own live collection of the subscribed ones."""
        self._channels = channels
        self._limit = limit
        self._events: deque[Event] = deque()
        self._filled = asyncio.Event()

    def put(self, channel: str, message: str) -> None:
        """Add an event; for want of room all that waits becomes RESYNC, which covers this event too."""
        # The RESYNCs come on top of the limit, else they would overflow it again and again.
        if len(self._events) >= self._limit + len(self._channels):
            self._events = deque(Event(each, RESYNC) for each in self._channels)
        else:
            self._events.append(Event(channel, message))
        self._filled.set()

    async def get(self) -> Event:
        """The oldest event; waits for one."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        return self._events.popleft()


class Backend(BroadcastBackend):
    """`BroadcastBackend` with channels, an inbox and a state.

    `subscribe` and `next_published` never raise and never wait for ever; `publish` raises `DoorbellLost` or
    `MessageRefused`. A channel whose messages may have been missed gets RESYNC through `next_published`.
    """

    healthy: bool = False
    """Whether messages published now would arrive here."""

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._inbox = Inbox(self._channels)

    async def next_published(self) -> Event:
        """The next event of a subscribed channel, RESYNC included."""
        return await self._inbox.get()
