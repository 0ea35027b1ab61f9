"""The open streams of a process, over WebSocket and SSE alike: how many, whether they may go on, and their end.

One task reads all their keys anew: a credential that no longer counts ends its streams within two seconds, whatever the
broadcaster does. Another looks at the streams by the clock alone, whatever the database does: it ends those whose time
is over, tells idle ones how far they have read, and gives up peers that take nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from app.auth.authenticate import Authenticator, Credential, KeysChanged
from app.core import clock
from app.core.outages import report
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.http.rates import Rates
from app.live.hub import Hub
from app.live.stream_counts import StreamCounts

KEYS_CHANNEL: Final = "keys"
"""Carries the ids of accounts whose keys were rotated, revoked or changed."""

SHUTTING_DOWN: Final = "The server is shutting down; connect again."
TRY_AGAIN_AFTER: Final = "30"
"""Seconds."""

TRANSPORTS: Final = ("websocket", "sse")
PEER: Final = "peer"
"""Who closed a socket, where it was not us."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds."""

    # From the upgrade to `connection_init`.
    init: float = 10
    # Between two looks, at all credentials and at the streams.
    check: float = 0.75
    # Each stream is looked after once in so many looks.
    rounds: int = 4
    # For so long the database may keep the answer about the keys; then it is asked again, over another connection.
    answer: float = 5
    # After this an idle subscription is told how far it has read; the contract's 20 s less what a round takes.
    idle: float = 14
    # A peer that takes no byte for so long, with as much unsent as is ever kept, cannot keep up.
    stalled: float = 30
    # How long a socket that was told to close may take to hear of it, where only the server's buffer knows.
    close: float = 10
    # How long a deploy waits for what is under way on sockets to be answered.
    finish: float = 4
    # And then for the streams to be gone.
    drain: float = 5


class Stream(Protocol):
    """An open socket or event stream."""

    transport: str
    """One of TRANSPORTS."""

    @property
    def credential(self) -> Credential | None:
        """None before it is known who is there."""

    def forbid(self) -> None:
        """Its credential no longer counts."""

    def go_away(self) -> None:
        """The server is shutting down."""

    def look_after(self, now: float) -> None:
        """Tell how far it has read, or give it up."""


class Live:
    """One per process; what the GraphQL endpoints share."""

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
        self.counts = StreamCounts(services.settings.max_sockets)
        self.hub = hub
        self.timing = timing or Timing()
        # By our code, or PEER.
        self.closes: Counter[int | str] = Counter()
        self.is_closing = False
        self._streams: dict[Stream, int] = {}
        self._opened = 0
        self._under_way: Counter[Stream] = Counter()
        self._idle = asyncio.Event()
        self._empty = asyncio.Event()
        self._check_now = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        services.database.on_commit(self._committed)

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def by_transport(self) -> dict[str, int]:
        """How many are open of each kind."""
        counted = Counter(stream.transport for stream in self._streams)
        return {transport: counted[transport] for transport in TRANSPORTS}

    def enter(self, stream: Stream) -> None:
        """A stream is open."""
        self._opened += 1
        self._streams[stream] = self._opened
        for name, work in (("streams", self._look), ("credentials", self._check), ("keys", self._hear)):
            task = self._tasks.get(name)
            if task is None or task.done():
                self._tasks[name] = self.hub.spawn(work(), name)

    def leave(self, stream: Stream) -> None:
        """The stream has ended."""
        self._streams.pop(stream, None)
        if not self._streams:
            self._empty.set()

    @contextmanager
    def answering(self, stream: Stream) -> Iterator[None]:
        """Something is under way for the stream that a deploy waits for."""
        self._under_way[stream] += 1
        try:
            yield
        finally:
            self._under_way[stream] -= 1
            if not self._under_way[stream]:
                del self._under_way[stream]
                if self.is_closing and stream in self._streams:
                    stream.go_away()
            if not self._under_way:
                self._idle.set()

    async def close(self) -> None:
        """Tell all streams that the server goes away, those with something under way once it is answered.

        Waits for that a little, and for their end.
        """
        self.is_closing = True
        for stream in list(self._streams):
            if stream not in self._under_way:
                stream.go_away()
        try:
            async with asyncio.timeout(self.timing.finish):
                while self._under_way:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.info("operations on sockets did not end in time", sockets=len(self._under_way))
        for stream in list(self._streams):
            stream.go_away()
        try:
            async with asyncio.timeout(self.timing.drain):
                while self._streams:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            log.info("streams did not end in time", count=len(self._streams))

    def _committed(self, items: Sequence[Any]) -> None:
        for account_id in {item.account_id for item in items if isinstance(item, KeysChanged)}:
            self._check_now.set()
            self.hub.spawn(self.hub.doorbell.publish(KEYS_CHANNEL, account_id), "keys changed")

    async def _hear(self) -> None:
        async with self.hub.doorbell.listen(KEYS_CHANNEL) as rings:
            async for _ in rings:
                self.authenticator.forget()
                self._check_now.set()

    async def _look(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self.timing.check)
            turn = (turn + 1) % self.timing.rounds
            self._end_expired()
            self._look_after(turn)

    def _end_expired(self) -> None:
        at = clock.now()
        for stream in list(self._streams):
            if stream.credential is not None and stream.credential.is_over(at):
                stream.forbid()

    def _look_after(self, turn: int) -> None:
        now = self.hub.now()
        for stream, number in list(self._streams.items()):
            if number % self.timing.rounds == turn:
                stream.look_after(now)

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
                # Nobody is thrown out because the database is away; the next round asks again.
                report("checking the credentials of open streams failed", error)

    async def _check_credentials(self) -> None:
        holders: dict[Credential, list[Stream]] = {}
        for stream in self._streams:
            if stream.credential is not None:
                holders.setdefault(stream.credential, []).append(stream)
        for credential in await self.authenticator.ended(holders):
            for stream in holders[credential]:
                stream.forbid()
