"""uvicorn's WebSocket protocol with a writer for ready-made frames: the `ws` of uvicorn's configuration.

One frame is built for all sockets of a group (see `./scripts/bench live`), and a socket whose peer takes nothing can be
closed (see `./scripts/bench hostile`). It leans on internals of uvicorn 0.54 and websockets 17.
"""

import asyncio
import logging
from asyncio.transports import BaseTransport
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN, Protocol

from app.graphql.http.tcp_progress import TcpProgress, limit_unsent, tcp_progress
from app.live.scope_extensions import FRAMES
from app.server.upgrade import Upgrade

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, WebSocketScope
    from websockets.frames import Frame
    from websockets.http11 import Request

CONNECTIONS_LOG: Final = logging.getLogger("uvicorn.error.connections")
"""uvicorn's log of single connections. Strangers could fill it below errors, with addresses that may contain tokens."""
CONNECTIONS_LOG.setLevel(logging.ERROR)

UNRESPONSIVE: Final = 1013
NOT_TEXT: Final = 1007
LINGER: Final = 60.0
"""Seconds that the peer of a closed socket may take to read the unsent bytes."""


READ_AT_ONCE: Final = 8 * 1024
"""Bytes of input between two turns of the event loop: they may be a thousand frames."""
UNREADABLE: Final = b"The upgrade must be a GET request without a body, with lines of 8 KB at most.\n"


class FrameProtocol(WebSocketsSansIOProtocol):
    """A connection. `on_blocked` is called when frames can be sent no more, `on_writable` when they can again.

    Both are called as well when the connection is lost.
    """

    linger = LINGER
    on_writable: Callable[[], None] | None = None
    on_blocked: Callable[[], None] | None = None
    on_lost: Callable[[], None] | None = None
    """Is called once, when the connection is lost."""
    # A request that was read already, until it is accepted.
    _upgrade: Upgrade | None = None
    _close_sent = False
    _abort_timer: asyncio.TimerHandle | None = None
    # The answers to the last pings of a peer that takes nothing.
    _pongs = b""
    # The peer's progress at the last check, and whether there was none since the one before.
    _progress = TcpProgress(0, 0, 0)
    _made_no_progress = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = CONNECTIONS_LOG
        # Input that waits for the next turn of the loop, or for the application; nothing is read meanwhile.
        self._unread = b""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        limit_unsent(transport)

    def take_over(self, http: HttpToolsProtocol, upgrade: Upgrade) -> None:
        """Goes on with the connection of an HTTP protocol, which has read the request."""
        self.connections.add(self)
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        limit_unsent(self.transport)
        self._upgrade = upgrade
        self.handshake_initiated = True
        # websockets goes on behind the request.
        self.conn.parser = Protocol.parse(self.conn)
        next(self.conn.parser)
        root = self.root_path
        self.scope: WebSocketScope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": root,
            "path": root + unquote(upgrade.path),
            "raw_path": (root + upgrade.path).encode("ascii"),
            "query_string": upgrade.query,
            "headers": upgrade.headers,
            "subprotocols": upgrade.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}, FRAMES: {"protocol": self}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def data_received(self, data: bytes) -> None:
        if self._unread:
            # Read before reading was paused.
            self._unread += data
        elif self.handshake_initiated and len(data) > READ_AT_ONCE:
            self._unread = data
            self.transport.pause_reading()
            self._read_on()
        else:
            super().data_received(data)
            if not self.handshake_initiated:
                self._refuse_upgrade()

    def _read_on(self) -> None:
        """Takes the next part of the unread input, unless the application still has a message to take."""
        if self.disconnected or self.read_paused:
            # uvicorn reads nothing while the application has a message to take, after which `receive` goes on.
            return
        if self.conn.parser_exc is not None:
            # Left unread, what comes behind would reset the connection, and the peer would not see why it is closed.
            self._unread = b""
            self._resume_reading()
            return
        part, self._unread = self._unread[:READ_AT_ONCE], self._unread[READ_AT_ONCE:]
        super().data_received(part)
        if self._unread:
            self.loop.call_soon(self._read_on)
        elif not self.read_paused:
            self._resume_reading()

    def _resume_reading(self) -> None:
        # A transport that is closed refuses it.
        if not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> "ASGIReceiveEvent":
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self._unread:
                self.loop.call_soon(self._read_on)
            else:
                self._resume_reading()
        return message

    def _refuse_upgrade(self) -> None:
        """Answers a request that websockets cannot read, which uvicorn would leave open without an answer."""
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(UNREADABLE)
        )
        self.handshake_complete = self.close_sent = True
        self.transport.write(head + UNREADABLE)
        self._abort_later()
        self.transport.close()

    @property
    def close_sent(self) -> bool:
        """Whether a close was sent, after which nothing may follow; uvicorn sets it."""
        return self._close_sent

    @close_sent.setter
    def close_sent(self, is_sent: bool) -> None:
        self._close_sent = is_sent
        if is_sent:
            self._notify_blocked()

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
        """Sends a whole frame; False where it would have to wait. A closed connection drops it."""
        if self.is_over:
            return True
        if not self.writable.is_set():
            return False
        self.transport.write(frame)
        return True

    def close_with(self, code: int, reason: str) -> None:
        """Closes, whether or not the peer takes anything now."""
        if self.is_over:
            return
        self.conn.send_close(code, reason)
        self._end(code, reason)
        self._close_later()

    def handle_connect(self, event: "Request") -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[FRAMES] = {"protocol": self}

    def handle_close(self, event: "Frame") -> None:
        super().handle_close(event)
        # uvicorn has answered it without setting `close_sent`.
        self._notify_blocked()
        self._abort_later()

    def handle_ping(self) -> None:
        # A peer that takes nothing gets answers to its last pings only, as RFC 6455 (5.5.3) allows.
        pongs = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pongs)
        elif pongs:
            self._pongs = pongs

    def handle_cont(self, event: "Frame") -> None:
        # Fragments are joined at once: a list of empty ones would grow without end.
        if not isinstance(self.frames[0], bytearray):
            self.frames = [bytearray(self.frames[0])]  # type: ignore[list-item]
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        # Invalid UTF-8 is the peer's fault; uvicorn would log it as an error of the server.
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_text(self.frames[0]):
            self.frames = []
            self.conn.send_close(NOT_TEXT)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Closes with the code for the broken frame, then reads and drops the peer's input for a while.

        Closing with unread input would reset the connection, and the peer might never see the code.
        """
        if self.close_sent:
            return
        close = self.conn.close_sent
        assert close is not None  # noqa: S101 - whatever is broken was answered with one
        self._end(close.code, close.reason)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def _end(self, code: int, reason: str) -> None:
        """Sends the close that websockets has made, tells the application, and reads on for the peer's answer."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._abort_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._notify_blocked()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pongs:
            self.transport.write(self._pongs)
            self._pongs = b""
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        super().connection_lost(exc)
        if hasattr(self, "scope"):
            # This reference to itself would keep the object, with all its buffers, until the next garbage collection.
            self.scope["extensions"].pop(FRAMES, None)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._notify_blocked()
        if self.on_writable is not None:
            self.on_writable()
        self.on_writable = self.on_blocked = None
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def _notify_blocked(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked()

    def _abort_later(self) -> None:
        """Aborts after a while: a closed transport would wait for ever for a peer that takes nothing."""
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(self.linger, self.transport.abort)

    def _close_later(self) -> None:
        self._progress = tcp_progress(self.transport)
        self.close_timer = self.loop.call_later(self.close_timeout, self._close_unless_moving)

    def _close_unless_moving(self) -> None:
        """Ends the wait for a peer's answer to the close, unless it still makes progress towards it.

        Input after the end of reading would reset the connection, and the peer would never see the code.
        """
        if tcp_progress(self.transport).differs_from(self._progress):
            self._close_later()
        else:
            self.transport.close()

    def send_keepalive_ping(self) -> None:
        self._progress, self._made_no_progress = tcp_progress(self.transport), False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Closes with a code after which clients reconnect: the peer may be a laptop that slept."""
        self.pong_timer = None
        if self.is_over:
            return
        if self._shows_life():
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
            return
        self.pending_ping_payload = None
        self.close_with(UNRESPONSIVE, "no answer to a ping")

    def _shows_life(self) -> bool:
        """Whether a peer that has not answered a ping shows signs of life.

        The ping may wait behind bytes that a slow peer has not taken, and its answer in input that is not read yet.
        """
        before, self._progress = self._progress, tcp_progress(self.transport)
        if self._progress.differs_from(before):
            self._made_no_progress = False
            return self.read_paused or before.unacked > 0
        if self.read_paused and not self._progress.unacked:
            return True
        # A peer with unsent bytes may pause once; the send queue, not the ping, limits how long.
        had_made_none, self._made_no_progress = self._made_no_progress, True
        return not (had_made_none or self.writable.is_set())

    def _switch(
        self, upgrade: Upgrade, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Accepts the connection, with the same bytes as uvicorn."""
        if self.disconnected:
            raise ClientDisconnected
        if self.transport.is_closing():
            return
        fields = [(name.lower(), value) for name, value in (*self.default_headers, *headers)]
        if subprotocol:
            fields.append((b"Sec-WebSocket-Protocol", subprotocol.encode()))
        self.handshake_complete, self._upgrade = True, None
        self.conn.state = OPEN
        self.transport.write(upgrade.answer(fields))
        self.start_keepalive()

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.close_with(message.get("code") or 1000, message.get("reason") or "")
        elif message["type"] == "websocket.accept" and self._upgrade is not None:
            self._switch(self._upgrade, message.get("subprotocol"), message.get("headers", ()))
        else:
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                # uvicorn would log a refused upgrade as an application that gave no answer.
                self.handshake_complete = True


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
