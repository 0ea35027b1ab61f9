"""Connections to receivers: made to checked addresses only, and kept for a while after an exchange.

Own code, since the guard must see the very address that is connected to. `./scripts/bench delivery` shows the speed.
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple, Self

from app.outbound.http.connection import (
    HttpConnection,
    NameUnknown,
    NotConnected,
    NotEncrypted,
    reason_of,
)
from app.outbound.http.ssrf_guard import (
    AddressRefused,
    GuardedResolver,
    Lookup,
    Networks,
    UrlRefused,
    check_host,
    is_allowed,
    parse_url,
)
from app.outbound.text import quotable

NAMES_KEPT_SECONDS = 5
"""Seconds that a name's checked addresses are kept. Connections go to these addresses, so the guard still holds."""

MOST_NAMES, NAME_WEIGHT = 5_000, 1500
KEEPALIVE_SECONDS = 15
NEXT_ADDRESS_AFTER = 0.25
"""Seconds until a name's next address is tried beside one that does not answer (RFC 8305)."""


class RequestUrl(NamedTuple):
    """A URL's parts, as requests and connections need them."""

    host: str
    port: int
    is_encrypted: bool
    # The request's Host header and its target.
    authority: str
    target: str

    @classmethod
    def of(cls, url: str, allow_networks: Networks) -> Self:
        """Raises UrlRefused, also for an address that is not allowed."""
        parsed = parse_url(url)
        host = parsed.raw_host or ""
        check_host(host, allow_networks)
        return cls(
            host,
            parsed.port or 0,
            parsed.scheme == "https",
            parsed.host_port_subcomponent or "",
            parsed.raw_path_qs,
        )

    @property
    def origin(self) -> tuple[str, int, bool]:
        return self[:3]


class Pool:
    """Idle connections by origin, of the loop that it is made in.

    Unbounded: the senders have a cap for each receiver.
    """

    def __init__(
        self,
        allow_networks: Networks = (),
        ssl_context: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
        keepalive: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._allow = allow_networks
        self._keepalive = keepalive
        self._ssl_context = ssl_context or ssl.create_default_context()
        self._resolver = GuardedResolver(allow_networks, lookup)
        # Lookups that are under way or that ended well just now.
        self._asking: dict[str, asyncio.Task[list[str]]] = {}
        self._all: set[HttpConnection] = set()
        self._idle: defaultdict[tuple[str, int, bool], list[HttpConnection]] = defaultdict(list)
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, url: RequestUrl) -> HttpConnection | None:
        """The idle connection that was used last, which is the least likely to have been closed."""
        idle = self._idle.get(url.origin)
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    def keep(self, url: RequestUrl, connection: HttpConnection) -> None:
        """Make the connection available for the next exchange."""
        connection.idle_since = self._loop.time()
        self._idle[url.origin].append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keepalive, self._close_old)

    async def connect(self, url: RequestUrl) -> HttpConnection:
        """A new connection. Raises NotConnected or AddressRefused."""
        try:
            opened = await self._reach(url)
        except (UrlRefused, TimeoutError):
            raise
        except (OSError, ValueError) as error:
            raise NotConnected(f"No connection to {url.host} port {url.port}: {reason_of(error)}.") from error
        try:
            return await self._speak(url, opened)
        except BaseException:
            opened.close()
            raise

    async def aclose(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.close()

    # Names and addresses

    async def _addresses(self, host: str) -> Sequence[str]:
        """All addresses of the host. Raises NameUnknown, or AddressRefused if one is not allowed."""
        if _is_address(host):
            return [host]
        asking = self._asking.get(host)
        if asking is None:
            if len(self._asking) >= MOST_NAMES:
                self._asking.clear()
            asking = self._asking[host] = self._loop.create_task(self._resolver.resolve(host))
            asking.add_done_callback(partial(self._remember, host))
        try:
            # Others may wait for the same lookup.
            return await asyncio.shield(asking)
        except OSError as error:
            raise NameUnknown(f"The name {host} could not be resolved.") from error

    def _remember(self, host: str, asking: asyncio.Task[list[str]]) -> None:
        def forget() -> None:
            if self._asking.get(host) is asking:
                del self._asking[host]

        if asking.cancelled() or asking.exception() is not None:
            forget()
        else:
            self._loop.call_later(NAMES_KEPT_SECONDS, forget)

    # Sockets

    async def _reach(self, url: RequestUrl) -> socket.socket:
        """A connected socket. Addresses are tried one after the other, and beside each other if one is slow."""
        left = list(await self._addresses(url.host))
        running: set[asyncio.Task[socket.socket]] = set()
        failure: BaseException | None = None
        try:
            while left or running:
                if left:
                    running.add(self._loop.create_task(self._dial(left.pop(0), url.port)))
                done, running = await asyncio.wait(
                    running,
                    timeout=NEXT_ADDRESS_AFTER if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if (failure := task.exception()) is None:
                        running |= done - {task}
                        return task.result()
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_close_unused)
        raise failure or OSError("no address")

    async def _dial(self, address: str, port: int) -> socket.socket:
        opened = open_socket(address, self._allow)
        try:
            await self._loop.sock_connect(opened, (address, port))
        except BaseException:
            opened.close()
            raise
        return opened

    async def _speak(self, url: RequestUrl, opened: socket.socket) -> HttpConnection:
        """The connection over this socket, encrypted for https."""
        make = partial(HttpConnection, self._forget)
        try:
            if url.is_encrypted:
                name = url.host.rstrip(".")
                _, connection = await self._loop.create_connection(
                    make, sock=opened, ssl=self._ssl_context, server_hostname=name
                )
            else:
                _, connection = await self._loop.create_connection(make, sock=opened)
        except ssl.SSLCertVerificationError as error:
            reason = quotable(error.verify_message or "it is not valid")
            raise NotEncrypted(f"The certificate of {url.host} was refused: {reason}.") from error
        except ssl.SSLError as error:
            raise NotEncrypted(f"No encrypted connection could be made: {reason_of(error)}.") from error
        except OSError as error:
            raise NotConnected(f"No connection to {url.host} port {url.port}: {reason_of(error)}.") from error
        self._all.add(connection)
        return connection

    def _forget(self, connection: HttpConnection) -> None:
        self._all.discard(connection)

    def _close_old(self) -> None:
        """Close connections idle for too long, and look again while there are idle ones."""
        oldest = self._loop.time() - self._keepalive
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest:
                    connection.close()
            self._idle[origin] = [one for one in idle if one.is_open]
            if not self._idle[origin]:
                del self._idle[origin]
        self._sweep = self._loop.call_later(self._keepalive / 3, self._close_old) if self._idle else None


def open_socket(address: str, allow_networks: Networks) -> socket.socket:
    """A socket for this address, which is checked just before it is connected to. Raises AddressRefused."""
    if not is_allowed(address, allow_networks):
        raise AddressRefused(f"{address} is not an address that webhooks may reach.")
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    return opened


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _close_unused(task: asyncio.Task[socket.socket]) -> None:
    """Close a socket that was connected too late to be needed."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
