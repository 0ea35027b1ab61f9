"""uvicorn's own WebSocket protocol, with a door to its transport for ready-made frames.

Give it to uvicorn as `ws`. Everything else stays as uvicorn does it: handshake, reading, pings, the closing handshake.
It sends the same bytes as ASGI's `send` would, without building each of them anew for every socket, and it can close a
socket whose peer takes nothing.
"""

import asyncio
import logging
from asyncio.transports import BaseTransport
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.graphql.http.tcp_progress import TcpProgress, limit_unsent, tcp_progress

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

EXTENSION: Final = "voltwire.frames"
"""The key in the scope's extensions; its value is `{"protocol": FrameProtocol}`."""

CONNECTIONS_LOG: Final = logging.getLogger("uvicorn.error.connections")
"""uvicorn logs single connections by it. Below errors these lines are as many as strangers like, and hold a request's
address, where a token may be.
"""
CONNECTIONS_LOG.setLevel(logging.ERROR)

UNRESPONSIVE: Final = 1013
NOT_TEXT: Final = 1007
LINGER: Final = 60.0
"""Seconds that a closed socket may still take to read what was sent."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """One connection. `on_blocked` is called when frames can be sent no more, `on_writable` when they can again.

    Both are called as well when the connection is lost.
    """

    linger = LINGER
    on_writable: Callable[[], None] | None = None
    on_blocked: Callable[[], None] | None = None
    # Is called once, when the connection is lost.
    on_lost: Callable[[], None] | None = None
    _close_sent = False
    _abort_timer: asyncio.TimerHandle | None = None
    # Answers to the last pings of a peer that takes nothing.
    _pongs = b""
    # Where the peer was when it was last looked at, and whether it had not moved by then.
    _progress = TcpProgress(0, 0, 0)
    _was_still = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = CONNECTIONS_LOG

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        limit_unsent(transport)

    @property
    def close_sent(self) -> bool:
        """uvicorn sets it wherever it sends a close, after which nothing may follow."""
        return self._close_sent

    @close_sent.setter
    def close_sent(self, is_sent: bool) -> None:
        self._close_sent = is_sent
        if is_sent:
            self._block()

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent now."""
        return self.writable.is_set() and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether a close was sent, as an answer or by us, or the connection is lost."""
        return self.close_sent or self.disconnected or self.transport.is_closing()

    @property
    def buffered(self) -> int:
        """Bytes in the transport that the kernel has not taken."""
        return 0 if self.disconnected else self.transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Changes when the peer takes something."""
        return tcp_progress(self.transport).acked

    def write_frame(self, frame: bytes) -> bool:
        """Send a whole frame; False where it would have to wait. On a closed connection it is dropped."""
        if self.is_over:
            return True
        if not self.writable.is_set():
            return False
        self.transport.write(frame)
        return True

    def close_with(self, code: int, reason: str) -> None:
        """Close, whether or not the peer takes anything now."""
        if self.is_over:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._leave_later()
        self._abort_later()

    def handle_connect(self, event: "Request") -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = {"protocol": self}

    def handle_close(self, event: "Frame") -> None:
        super().handle_close(event)
        # It was answered, though without `close_sent`.
        self._block()
        self._abort_later()

    def handle_ping(self) -> None:
        # Of a peer that takes nothing only the last pings are answered, as RFC 6455 (5.5.3) allows.
        pongs = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pongs)
        elif pongs:
            self._pongs = pongs

    def handle_cont(self, event: "Frame") -> None:
        # Joined as they come: of pieces without content a list would grow without end.
        if not isinstance(self.frames[0], bytearray):
            self.frames = [bytearray(self.frames[0])]  # type: ignore[list-item]
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        # Text that is none is the peer's fault; uvicorn would log it as an error of ours.
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_text(self.frames[0]):
            self.frames = []
            self.conn.send_close(NOT_TEXT)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Close as the broken frame asks for; what the peer is still sending is read and dropped for a while.

        Closed with something unread, the connection would be reset, and the peer might never see the code.
        """
        if self.close_sent:
            return
        close = self.conn.close_sent
        assert close is not None  # noqa: S101 - whatever is broken was answered with one
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._abort_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._block()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pongs:
            self.transport.write(self._pongs)
            self._pongs = b""
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if hasattr(self, "scope"):
            # Else it would keep itself, with all its buffers, until garbage is looked for.
            self.scope["extensions"].pop(EXTENSION, None)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._block()
        if self.on_writable is not None:
            self.on_writable()
        self.on_writable = self.on_blocked = None
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def _block(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked()

    def _abort_later(self) -> None:
        """A transport that is closed waits for a peer that takes nothing of what was sent, and would for ever."""
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(self.linger, self.transport.abort)

    def _leave_later(self) -> None:
        self._progress = tcp_progress(self.transport)
        self.close_timer = self.loop.call_later(self.close_timeout, self._leave)

    def _leave(self) -> None:
        """Wait for a closed peer's answer no longer, unless it is still on its way to the close.

        Whatever it sends once nobody reads would reset the connection, and it would never see the code.
        """
        if tcp_progress(self.transport).differs_from(self._progress):
            self._leave_later()
        else:
            self.transport.close()

    def send_keepalive_ping(self) -> None:
        self._progress, self._was_still = tcp_progress(self.transport), False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """A peer that answers no ping may be a laptop that slept: with this code its client comes back."""
        self.pong_timer = None
        if self.is_over:
            return
        if self._is_there():
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
            return
        self.pending_ping_payload = None
        self.close_with(UNRESPONSIVE, "no answer to a ping")

    def _is_there(self) -> bool:
        """Whether a peer whose answer was not heard shows in another way that it is there.

        The ping may wait behind what a slow peer has not taken, and the answer where nobody reads while it is behind.
        """
        before, self._progress = self._progress, tcp_progress(self.transport)
        if self._progress.differs_from(before):
            self._was_still = False
            return self.read_paused or before.unacked > 0
        if self.read_paused and not self._progress.unacked:
            return True
        # One that takes nothing for a while may go on: how long it may stand still is not for a ping to say.
        was_still, self._was_still = self._was_still, True
        return not (was_still or self.writable.is_set())

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_with(message.get("code") or 1000, message.get("reason") or "")
        else:
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                # A refusal is an answer as well; uvicorn would log it as an application that gave none.
                self.handshake_complete = True


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
