"""The messages that a socket still has to send: in order, bounded, and without a task for those sent at once.

`AsgiSendQueue` works with any server. `FrameSendQueue` writes to the server's own transport where it is offered, and
knows to the byte what the peer has taken. Both save the task per socket that a queue with ASGI's `send` behind it
needs: `./scripts/bench live` shows both beside an idiomatic Strawberry app, and memory per idle socket.
"""

import asyncio
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

from starlette.types import Scope, Send

from app.live.payload import Batch, Payload
from app.live.scope_extensions import FRAMES, FrameWriter
from app.live.sink import HIGH_WATER, LOW_WATER, Write
from app.live.ws.frames import batch_frames, payload_frame, payload_text, text_frame

# Codes by which servers end connections that break the protocol or fail; ASGI does not tell which side closed.
SERVER_CODES: Final = (1002, 1007, 1009, 1011, 1012)

M = TypeVar("M", str, bytes)


class SendQueue(ABC, Generic[M]):
    """Messages are sent at once or wait here. `text` and `payload` take them in any case, and tell if there is room."""

    def __init__(self) -> None:
        self.closed = False
        self.offered = 0
        self._queue: deque[M] = deque()
        self._queued = 0
        self._is_behind = False
        self._changed: asyncio.Event | None = None
        # Called when `write` may have changed.
        self.on_change: Callable[[], None] | None = None

    @abstractmethod
    def text(self, text: str) -> bool:
        """Send one message."""

    @abstractmethod
    def payload(self, prefix: str, payload: Payload) -> bool:
        """Send a shared payload as a `next` message that begins with `prefix`."""

    @abstractmethod
    def batch(self, prefix: str, batch: Batch) -> bool:
        """Send shared payloads as `next` messages."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Drop the waiting messages and close the socket; a second call does nothing."""

    @abstractmethod
    def server_closed(self, code: int) -> bool:
        """Whether the server, and not the peer, ended the connection with this code."""

    @property
    def write(self) -> Write | None:
        """Takes encoded bytes past the queue, in order with all other messages; None while that is not possible.

        Its bytes are not `offered`.
        """
        return None

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken, as far as is known."""
        return self._queued

    @property
    def taken(self) -> int:
        """Changes when the peer takes bytes, as far as is known, while it is behind."""
        return self.offered - self.unsent

    @property
    def has_room(self) -> bool:
        """Whether the peer keeps up. It is behind from `HIGH_WATER` unsent bytes until they are below `LOW_WATER`."""
        return not self._is_behind

    async def wait_for_room(self) -> None:
        """Return when the peer keeps up, or when the socket is closed."""
        while self._is_behind and not self.closed:
            await self._wait_for_change()

    async def wait_until_empty(self) -> None:
        """Return when no message waits here, which a close would drop, or when the socket is closed."""
        while self._queue and not self.closed:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        """Return when a message is taken from here, or the socket is closed."""
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        await self._changed.wait()

    def abandon(self) -> None:
        """The peer is gone."""
        self.closed = True
        self._queue.clear()
        self._queued = 0
        self._notify()

    def _offer(self, message: M) -> bool:
        if self.closed:
            return False
        self.offered += len(message)
        if self._queue or not self._write(message):
            self._queue.append(message)
            self._queued += len(message)
            self._is_behind = self._is_behind or self.unsent >= HIGH_WATER
        return not self._is_behind

    @abstractmethod
    def _write(self, message: M) -> bool:
        """Send now; False where that would have to wait."""

    def _next(self) -> M:
        message = self._queue.popleft()
        self._queued -= len(message)
        return message

    def _notify(self) -> None:
        """The peer has taken bytes, or is gone."""
        if self._is_behind and self.unsent < LOW_WATER:
            self._is_behind = False
        if self._changed is not None:
            self._changed.set()


class FrameSendQueue(SendQueue[bytes]):
    """Writes whole frames to the server's transport, as long as that takes them."""

    def __init__(self, protocol: FrameWriter) -> None:
        super().__init__()
        self._protocol = protocol
        protocol.on_writable = self._flush
        protocol.on_blocked = self._change

    @property
    def write(self) -> Write | None:
        is_free = not (self.closed or self._queue or self._is_behind) and self._protocol.is_open
        return self._protocol.transport.write if is_free else None

    @property
    def unsent(self) -> int:
        return self._queued + self._protocol.buffered

    def text(self, text: str) -> bool:
        return self._offer(text_frame(text.encode()))

    def payload(self, prefix: str, payload: Payload) -> bool:
        return self._offer(payload_frame(prefix, payload))

    def batch(self, prefix: str, batch: Batch) -> bool:
        return self._offer(batch_frames(prefix, batch))

    @property
    def taken(self) -> int:
        return self._protocol.taken

    def close(self, code: int, reason: str) -> None:
        if not self.closed:
            self.abandon()
            self._protocol.close_with(code, reason)

    def server_closed(self, code: int) -> bool:
        return self._protocol.close_sent

    def _write(self, message: bytes) -> bool:
        return self._protocol.write_frame(message)

    def _notify(self) -> None:
        super()._notify()
        self._change()

    def _change(self) -> None:
        if self._protocol.is_over and not self.closed:
            # The waiting messages would take memory until the connection is gone as well.
            self.abandon()
        elif self.on_change is not None:
            self.on_change()

    def _flush(self) -> None:
        while self._queue and self._write(self._queue[0]):
            self._next()
        self._notify()


class AsgiSendQueue(SendQueue[str]):
    """Calls ASGI's `send` without a task; only a call that has to wait gets one."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send
        self._sender: asyncio.Task[None] | None = None
        self._last: dict[str, Any] | None = None

    def text(self, text: str) -> bool:
        return self._offer(text)

    def payload(self, prefix: str, payload: Payload) -> bool:
        return self._offer(payload_text(prefix, payload))

    def batch(self, prefix: str, batch: Batch) -> bool:
        for payload in batch:
            self.payload(prefix, payload)
        return self.has_room and not self.closed

    def close(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.abandon()
        self._last = {"type": "websocket.close", "code": code, "reason": reason}
        if self._sender is None:
            self._start(self._last)

    def server_closed(self, code: int) -> bool:
        return code in SERVER_CODES

    def _write(self, message: str) -> bool:
        if self._sender is not None:
            return False
        # A started send counts as sent even where it waits: it cannot be taken back.
        self._start({"type": "websocket.send", "text": message})
        return True

    def _start(self, message: dict[str, Any]) -> None:
        sending = self._send(message)
        assert isinstance(sending, Coroutine)  # noqa: S101 - every server's send is an async function
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except Exception:
            self.abandon()
            return
        self._sender = asyncio.create_task(self._finish(sending, waits_for), name="socket send")

    async def _finish(self, sending: Coroutine[Any, Any, None], waits_for: Any) -> None:
        """Wait for the started send, then send the messages that came meanwhile."""
        try:
            await _rest(sending, waits_for)
            self._notify()
            while self._queue and not self.closed:
                await self._send({"type": "websocket.send", "text": self._next()})
                self._notify()
            if self._last is not None:
                await self._send(self._last)
        except Exception:
            self.abandon()
        finally:
            self._sender = None


@types.coroutine
def _rest(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was started outside of a task and waits."""
    while True:
        fault: BaseException | None = None
        got = None
        try:
            got = yield waits_for
        except BaseException as error:
            fault = error
        try:
            waits_for = started.send(got) if fault is None else started.throw(fault)
        except StopIteration:
            return


def send_queue_of(scope: Scope, send: Send) -> FrameSendQueue | AsgiSendQueue:
    """The better of the two that the server allows."""
    offered = scope.get("extensions", {}).get(FRAMES)
    return FrameSendQueue(offered["protocol"]) if offered else AsgiSendQueue(send)
