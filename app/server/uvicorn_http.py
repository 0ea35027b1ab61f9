"""uvicorn's HTTP protocol with limits on time and memory for each client: the `http` of uvicorn's configuration.

It bounds the time and size of heads, bodies and trailers, and gives up clients that take nothing of their answer, where
uvicorn bounds idle connections only: see `./scripts/bench hostile`. It leans on internals of uvicorn 0.54.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.graphql.http.tcp_progress import StallTimer, tcp_progress
from app.live.scope_extensions import TRANSPORT
from app.server.connections import Connections
from app.server.refusals import INVALID, NOT_ONE_HOST, TOO_LONG, TOO_SLOW, refusal
from app.server.upgrade import usual_upgrade
from app.server.uvicorn_websockets import FrameProtocol

HEAD_SECONDS: Final = 10.0
"""Seconds from the connection, or the first byte of a later request, to the end of the headers."""

STALLED: Final = 20.0
"""Seconds that every request has from its headers to its end."""

SLOWEST: Final = 1024
"""Bytes of a body that earn the request one more second: a client that is slower on average is given up."""

LONGEST: Final = 3600.0
"""The most seconds from the headers of a request to its end, whatever its body has earned."""

UNTAKEN: Final = 30.0
"""Seconds after which a client is given up that takes nothing of its answer."""

LINGER: Final = 5.0
"""Seconds for which a client may go on sending a request that was answered before its end."""

LINGER_BYTES: Final = 64 * 1024 * 1024
"""Bytes that it may send meanwhile; they are dropped."""

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request line with its headers."""

MAX_HEADERS: Final = 100

MAX_FRAMING: Final = 16 * 1024
"""Bytes of trailers, chunk extensions and other framing, beyond `FRAMING_EARNED` for each byte of the body."""

FRAMING_EARNED: Final = 8
"""A chunk of one byte has five or six bytes of framing."""

MAX_PIPELINED: Final = 64
"""Requests of a connection that wait for the answers of earlier ones."""

TOO_MANY: Final = refusal(
    b"429 Too Many Requests",
    b"At most %d requests may wait for the answer of one before them.\n" % MAX_PIPELINED,
    b"retry-after: 1\r\n",
)


class _Refused(Exception):
    """A request is refused with this answer; raised from a callback of the parser."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class _Flow(FlowControl):
    """Remembers that reading was paused: meanwhile the client's silence is not its fault."""

    was_paused = False

    def pause_reading(self) -> None:
        self.was_paused = True
        super().pause_reading()


class HttpProtocol(HttpToolsProtocol):
    """A connection, counted in `connections`."""

    head_seconds = HEAD_SECONDS
    stalled_seconds = STALLED
    longest_seconds = LONGEST
    untaken_seconds = UNTAKEN
    linger_seconds = LINGER
    slowest = SLOWEST
    # A new connection owes a request at once.
    _in_head = True
    _in_body = False
    # Bytes of the read in progress; and since the last boundary of a message, less those that its body has earned.
    _read_size = 0
    _unearned = 0
    _body_size = 0
    _part_began_at = 0.0
    _deadline_timer: asyncio.TimerHandle | None = None
    _check_timer: asyncio.TimerHandle | None = None
    _drops_input = False
    _dropped = 0
    # The answer to the last request, when those before it are answered.
    _refusal: bytes | None = None
    # Ends the count of this connection, if it is counted.
    _uncount: Callable[[], None] | None = None
    # The request that is being answered; uvicorn's `cycle` is the latest one.
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
        if self._counter is not None:
            refused = self._counter.enter(host)
            if refused is not None:
                self.transport.write(refused)
                self.transport.close()
                return
            self._uncount = partial(self._counter.leave, host)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        if self._drops_input:
            self._drop(data)
            return
        self._unset_keepalive_if_required()
        if not self._in_head and not self._in_body:
            self._in_head, self._unearned = True, 0
        self._read_size = len(data)
        self._unearned += self._read_size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.answer if isinstance(cause, _Refused) else INVALID)
            return
        if self._unearned > (MAX_HEAD if self._in_head else MAX_FRAMING) and (self._in_head or self._in_body):
            self._refuse(TOO_LONG)
        else:
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_check_timer()
        if self._uncount is not None:
            self._uncount()
        if self._is_answering():
            # uvicorn tells only the latest request.
            self._disconnect()
        self._running = None
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_deadline()
        self._stop_check_timer()
        upgrade = usual_upgrade(self.scope["method"], self.url, self.headers)
        if upgrade is None or self.ws_protocol_class is not FrameProtocol:
            super().handle_websocket_upgrade()
        else:
            self.connections.discard(self)
            protocol = FrameProtocol(self.config, self.server_state, self.app_state)
            protocol.take_over(self, upgrade)
            self.transport.set_protocol(protocol)
        # The parser and this object refer to each other, and would wait for the garbage collector.
        self.parser = None  # type: ignore[assignment]
        successor = self.transport.get_protocol()
        if isinstance(successor, FrameProtocol):
            # Nothing of this protocol, or it would live with its request as long as the socket.
            successor.on_lost = self._uncount

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}
        # Else the head began with the read, or with the connection.
        if not self._in_head:
            self._begin(in_head=True, in_body=False)

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the body these are trailers, which nothing reads.
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # The head is a part of the received bytes, so few heads have to be measured.
        if max(self._unearned, self._read_size) > MAX_HEAD and _head_size(self.url, self.headers) > MAX_HEAD:
            raise _Refused(TOO_LONG)
        if len(self.headers) > MAX_HEADERS:
            raise _Refused(TOO_LONG)
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise _Refused(NOT_ONE_HOST)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Refused(TOO_MANY)
        self._begin(in_head=False, in_body=True)
        self._body_size = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._body_size += size
        self._unearned = max(0, self._unearned - size - FRAMING_EARNED * size)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begin(in_head=False, in_body=False)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._close_later()
            return
        super().on_response_complete()
        if self._refusal is not None and not self._is_answering() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.transport.write(self._refusal)
            self._close_later()
            return
        if self._deadline_timer is not None:
            # The next request has begun already; its time counts from now.
            self._stop_deadline()
            self._start_deadline()
        if self.transport.get_write_buffer_size():
            self._check_reader_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._check_reader_later()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._run, cycle, app))

    def _run(
        self, cycle: RequestResponseCycle, app: ASGI3Application, scope: Any, receive: Any, send: Any
    ) -> Awaitable[None]:
        """Runs the application; an answer that begins before the request's end says `Connection: close`."""

        def answer(message: Any) -> Awaitable[None]:
            if self._in_body and self.cycle is cycle:
                # uvicorn would close at the answer's end with input unread, and the reset might lose the answer.
                is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
                cycle.keep_alive = is_last
            sending: Awaitable[None] = send(message)
            return sending

        return app(scope, receive, answer)

    # Limits on the client's sending: heads, bodies, and bytes after an answer.

    def _begin(self, *, in_head: bool, in_body: bool) -> None:
        """Begins a part of a message; its bytes in the read in progress are not counted."""
        self._in_head, self._in_body = in_head, in_body
        self._unearned = 0
        self._stop_deadline()

    def _start_deadline(self) -> None:
        """Sets a timer for an unfinished request; most requests arrive in one piece and need none."""
        if (
            self._deadline_timer is None
            and (self._in_head or self._in_body)
            and not self.transport.is_closing()
        ):
            self._part_began_at = self.loop.time()
            self._set_deadline(self._due_at())

    def _due_at(self) -> float:
        if self._in_head:
            return self._part_began_at + self.head_seconds
        earned = self.stalled_seconds + self._body_size / self.slowest
        return self._part_began_at + min(earned, self.longest_seconds)

    def _set_deadline(self, when: float) -> None:
        self._deadline_timer = self.loop.call_at(when, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        if self.flow.was_paused or (self._in_head and self._is_answering()):
            # The client has waited for the server, and not the other way round.
            self.flow.was_paused = self.flow.read_paused
            self._body_size = 0
            self._start_deadline()
        elif self._due_at() > self.loop.time():
            self._set_deadline(self._due_at())
        elif self._in_head and not self._unearned:
            self.transport.close()
        else:
            self._refuse(TOO_SLOW)

    def _stop_deadline(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _disconnect(self) -> None:
        """Tells the application that its client is gone."""
        assert self._running is not None  # noqa: S101 - asked only while there is one
        self._running.disconnected = True
        self._running.message_event.set()

    def _refuse(self, answer: bytes) -> None:
        """Refuses the request that is read, after the answers to those before it, and closes."""
        self._stop_deadline()
        if self.transport.is_closing():
            return
        running = self._running
        if running is None or running.response_complete:
            self.transport.write(answer)
        elif not self._in_body or running is not self.cycle:
            self._refuse_later(answer)
            return
        else:
            if not running.response_started:
                self.transport.write(answer)
            self._disconnect()
        self.transport.close()
        self._check_reader_later()

    def _refuse_later(self, answer: bytes) -> None:
        """Refuses a request once those before it are answered; nothing after it is read."""
        if self._in_body:
            # It waits for its turn, which the refusal takes.
            self.pipeline.popleft()
        self._begin(in_head=False, in_body=False)
        self._refusal, self._drops_input = answer, True

    def _close_later(self) -> None:
        """Closes an answered connection after a while.

        Closing with unread input would reset the connection, and the client might never see the answer.
        """
        self._drops_input = True
        self._stop_deadline()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline_timer = self.loop.call_later(self.linger_seconds, self._leave)
        self._check_reader_later()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self._leave()

    def _leave(self) -> None:
        self._stop_deadline()
        self.transport.close()

    # Limits on the client's reading.

    def _check_reader_later(self) -> None:
        """Checks from time to time whether the client takes the unsent bytes."""
        if self._check_timer is None:
            self._check_timer = self.loop.call_later(self.untaken_seconds / 8, self._check_reader)

    def _check_reader(self) -> None:
        self._check_timer = None
        if not self.transport.get_write_buffer_size():
            self._reader.reset()
        elif self._reader.is_over(self.loop.time(), tcp_progress(self.transport).acked):
            self.transport.abort()
        else:
            self._check_reader_later()

    def _stop_check_timer(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None


def _head_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
