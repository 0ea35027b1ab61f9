"""The open connections of a process, over WebSocket and SSE alike: their number, their credentials, their end.

One task reads all their keys and customers anew: a credential that no longer counts ends its connections within two
seconds, whatever the broadcaster does. Another task goes by the clock alone, whatever the database does: it ends
connections with an expired credential, tells idle ones how far they have read, and gives up peers that take nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from app.auth.authenticate import Authenticator, Credential, CredentialsChanged
from app.core import clock
from app.core.outages import report
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.http.rates import Rates
from app.live.connection_counts import ConnectionCounts
from app.live.hub import Hub

KEYS_CHANNEL: Final = "keys"
"""Carries the ids of accounts whose keys were rotated, revoked or changed, or whose tokens have ended."""

CREDENTIAL_ENDED: Final = "The credential has expired or was revoked"
SHUTTING_DOWN: Final = "The server is shutting down; connect again."
TRY_AGAIN_AFTER: Final = "30"
"""Seconds."""

TRANSPORTS: Final = ("websocket", "sse")
PEER: Final = "peer"
"""Stands for the code of a socket that its peer closed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds, shorter in tests, which wait for each of them."""

    # From the upgrade to `connection_init`.
    init: float = 10
    # Between two checks of all credentials, and of the connections.
    check: float = 0.75
    # Checks between two rounds of maintenance of one connection.
    rounds: int = 4
    # A read of the keys without an answer after this is given up: the next one goes over another connection.
    answer: float = 5
    # After this an idle subscription is told how far it has read; the contract's 20 s less what a round takes.
    idle: float = 14
    # A peer with a full send queue that takes no byte for this time cannot keep up.
    stalled: float = 30
    # A closed socket whose peer has not taken the close after this is given up.
    close: float = 10
    # A deploy waits this time for the operations in flight,
    finish: float = 4
    # and then this time for the connections to be gone.
    drain: float = 5


class LiveConnection(Protocol):
    """An open socket or event stream."""

    transport: str
    """A member of TRANSPORTS."""

    @property
    def credential(self) -> Credential | None:
        """None before the peer has authenticated."""

    def forbid(self) -> None:
        """End it: its credential no longer counts."""

    def go_away(self) -> None:
        """End it: the server is shutting down."""

    def maintain(self, now: float) -> None:
        """Tell the peer how far it has read, or give it up."""


class ConnectionRegistry:
    """The GraphQL endpoints of all transports share it, and find the process's parts in it."""

    def __init__(
        self,
        services: Services,
        engine: Engine,
        authenticator: Authenticator,
        rates: Rates,
        hub: Hub,
        timing: Timing | None = None,
    ) -> None:
        self.services = services
        self.engine = engine
        self.authenticator = authenticator
        self.rates = rates
        self.counts = ConnectionCounts(services.settings.max_sockets)
        self.hub = hub
        self.spawn = hub.runtime.spawn
        self.timing = timing or Timing()
        # By our code, or PEER.
        self.closes: Counter[int | str] = Counter()
        self.is_closing = False
        self._open: dict[LiveConnection, int] = {}
        self._opened = 0
        self._in_flight: Counter[LiveConnection] = Counter()
        self._idle = asyncio.Event()
        self._empty = asyncio.Event()
        self._check_now = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        services.database.on_commit(self._committed)

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def by_transport(self) -> dict[str, int]:
        """The number of open connections of each kind."""
        counted = Counter(connection.transport for connection in self._open)
        return {transport: counted[transport] for transport in TRANSPORTS}

    def add(self, connection: LiveConnection) -> None:
        """A connection is open."""
        self._opened += 1
        self._open[connection] = self._opened
        for name, work in (("streams", self._maintain), ("credentials", self._check), ("keys", self._listen)):
            task = self._tasks.get(name)
            if task is None or task.done():
                self._tasks[name] = self.spawn(work(), name)

    def remove(self, connection: LiveConnection) -> None:
        """A connection has ended."""
        self._open.pop(connection, None)
        if not self._open:
            self._empty.set()

    @contextmanager
    def in_flight(self, connection: LiveConnection) -> Iterator[None]:
        """A deploy waits for the operation inside."""
        self._in_flight[connection] += 1
        try:
            yield
        finally:
            self._in_flight[connection] -= 1
            if not self._in_flight[connection]:
                del self._in_flight[connection]
                if self.is_closing and connection in self._open:
                    connection.go_away()
            if not self._in_flight:
                self._idle.set()

    async def close(self) -> None:
        """Tell all connections that the server goes away, those with operations in flight after the last of them.

        Waits a little for the operations, and for the connections' end.
        """
        self.is_closing = True
        for connection in list(self._open):
            if connection not in self._in_flight:
                connection.go_away()
        try:
            async with asyncio.timeout(self.timing.finish):
                while self._in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.info("operations on sockets did not end in time", sockets=len(self._in_flight))
        for connection in list(self._open):
            connection.go_away()
        try:
            async with asyncio.timeout(self.timing.drain):
                while self._open:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            log.info("streams did not end in time", count=len(self._open))

    def _committed(self, items: Sequence[Any]) -> None:
        for account_id in {item.account_id for item in items if isinstance(item, CredentialsChanged)}:
            self._check_now.set()
            self.spawn(self.hub.runtime.doorbell.publish(KEYS_CHANNEL, account_id), "credentials changed")

    async def _listen(self) -> None:
        async with self.hub.runtime.doorbell.listen(KEYS_CHANNEL) as rings:
            async for _ in rings:
                self.authenticator.forget()
                self._check_now.set()

    async def _maintain(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self.timing.check)
            turn = (turn + 1) % self.timing.rounds
            at, now = clock.now(), time.monotonic()
            for connection, number in list(self._open.items()):
                credential = connection.credential
                if credential is not None and credential.is_over(at):
                    connection.forbid()
                elif number % self.timing.rounds == turn:
                    connection.maintain(now)

    async def _check(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.timing.check):
                    await self._check_now.wait()
            self._check_now.clear()
            try:
                async with asyncio.timeout(self.timing.answer):
                    await self._check_credentials()
            except Exception as error:
                # No connection ends because the database is away; the next round asks again.
                report("checking the credentials of open streams failed", error)

    async def _check_credentials(self) -> None:
        holders: dict[Credential, list[LiveConnection]] = {}
        for connection in self._open:
            if connection.credential is not None:
                holders.setdefault(connection.credential, []).append(connection)
        for credential in await self.authenticator.ended(holders):
            for connection in holders[credential]:
                connection.forbid()
