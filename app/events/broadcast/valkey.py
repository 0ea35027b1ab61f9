"""Valkey or Redis publish/subscribe, over `redis://` or `rediss://`."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.events.broadcast.base import utf8
from app.events.broadcast.linked import Deliver, Link, LinkedBackend


def _client(url: str) -> Redis:
    return Redis.from_url(
        url,
        # RESP2: with RESP3 the driver hands subscription messages to push handlers instead of the reader.
        protocol=2,
        # No retries: the driver would reconnect and subscribe again by itself, and nobody would learn that messages
        # are missing.
        retry=Retry(NoBackoff(), 0, supported_errors=()),
    )


class ValkeyLink(Link):
    """A connection in subscriber mode. Commands go one at a time, so replies are only counted."""

    def __init__(self, url: str, deadline: float, deliver: Deliver, wake: Callable[[], None]) -> None:
        super().__init__(url, deadline, deliver, wake)
        self._client = _client(url)
        self._pubsub: Any = self._client.pubsub()
        self._reader: asyncio.Task[None] | None = None
        self._replies = 0
        self._answered = asyncio.Event()

    async def open(self) -> None:
        await self._pubsub.connect()
        self._reader = asyncio.create_task(self._read(), name="doorbell reader")

    async def listen(self, channels: Collection[str]) -> None:
        await self._ask(len(channels), self._pubsub.subscribe, *channels)

    async def unlisten(self, channels: Collection[str]) -> None:
        await self._ask(len(channels), self._pubsub.unsubscribe, *channels)

    async def ping(self) -> None:
        await self._ask(1, self._pubsub.ping)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self.deadline):
                await self._pubsub.aclose()
                await self._client.aclose()

    async def _ask(self, replies: int, command: Callable[..., Any], *names: str) -> None:
        self._replies = replies
        self._answered.clear()
        async with asyncio.timeout(self.deadline):
            await command(*names)
            if self.lost is None:
                await self._answered.wait()
        if self.lost is not None:
            raise self.lost

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._pubsub.get_message(timeout=None))
        # Any error ends the link; its owner opens a new one.
        except Exception as error:
            self.lose(error)
            self._answered.set()

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "message":
            # A message that is not UTF-8 is not ours, and still means that something happened.
            self.deliver(message["channel"].decode(), message["data"].decode(errors="replace"))
            return
        self._replies -= 1
        if self._replies == 0:
            self._answered.set()


class ValkeyBackend(LinkedBackend):
    """Connects any number of processes over one Valkey or Redis server."""

    def __init__(self, url: str, **timing: float) -> None:
        """`timing`: `deadline` and `heartbeat` in seconds. Raises ValueError for an impossible URL."""
        super().__init__(url, **timing)
        self._publisher = _client(url)

    def _new_link(self, deliver: Deliver, wake: Callable[[], None]) -> Link:
        return ValkeyLink(self.url, self.deadline, deliver, wake)

    def _check(self, channel: str, message: str) -> None:
        _ = utf8(channel), utf8(message)

    async def _send(self, channel: str, message: str) -> None:
        await self._publisher.publish(channel, message)

    async def _close_publisher(self) -> None:
        await self._publisher.aclose()
