"""A real HTTP server for webhook tests: keeps every request to the byte, answers what it is told to."""

import asyncio
import collections
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import h11

from tests.services.patience import PATIENCE
from tests.services.records import LoopThread, Records


@dataclass(frozen=True)
class Request:
    """A request as it came: lower-case header names, exact body bytes, arrival on the monotonic clock."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float
    connection: int
    """Number of the TCP connection, from 1: equal numbers shared one."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False
    """Closes the connection instead of answering."""
    hold: bool = False
    """Answers only once `Receiver.release()` is called (or never, when the client leaves)."""
    stall: bool = False
    """Sends the head and the body's first half, and the rest only once `Receiver.release()` is called."""


class Receiver:
    """An HTTP/1.1 server on 127.0.0.1 in a thread of its own; a context manager.

    Requests are recorded before they are answered. Answers come from `plan` (in order, each once), else from
    `on(path, …)`, else from `default`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: Records[Request] = Records()
        self.default = Answer()
        self._planned: collections.deque[Answer] = collections.deque()
        self._paths: dict[str, Answer | Callable[[Request], Answer]] = {}
        self._tls = tls
        self._connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = LoopThread("receiver")
        self._released = asyncio.Event()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self._server: asyncio.Server | None = self._thread.run(self._listen(listening))

    def url(self, path: str = "/") -> str:
        """`http://127.0.0.1:port` + `path` (https with `tls`)."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def plan(self, *answers: int | Answer) -> None:
        """Queues answers for the next requests, on any path; an int is a status alone."""
        self._planned.extend(Answer(one) if isinstance(one, int) else one for one in answers)

    def on(self, path: str, answer: int | Answer | Callable[[Request], Answer]) -> None:
        """Answers every request to `path` so, from now on; a callable decides by the request."""
        self._paths[path] = Answer(answer) if isinstance(answer, int) else answer

    def hold(self) -> None:
        """Holds the answers of the default until `release()`."""
        self.default = replace(self.default, hold=True)
        self._thread.loop.call_soon_threadsafe(self._released.clear)

    def release(self) -> None:
        """Lets every held and stalled answer go, now and from now on."""
        self._thread.loop.call_soon_threadsafe(self._released.set)

    async def wait_for(
        self, wanted: int | Callable[[Request], object], timeout: float = PATIENCE
    ) -> list[Request]:
        """The requests, once there are `wanted`, or those that match once one does. Raises `TimeoutError`."""
        return await self.requests.wait_for(wanted, timeout)

    def to(self, path: str) -> list[Request]:
        """The requests to one path so far."""
        return [request for request in self.requests if request.path == path]

    def clear(self) -> None:
        """Forgets requests and planned answers."""
        self.requests.clear()
        self._planned.clear()
        self._paths.clear()

    def stop(self) -> None:
        """Refuses connections, and cuts the open ones, until `start()`."""
        self._thread.run(self._stop())

    def start(self) -> None:
        """Listens on the same port again."""
        if self._server is None:
            self._server = self._thread.run(self._listen(socket.create_server(("127.0.0.1", self.port))))

    def close(self) -> None:
        """Ends the server for good."""
        if not self._thread.loop.is_closed():
            self.stop()
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _listen(self, listening: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(self._serve, sock=listening, ssl=self._tls)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        self._writers.add(writer)
        protocol = h11.Connection(h11.SERVER)
        try:
            while request := await self._read(protocol, reader, writer, number):
                answer = self._answer(request)
                self.requests.add(request)
                if answer.hold:
                    await self._released.wait()
                if answer.drop or not await self._write(protocol, writer, answer):
                    break
                protocol.start_next_cycle()
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            # The client left, or the server is closing: there is no one to answer.
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: Request) -> Answer:
        if self._planned:
            return self._planned.popleft()
        answer = self._paths.get(request.path, self.default)
        return answer(request) if callable(answer) else answer

    async def _read(
        self,
        protocol: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                if protocol.they_are_waiting_for_100_continue:
                    writer.write(protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                protocol.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return Request(
                    head.method.decode(),
                    head.target.decode(),
                    joined(head.headers),
                    bytes(body),
                    time.monotonic(),
                    number,
                )
            else:
                return None

    async def _write(self, protocol: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        """Sends the answer; whether the connection can be used again."""
        headers = dict(answer.headers)
        if answer.status != 204 and answer.status >= 200:
            headers.setdefault("content-length", str(len(answer.body)))
        writer.write(
            protocol.send(h11.Response(status_code=answer.status, headers=list(headers.items()))) or b""
        )
        half = len(answer.body) // 2 if answer.stall else 0
        if answer.stall:
            writer.write(protocol.send(h11.Data(data=answer.body[:half])) or b"")
            await writer.drain()
            await self._released.wait()
        if answer.body[half:]:
            writer.write(protocol.send(h11.Data(data=answer.body[half:])) or b"")
        writer.write(protocol.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return protocol.our_state is h11.DONE and protocol.their_state is h11.DONE


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as a dict; a repeated one with its values joined by a comma."""
    result: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        result[name] = f"{result[name]}, {value}" if name in result else value
    return result
