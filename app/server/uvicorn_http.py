"""uvicorn's own HTTP protocol, with an end to its patience and to what it keeps for a client.

Give it to uvicorn as `http`. uvicorn would wait for the end of a request for ever, keep a head and trailers of any
length, keep a connection whose request never ends after it was answered, and wait for ever for a client that takes
nothing of its answer. Between two requests it closes by itself.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.graphql.http.tcp_progress import StallTimer, tcp_progress
from app.server.connections import Connections, Full
from app.server.uvicorn_websockets import FrameProtocol

EXTENSION: Final = "voltwire.transport"
"""The key in the scope's extensions; its value is `{"transport": Transport}`, to see what the peer has taken."""

HEAD_SECONDS: Final = 10.0
"""From the connection, or the first byte of a later request, to the end of its headers."""

STALLED: Final = 20.0
"""Seconds that a request has from its headers to its end, however short it is."""

SLOWEST: Final = 1024
"""Bytes of a body that earn the request one more second: a client that sends more slowly on average is given up."""

LONGEST: Final = 3600.0
"""Seconds from the headers of a request to its end, in any case."""

UNTAKEN: Final = 30.0
"""Seconds after which a client is given up that takes nothing of what it was sent."""

LINGER: Final = 5.0
"""Seconds that a client may go on sending a request which was answered before its end, to come to read the answer."""

LINGER_BYTES: Final = 64 * 1024 * 1024
"""Bytes that it may send meanwhile. They are dropped."""

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and headers."""

MAX_HEADERS: Final = 100

MAX_FRAMING: Final = 16 * 1024
"""Bytes of trailers, chunk extensions and other framing, beyond `FRAMING_EARNED` for each byte of the body itself."""

FRAMING_EARNED: Final = 8
"""A chunk of one byte has five or six around it."""

MAX_PIPELINED: Final = 64
"""Requests of a connection that wait for the answer of one before them."""


class _Excess(Exception):
    """A client sent more of something than is taken; raised from a callback of the parser."""


class _Flow(FlowControl):
    """Remembers that reading was paused, so that nothing came of the client for no fault of its own."""

    was_paused = False

    def pause_reading(self) -> None:
        self.was_paused = True
        super().pause_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection, which counts in `connections`."""

    head_seconds = HEAD_SECONDS
    stalled_seconds = STALLED
    longest_seconds = LONGEST
    untaken_seconds = UNTAKEN
    linger_seconds = LINGER
    slowest = SLOWEST
    # A new connection owes a request at once.
    _in_head = True
    _in_body = False
    # Bytes of the read under way, and since the last boundary of a message, less what its body has earned.
    _read_size = 0
    _loose = 0
    _body_size = 0
    _waits_since = 0.0
    _patience: asyncio.TimerHandle | None = None
    _looking: asyncio.TimerHandle | None = None
    _is_deaf = False
    _dropped = 0
    _counted_host: str | None = None
    # The one that is answered; uvicorn's `cycle` is the one that came last.
    _running: RequestResponseCycle | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._counter = connections
        self._reader = StallTimer(self.untaken_seconds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        host = self.client[0] if self.client else ""
        full = None if self._counter is None else self._counter.enter(host)
        if full is not None:
            self._turn_away(full)
            return
        self._counted_host = host
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._drop(data)
            return
        self._unset_keepalive_if_required()
        if not self._in_head and not self._in_body:
            self._in_head, self._loose = True, 0
        self._read_size = len(data)
        self._loose += self._read_size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Excess):
                self._refuse(b"431 Request Header Fields Too Large", b"The headers are too long.\n")
            else:
                self._refuse(b"400 Bad Request", b"Invalid HTTP request received.\n")
            return
        if self._loose > (MAX_HEAD if self._in_head else MAX_FRAMING) and (self._in_head or self._in_body):
            self._refuse(b"431 Request Header Fields Too Large", b"The headers are too long.\n")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_looking()
        if self._counted_host is not None:
            self._left(self._counted_host)
        if self._is_answering():
            # uvicorn tells only the request that came last.
            self._disconnect()
        self._running = None
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        self._stop_looking()
        super().handle_websocket_upgrade()
        # Nobody tells it of the connection's end any more; the two would keep each other until garbage is looked for.
        self.parser = None  # type: ignore[assignment]
        successor = self.transport.get_protocol()
        if (
            isinstance(successor, FrameProtocol)
            and self._counter is not None
            and self._counted_host is not None
        ):
            # Nothing of this protocol, or it would live with its request as long as the socket.
            successor.on_lost = partial(self._counter.leave, self._counted_host)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self.transport}}
        # Else it has begun with the read, or with the connection.
        if not self._in_head:
            self._begin(in_head=True, in_body=False)

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the body they are trailers, which nobody reads.
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # The head is part of what came, so that few heads have to be measured.
        if max(self._loose, self._read_size) > MAX_HEAD and _head_size(self.url, self.headers) > MAX_HEAD:
            raise _Excess
        if len(self.headers) > MAX_HEADERS or len(self.pipeline) >= MAX_PIPELINED:
            raise _Excess
        self._begin(in_head=False, in_body=True)
        self._body_size = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._body_size += size
        self._loose = max(0, self._loose - size - FRAMING_EARNED * size)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begin(in_head=False, in_body=False)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._hang_up()
            return
        super().on_response_complete()
        if self._patience is not None:
            # The next request has begun behind this one, and has its time from now on.
            self._stop_waiting()
            self._watch()
        if self.transport.get_write_buffer_size():
            self._look_at_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_reader()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._run, cycle, app))

    def _run(
        self, cycle: RequestResponseCycle, app: ASGI3Application, scope: Any, receive: Any, send: Any
    ) -> Awaitable[None]:
        """The application, whose answer says `Connection: close` if it begins before the request's end."""

        def answer(message: Any) -> Awaitable[None]:
            if self._in_body and self.cycle is cycle:
                # uvicorn would close at the answer's end, and so reset the connection, which may lose the answer.
                is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
                cycle.keep_alive = is_last
            sending: Awaitable[None] = send(message)
            return sending

        return app(scope, receive, answer)

    # The client's sending: its head, its body, and what it sends after an answer.

    def _begin(self, *, in_head: bool, in_body: bool) -> None:
        """A part of a message; what came of it with the one before is not counted."""
        self._in_head, self._in_body = in_head, in_body
        self._loose = 0
        self._stop_waiting()

    def _watch(self) -> None:
        """Most requests come in one piece, so a timer is set only for those that did not."""
        if self._patience is None and (self._in_head or self._in_body) and not self.transport.is_closing():
            self._waits_since = self.loop.time()
            self._wait_until(self._due_at())

    def _due_at(self) -> float:
        if self._in_head:
            return self._waits_since + self.head_seconds
        earned = self.stalled_seconds + self._body_size / self.slowest
        return self._waits_since + min(earned, self.longest_seconds)

    def _wait_until(self, when: float) -> None:
        self._patience = self.loop.call_at(when, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if self.flow.was_paused or (self._in_head and self._is_answering()):
            # The client has waited for us, and not the other way round.
            self.flow.was_paused = self.flow.read_paused
            self._body_size = 0
            self._watch()
        elif self._due_at() > self.loop.time():
            self._wait_until(self._due_at())
        elif self._in_head and not self._loose:
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", b"The request came too slowly; send it again.\n")

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _disconnect(self) -> None:
        """The application hears that its client is gone, and says nothing more."""
        assert self._running is not None  # noqa: S101 - asked only while there is one
        self._running.disconnected = True
        self._running.message_event.set()

    def _refuse(self, status: bytes, sentence: bytes) -> None:
        """Answer, unless that would end up within another answer, and close."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        running = self._running
        if running is None or running.response_complete:
            self.transport.write(_refusal(status, sentence))
        else:
            if self._in_body and running is self.cycle and not running.response_started:
                self.transport.write(_refusal(status, sentence))
            self._disconnect()
        self.transport.close()
        self._look_at_reader()

    def _turn_away(self, full: Full) -> None:
        self.transport.write(_refusal(full.status, full.sentence, b"retry-after: 30\r\n"))
        self.transport.close()

    def _left(self, host: str) -> None:
        if self._counter is not None:
            self._counter.leave(host)

    def _hang_up(self) -> None:
        """Close an answered connection, once the client had a while to read the answer.

        Closed with something unread, it would be reset, and the client might never see it.
        """
        self._is_deaf = True
        self._stop_waiting()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._patience = self.loop.call_later(self.linger_seconds, self._leave)
        self._look_at_reader()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self._leave()

    def _leave(self) -> None:
        self._stop_waiting()
        self.transport.close()

    # The client's reading.

    def _look_at_reader(self) -> None:
        """Look from time to time, while anything is unsent, whether the client takes of it."""
        if self._looking is None:
            self._looking = self.loop.call_later(self.untaken_seconds / 8, self._look)

    def _look(self) -> None:
        self._looking = None
        if not self.transport.get_write_buffer_size():
            self._reader.reset()
        elif self._reader.is_over(self.loop.time(), tcp_progress(self.transport).acked):
            self.transport.abort()
        else:
            self._look_at_reader()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None


def _head_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def _refusal(status: bytes, sentence: bytes, more: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(sentence)
    kind = b"content-type: text/plain; charset=utf-8\r\n"
    return b"".join(
        (b"HTTP/1.1 ", status, b"\r\n", kind, length, more, b"connection: close\r\n\r\n", sentence)
    )
