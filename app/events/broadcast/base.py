"""The common part of all backends: RESYNC, two errors, and a bounded inbox."""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

from broadcaster import BroadcastBackend, Event

RESYNC: Final = "resync"
"""The message that means "something may have been lost: read the log"."""

INBOX_LIMIT: Final = 10_000


class NotPublished(Exception):
    """The broadcaster is away or did not answer in time. The next publish tries anew."""


class MessageRefused(ValueError):
    """The broadcaster can never carry this message; the sentence says why."""


def utf8(text: str) -> bytes:
    """The text as UTF-8. Raises `MessageRefused` for half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageRefused("It holds half a character (a lone surrogate): send whole text.") from error


class Inbox:
    """Events that wait to be fetched: at most `limit`, then one RESYNC for each channel instead."""

    def __init__(self, channels: Collection[str], limit: int = INBOX_LIMIT) -> None:
        """`channels` is the caller's live collection of the subscribed channels."""
        self._channels = channels
        self._limit = limit
        self._events: deque[Event] = deque()
        self._filled = asyncio.Event()

    def put(self, channel: str, message: str) -> None:
        """Add an event; for want of room all waiting events become RESYNC, which covers this event too."""
        # The RESYNCs are not counted, else they would overflow the inbox again and again.
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

    `subscribe` and `next_published` never raise and never hang; `publish` raises `NotPublished` or `MessageRefused`.
    `next_published` yields RESYNC for a channel whose messages may have been missed.
    """

    healthy: bool = False
    """Whether messages published now would arrive here."""
    reaches_others: bool = True
    """Whether other processes may hear them."""

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._inbox = Inbox(self._channels)

    async def next_published(self) -> Event:
        """The next event of a subscribed channel, RESYNC included."""
        return await self._inbox.get()
