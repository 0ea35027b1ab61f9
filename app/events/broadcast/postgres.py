"""PostgreSQL LISTEN/NOTIFY: one connection listens, another publishes."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from app.events.broadcast.base import MessageRefused, utf8
from app.events.broadcast.linked import Deliver, Link, LinkedBackend

MESSAGE_BYTES: Final = 7_500
"""The longest message; the server itself refuses from 8,000 bytes on."""
CHANNEL_BYTES: Final = 63
"""The longest name: LISTEN would cut a longer one silently, pg_notify refuses it."""
CLOSING: Final = 0.5
"""Seconds given to a farewell before the connection is dropped."""


def wire_name(channel: str) -> str:
    """The channel's name on the server: a hash where the server does not take the name itself."""
    encoded = channel.encode()
    if 0 < len(encoded) <= CHANNEL_BYTES and b"\0" not in encoded:
        return channel
    return f"hash:{hashlib.blake2b(encoded, digest_size=24).hexdigest()}"


async def _connect(
    url: str, deadline: float, kind: type[Any] = asyncpg.Connection, **server_settings: str
) -> Any:
    settings = {"application_name": "voltwire doorbell", **server_settings}
    return await asyncpg.connect(url, timeout=deadline, connection_class=kind, server_settings=settings)


class _ListeningConnection(asyncpg.Connection):  # type: ignore[misc]
    """Calls `heard` for every notification: the driver's own listeners cost two round trips for each channel."""

    heard: Callable[[str, str], None]

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.heard(channel, payload)


async def _close(connection: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSING):
            await connection.close()
    connection.terminate()


class PostgresLink(Link):
    """A listening connection; one exchange at a time."""

    def __init__(self, url: str, deadline: float, deliver: Deliver, wake: Callable[[], None]) -> None:
        super().__init__(url, deadline, deliver, wake)
        self._connection: Any = None
        self._names: dict[str, str] = {}

    async def open(self) -> None:
        self._connection = await _connect(self.url, self.deadline, _ListeningConnection)
        self._connection.heard = self._heard
        self._connection.add_termination_listener(self._ended)

    async def listen(self, channels: Collection[str]) -> None:
        names = {wire_name(channel): channel for channel in channels}
        # Messages may arrive before the answer to LISTEN.
        self._names |= names
        await self._execute("LISTEN", names)

    async def unlisten(self, channels: Collection[str]) -> None:
        names = [wire_name(channel) for channel in channels]
        await self._execute("UNLISTEN", names)
        for name in names:
            self._names.pop(name, None)

    async def _execute(self, command: str, names: Iterable[str]) -> None:
        """The command for each name, in one round trip and one transaction."""
        quoted = (name.replace('"', '""') for name in names)
        async with asyncio.timeout(self.deadline):
            await self._connection.execute("".join(f'{command} "{name}";' for name in quoted))

    async def ping(self) -> None:
        async with asyncio.timeout(self.deadline):
            await self._connection.fetchval("SELECT 1")

    async def close(self) -> None:
        if self._connection is not None:
            await _close(self._connection)

    def _heard(self, name: str, message: str) -> None:
        # A message may still arrive after the channel was left.
        if name in self._names:
            self.deliver(self._names[name], message)

    def _ended(self, _connection: Any) -> None:
        self.lose(ConnectionError("PostgreSQL closed the listening connection"))


class PostgresBackend(LinkedBackend):
    """Connects any number of processes over their PostgreSQL database."""

    def __init__(self, url: str, **timing: float) -> None:
        """`timing`: `deadline` and `heartbeat` in seconds. Raises ValueError for an impossible URL."""
        super().__init__(url, **timing)
        _ = urlsplit(url).port
        self._publisher: Any = None

    def _new_link(self, deliver: Deliver, wake: Callable[[], None]) -> Link:
        return PostgresLink(self.url, self.deadline, deliver, wake)

    def _check(self, channel: str, message: str) -> None:
        _, encoded = utf8(channel), utf8(message)
        if len(encoded) > MESSAGE_BYTES:
            raise MessageRefused(
                f"The message has {len(encoded):,} bytes and PostgreSQL carries {MESSAGE_BYTES:,}: "
                "send its number only."
            )
        if b"\0" in encoded:
            raise MessageRefused("PostgreSQL cannot carry the character NUL: leave it out.")

    async def _send(self, channel: str, message: str) -> None:
        try:
            if self._publisher is None or self._publisher.is_closed():
                # A notification need not survive a crash of the server, so no disk is waited for.
                self._publisher = await _connect(self.url, self.deadline, synchronous_commit="off")
            await self._publisher.execute("SELECT pg_notify($1, $2)", wire_name(channel), message)
        except BaseException:
            # After a failure, or a cancellation halfway, the state of the connection is unknown.
            if self._publisher is not None:
                self._publisher.terminate()
                self._publisher = None
            raise

    async def _close_publisher(self) -> None:
        if self._publisher is not None:
            await _close(self._publisher)
