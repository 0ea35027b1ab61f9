"""A fan-out client: N graphql-transport-ws sockets, and every event timed to its first and its last socket.

Messages are counted, not parsed: the client has to be faster than the servers it measures. It speaks just enough
of RFC 6455 for that (unfragmented text, ping, close) and offers no compression.
"""

import asyncio
import base64
import gc
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.posting import Poster, Target

QUIET_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
CONNECT_AT_ONCE = 50
READ_AT_ONCE = 256
READ_SIZE = 65536
NEXT = b'"next"'


def client_frame(payload: bytes, opcode: int = 1) -> bytes:
    """A masked frame with the mask 0, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


@dataclass(frozen=True)
class Round:
    """The result of a burst of events. Times are in milliseconds from the start of the event's mutation."""

    events: int
    frames: int
    seconds: float
    bytes_per_frame: float
    first_ms: list[float]
    last_ms: list[float]

    @property
    def per_second(self) -> float:
        return self.frames / self.seconds


class Counter:
    """Shared by all sockets: which event has reached how many of them, and when."""

    def __init__(self) -> None:
        self.sockets = 0
        self.lead = b""  # how a "next" message begins, learnt from the first one
        self.failure: BaseException | None = None
        self.wake = asyncio.Event()
        self.reset(0, 0)

    def reset(self, sockets: int, events: int) -> None:
        self.sockets = sockets
        self.frames = self.bytes = self.done = 0
        self.reached = [0] * (events + 1)
        self.first = [0.0] * (events + 1)
        self.last = [0.0] * (events + 1)

    def fail(self, reason: BaseException) -> None:
        self.failure = self.failure or reason
        self.wake.set()

    def arrived(self, event: int, size: int) -> None:
        """The socket's `event`-th frame since the reset; later ones than expected are only counted."""
        self.frames += 1
        self.bytes += size
        if event >= len(self.reached) - 1:
            return
        now = time.perf_counter()
        count = self.reached[event] + 1
        self.reached[event] = count
        if count == 1:
            self.first[event] = now
        if count == self.sockets:
            self.last[event] = now
            self.done += 1
            self.wake.set()


class Socket:
    """A subscribed connection: handshake, `connection_init`, `subscribe`, then counting."""

    def __init__(self, counter: Counter, target: Target, subscribe: bytes) -> None:
        self.counter = counter
        self.target = target
        self.subscribe = subscribe
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.socket = socket.socket()
        self.upgraded = self.closing = False
        self.rest = b""
        self.frames = 0

    async def connect(self) -> None:
        self.socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.target.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def shake_hands(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.send(
            f"GET {self.target.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.target.port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n"
            f"{self.target.header_lines()}\r\n".encode()
        )

    def fail(self, reason: str) -> None:
        error = BenchError(reason)
        if not self.subscribed.done():
            self.subscribed.set_exception(error)
        elif not self.closing:
            self.counter.fail(error)

    def close(self) -> None:
        self.closing = True
        self.socket.close()

    def readable(self) -> None:
        """Take what has come. Called for every readable socket, so it does as little as it can."""
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.fail("a socket was closed by the server without a close frame")
            self.close()
            return
        if not self.upgraded:
            data = self.handshake(data)
        if self.rest:
            data = self.rest + data
            self.rest = b""
        counter, lead, at, end = self.counter, self.counter.lead, 0, len(data)
        while end - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                if end - at < 4:
                    break
                size, head = data[at + 2] << 8 | data[at + 3], 4
            elif size == 127:
                if end - at < 10:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 10]), 10
            start = at + head
            if end - start < size:
                break
            if lead and data[at] == 0x81 and data.startswith(lead, start):
                counter.arrived(self.frames, size)
                self.frames += 1
            else:
                self.other(data[at] & 0x0F, data[start : start + size])
            at = start + size
        if at < end:
            self.rest = data[at:]

    def handshake(self, data: bytes) -> bytes:
        head, found, rest = (self.rest + data).partition(b"\r\n\r\n")
        if not found:
            self.rest = head
            return b""
        self.rest = b""
        if not head.startswith(b"HTTP/1.1 101"):
            self.fail(f"no upgrade: {head.splitlines()[0].decode(errors='replace')}")
            self.close()
            return b""
        self.upgraded = True
        self.socket.send(client_frame(self.target.init))
        return rest

    def other(self, opcode: int, payload: bytes) -> None:
        """Everything but a known "next": the first "next", acknowledgement, pings, errors, close."""
        if opcode == 1 and NEXT in payload[:200]:
            self.counter.lead = payload[: payload.index(NEXT) + len(NEXT)]
            self.counter.arrived(self.frames, len(payload))
            self.frames += 1
        elif opcode == 1:
            self.message(payload)
        elif opcode == 9:
            self.socket.send(client_frame(payload, 10))
        elif opcode == 8:
            code = int.from_bytes(payload[:2]) if payload else 1005
            self.fail(f"a socket was closed with {code} {payload[2:].decode(errors='replace')}")
            self.close()

    def message(self, payload: bytes) -> None:
        message = orjson.loads(payload)
        if message["type"] == "connection_ack":
            self.socket.send(client_frame(self.subscribe))
            self.subscribed.set_result(None)
        elif message["type"] == "ping":
            self.socket.send(client_frame(b'{"type":"pong"}'))
        elif message["type"] in ("error", "complete"):
            self.fail(f"a subscription ended: {payload[:300].decode(errors='replace')}")


class Readers:
    """Reads many sockets with one callback of the loop, which is twice as fast as a protocol for each."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.by_number: dict[int, Socket] = {}
        self.poll = select.epoll()
        self.loop.add_reader(self.poll.fileno(), self.readable)

    def add(self, one: Socket) -> None:
        self.by_number[one.socket.fileno()] = one
        self.poll.register(one.socket.fileno(), select.EPOLLIN)

    def readable(self) -> None:
        by_number = self.by_number
        for number, _ in self.poll.poll(0, READ_AT_ONCE):
            by_number[number].readable()

    def close(self) -> None:
        self.loop.remove_reader(self.poll.fileno())
        self.poll.close()


class Fanout:
    """N subscribed sockets on one server, and rounds of events through them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.counter = Counter()
        self.sockets: list[Socket] = []
        self.poster = Poster(target)
        self.readers = Readers()

    async def open(self, subscribe: Sequence[bytes]) -> float:
        """Open a socket per `subscribe` message; gives the seconds until all are acknowledged."""
        gate = asyncio.Semaphore(CONNECT_AT_ONCE)

        async def subscribed(message: bytes) -> None:
            async with gate:
                one = Socket(self.counter, self.target, message)
                self.sockets.append(one)
                await one.connect()
                self.readers.add(one)
                one.shake_hands()
                try:
                    await asyncio.wait_for(one.subscribed, PATIENCE_SECONDS)
                except TimeoutError:
                    raise BenchError("a socket was not acknowledged within a minute") from None

        started = time.perf_counter()
        await asyncio.gather(*map(subscribed, subscribe))
        return time.perf_counter() - started

    async def warm_up(self, mutation: Callable[[], bytes]) -> None:
        """Fire events until every socket has had one and all is quiet.

        There is no acknowledgement of a `subscribe`, so this is what proves that all of them are in place.
        """
        started = time.perf_counter()
        self.reset(0)
        while any(one.frames == 0 for one in self.sockets):
            if time.perf_counter() - started > PATIENCE_SECONDS:
                raise BenchError("not every subscription got an event within a minute")
            await self.poster.post(mutation())
            await self.quiet()
        await self.quiet()

    async def quiet(self) -> None:
        """Return when no frame has come for a while."""
        seen = -1
        while seen != self.counter.frames:
            seen = self.counter.frames
            await asyncio.sleep(QUIET_SECONDS)
            if self.counter.failure:
                raise self.counter.failure

    def reset(self, events: int, sockets: int | None = None) -> None:
        self.counter.reset(len(self.sockets) if sockets is None else sockets, events)
        for one in self.sockets:
            one.frames = 0

    async def fire(
        self,
        events: int,
        mutation: Callable[[], bytes],
        in_flight: int = 1,
        expected_sockets: int | None = None,
    ) -> Round:
        """Fire mutations, at most `in_flight` of them not yet with their last socket; wait for all."""
        self.reset(events, expected_sockets)
        counter, sent_at = self.counter, []
        gc.collect()
        gc.disable()  # a collection in the client would be measured as the server's
        try:
            started = time.perf_counter()
            for sent in range(events):
                while sent - counter.done >= in_flight:
                    await self.woken()
                sent_at.append(time.perf_counter())
                await self.poster.post(mutation())
            while counter.done < events:
                await self.woken()
            seconds = max(counter.last[:events]) - started
        finally:
            gc.enable()
        return Round(
            events=events,
            frames=counter.frames,
            seconds=seconds,
            bytes_per_frame=counter.bytes / counter.frames,
            first_ms=[(at - begun) * 1000 for at, begun in zip(counter.first, sent_at, strict=False)],
            last_ms=[(at - begun) * 1000 for at, begun in zip(counter.last, sent_at, strict=False)],
        )

    async def all_reached(self) -> float:
        """Wait until every socket has had all events of the reset; the seconds that took."""
        started = time.perf_counter()
        while self.counter.done < len(self.counter.reached) - 1:
            await self.woken()
        return time.perf_counter() - started

    async def woken(self) -> None:
        counter = self.counter
        counter.wake.clear()
        if counter.failure:
            raise counter.failure
        try:
            await asyncio.wait_for(counter.wake.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            reached = counter.reached[counter.done] if counter.done < len(counter.reached) else 0
            raise BenchError(
                f"an event reached {reached} of {counter.sockets} sockets within {PATIENCE_SECONDS:.0f} s"
            ) from None

    def close(self) -> None:
        self.readers.close()
        for one in self.sockets:
            one.close()
        if self.poster.transport:
            self.poster.transport.close()


def subscribe_message(query: str, variables: dict[str, object] | None = None) -> bytes:
    payload: dict[str, object] = {"query": query}
    if variables:
        payload["variables"] = variables
    return orjson.dumps({"id": "1", "type": "subscribe", "payload": payload})
