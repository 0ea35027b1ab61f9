"""What a socket still has to send: in order, bounded, and without a task for what can be sent at once.

Two kinds: `AsgiOutbox` for any server, and `FrameOutbox` over the server's own transport where it is offered (see
`scope_extensions`), which is faster and knows to the byte what the peer has taken.
"""

import asyncio
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

from starlette.types import Scope, Send

from app.live.frames import payload_text, text_frame
from app.live.payload import FRAMES_KEPT, Batch, Payload, Write
from app.live.scope_extensions import FRAMES, FrameWriter

FULL: Final = 1024 * 1024
"""Unsent bytes from which on a consumer is behind: what is more stays in the log until it has taken some of them."""
ROOM: Final = FULL // 2
"""Unsent bytes below which it has caught up."""
# For what breaks the protocol, and for what is broken itself; ASGI does not tell whose they are.
SERVERS_CODES: Final = (1002, 1007, 1009, 1011, 1012)

M = TypeVar("M")


class Outbox(ABC, Generic[M]):
    """Messages go out at once, or wait here; `text` and `payload` take them in any case and tell if there is room."""

    def __init__(self) -> None:
        self.closed = False
        self.offered = 0
        self._queue: deque[tuple[M, int]] = deque()
        self._queued = 0
        self._is_behind = False
        self._changed: asyncio.Event | None = None
        # Is called when `write` may be another.
        self.on_change: Callable[[], None] | None = None

    @abstractmethod
    def text(self, text: str) -> bool:
        """Send one message."""

    @abstractmethod
    def payload(self, lead: str, payload: Payload) -> bool:
        """Send a shared payload as a `next` message that begins with `lead`."""

    @abstractmethod
    def batch(self, lead: str, batch: Batch) -> bool:
        """The same for several payloads."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Drop what waits and close the socket; once."""

    @abstractmethod
    def server_closed(self, code: int) -> bool:
        """Whether it was the server itself, and not the peer, that ended the connection with this code."""

    @property
    def write(self) -> Write | None:
        """Where ready-made bytes can be sent past the outbox, in order with all else; None while they cannot.

        What goes there is not `offered`.
        """
        return None

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken, as far as is known."""
        return self._queued

    @property
    def taken(self) -> int:
        """Changes when the peer takes something, as far as is known, while it is behind."""
        return self.offered - self.unsent

    @property
    def has_room(self) -> bool:
        """Whether the peer keeps up: it is behind from `FULL` unsent bytes on, until they are fewer than `ROOM`."""
        return not self._is_behind

    async def room(self) -> None:
        """Return when the peer keeps up, or when the socket is closed."""
        while self._is_behind and not self.closed:
            await self._moved()

    async def emptied(self) -> None:
        """Return when nothing waits here any more, which a close would drop, or when the socket is closed."""
        while self._queue and not self.closed:
            await self._moved()

    async def _moved(self) -> None:
        """Until something is taken from here, or the socket is closed."""
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        await self._changed.wait()

    def lose(self) -> None:
        """The peer is gone."""
        self.closed = True
        self._queue.clear()
        self._queued = 0
        self._tell()

    def _offer(self, message: M, size: int) -> bool:
        if self.closed:
            return False
        self.offered += size
        if self._queue or not self._write(message):
            self._queue.append((message, size))
            self._queued += size
            self._is_behind = self._is_behind or self.unsent >= FULL
        return not self._is_behind

    @abstractmethod
    def _write(self, message: M) -> bool:
        """Send now, or answer False where that would have to wait."""

    def _next(self) -> M:
        message, size = self._queue.popleft()
        self._queued -= size
        return message

    def _tell(self) -> None:
        """The peer has taken something."""
        if self._is_behind and self.unsent < ROOM:
            self._is_behind = False
        if self._changed is not None:
            self._changed.set()


class FrameOutbox(Outbox[bytes]):
    """Ready-made frames into the server's transport, as long as that takes them."""

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
        frame = text_frame(text.encode())
        return self._offer(frame, len(frame))

    def payload(self, lead: str, payload: Payload) -> bool:
        frame = _frame(lead, payload)
        return self._offer(frame, len(frame))

    def batch(self, lead: str, batch: Batch) -> bool:
        frames = frames_of(lead, batch)
        return self._offer(frames, len(frames))

    @property
    def taken(self) -> int:
        return self._protocol.taken

    def close(self, code: int, reason: str) -> None:
        if not self.closed:
            self.lose()
            self._protocol.close_with(code, reason)

    def server_closed(self, code: int) -> bool:
        return self._protocol.close_sent

    def _write(self, message: bytes) -> bool:
        return self._protocol.write_frame(message)

    def _tell(self) -> None:
        super()._tell()
        self._change()

    def _change(self) -> None:
        if self._protocol.is_over and not self.closed:
            # What waits would be kept until the connection is gone as well.
            self.lose()
        elif self.on_change is not None:
            self.on_change()

    def _flush(self) -> None:
        while self._queue and self._write(self._queue[0][0]):
            self._next()
        self._tell()


def frames_of(lead: str, batch: Batch) -> bytes:
    """The messages of a batch as they go over the wire."""
    frames: bytes | None = batch.frames.get(lead)
    if frames is None:
        frames = b"".join([_frame(lead, payload) for payload in batch])
        if len(batch.frames) < FRAMES_KEPT:
            batch.frames[lead] = frames
    return frames


def _frame(lead: str, payload: Payload) -> bytes:
    frame: bytes | None = payload.frames.get(lead)
    if frame is None:
        frame = text_frame(b"".join((lead.encode(), payload.body, b"}")))
        payload.keep(lead, frame)
    return frame


class AsgiOutbox(Outbox[str]):
    """ASGI's `send`, started without a task; only one that has to wait gets one."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send
        self._sender: asyncio.Task[None] | None = None
        self._last: dict[str, Any] | None = None

    def text(self, text: str) -> bool:
        return self._offer(text, len(text))

    def payload(self, lead: str, payload: Payload) -> bool:
        text = payload_text(lead, payload)
        return self._offer(text, len(text))

    def batch(self, lead: str, batch: Batch) -> bool:
        for payload in batch:
            self.payload(lead, payload)
        return self.has_room and not self.closed

    def close(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.lose()
        self._last = {"type": "websocket.close", "code": code, "reason": reason}
        if self._sender is None:
            self._start(self._last)

    def server_closed(self, code: int) -> bool:
        return code in SERVERS_CODES

    def _write(self, message: str) -> bool:
        if self._sender is not None:
            return False
        # What has been started counts as sent even where it waits: it cannot be taken back.
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
            self.lose()
            return
        self._sender = asyncio.create_task(self._finish(sending, waits_for), name="socket send")

    async def _finish(self, sending: Coroutine[Any, Any, None], waits_for: Any) -> None:
        """Wait for the started send, and then for those that came meanwhile."""
        try:
            await _rest(sending, waits_for)
            self._tell()
            while self._queue and not self.closed:
                await self._send({"type": "websocket.send", "text": self._next()})
                self._tell()
            if self._last is not None:
                await self._send(self._last)
        except Exception:
            self.lose()
        finally:
            self._sender = None


@types.coroutine
def _rest(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was started outside of a task and waits for something."""
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


def outbox_of(scope: Scope, send: Send) -> FrameOutbox | AsgiOutbox:
    """The better of the two that the server allows."""
    offered = scope.get("extensions", {}).get(FRAMES)
    return FrameOutbox(offered["protocol"]) if offered else AsgiOutbox(send)
