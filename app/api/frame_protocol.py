"""uvicorn's own WebSocket protocol, with a door to its transport for ready-made frames.

Give it to uvicorn as `ws`. Everything else stays as uvicorn does it: handshake, reading, pings, the closing handshake.
It sends the same bytes as ASGI's `send` would, without building each of them anew for every socket, and it can close a
socket whose peer takes nothing.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.http11 import Request

EXTENSION: Final = "voltwire.frames"
"""The key in the scope's extensions; its value is `{"protocol": FrameProtocol}`."""

UNRESPONSIVE: Final = 1013
LINGER: Final = 60.0
"""Seconds that a closed socket may still take to read what was sent."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """One connection. `on_writable` is called when the transport takes more after it did not."""

    on_writable: Callable[[], None] | None = None
    _abort_timer: asyncio.TimerHandle | None = None

    @property
    def buffered(self) -> int:
        """Bytes in the transport that the kernel has not taken."""
        return 0 if self.disconnected else self.transport.get_write_buffer_size()

    def write_frame(self, frame: bytes) -> bool:
        """Send a whole frame; False where it would have to wait. On a closed connection it is dropped."""
        if self.close_sent or self.disconnected:
            return True
        if not self.writable.is_set():
            return False
        self.transport.write(frame)
        return True

    def close_with(self, code: int, reason: str) -> None:
        """Close, whether or not the peer takes anything now."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._abort_timer = self.loop.call_later(LINGER, self.transport.abort)

    def handle_connect(self, event: "Request") -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = {"protocol": self}

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self.on_writable is not None:
            self.on_writable()
            self.on_writable = None

    def keepalive_timeout(self) -> None:
        """A peer that answers no ping may be a laptop that slept: with this code its client comes back."""
        self.pong_timer = None
        self.pending_ping_payload = None
        self.close_with(UNRESPONSIVE, "no answer to a ping")
        self.transport.close()

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_with(message.get("code") or 1000, message.get("reason") or "")
        else:
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                # A refusal is an answer as well; uvicorn would log it as an application that gave none.
                self.handshake_complete = True
