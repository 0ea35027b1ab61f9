"""Limits on connections: requests without an end, answers that the client does not take, too many at once."""

import asyncio
import math
from functools import partial
from typing import Any
from weakref import WeakSet

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from app.graphql.http.body import read_body
from app.server.connections import Connections
from app.server.uvicorn_http import HttpProtocol
from app.server.uvicorn_websockets import FrameProtocol
from tests.events.broadcasters import becomes
from tests.live.ws.raw_socket import UPGRADE, closing
from tests.server.plain_server import PlainServer, answer, ended, plain_server, whole_answer

OK = b"HTTP/1.1 200 OK"
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LATE = (b"HTTP/1.1 408 Request Timeout", b"The request came too slowly; send it again.\n")
LONG = b"x" * 20 * 1024 * 1024


class Quick(HttpProtocol):
    linger_seconds = 0.05


async def early(request: Request) -> Response:
    """Answers without reading the body."""
    return PlainTextResponse("early")


async def echo(request: Request) -> Response:
    return PlainTextResponse(await read_body(request, len(LONG)))


async def long(request: Request) -> Response:
    return Response(LONG)


ROUTES = [
    Route("/early", early, methods=["GET", "POST"]),
    Route("/echo", echo, methods=["POST"]),
    Route("/long", long),
]
APP = Starlette(routes=ROUTES)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx",
        b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        b"POST /early HTTP/1.0\r\nContent-Length: 10\r\n\r\n",
    ],
    ids=["one byte of ten", "chunks without end", "of HTTP/1.0"],
)
async def test_a_request_that_is_answered_before_its_end_ends_its_connection(request_head: bytes) -> None:
    async with plain_server(APP, Quick) as server, server.connect() as (reader, writer):
        writer.write(request_head)
        head, body = await whole_answer(reader)
        assert (head[0], body) == (OK, b"early")
        assert head.count(b"connection: close") == 1
        assert await reader.read() == b""
        # The server closes even if the client does not.
        await server.emptied()


async def test_a_client_that_is_still_sending_reads_the_whole_answer() -> None:
    """An immediate close would reset the connection while the client sends, and lose the answer."""
    async with plain_server(APP, HttpProtocol) as server, server.connect(takes=4096) as (reader, writer):
        writer.write(HEAD % (b"/early", len(LONG)))
        assert (await whole_answer(reader))[1] == b"early"
        writer.write(LONG)
        await writer.drain()
        assert await reader.read() == b""


async def test_a_request_that_ends_keeps_its_connection() -> None:
    async with plain_server(APP, Quick) as server, server.connect() as (reader, writer):
        for _ in range(3):
            writer.write(HEAD % (b"/early", 5) + b"hello")
            assert await answer(reader) == (OK, b"early")


async def test_a_body_that_does_not_come_is_given_up() -> None:
    class Impatient(HttpProtocol):
        stalled_seconds = 0.05

    async with plain_server(APP, Impatient) as server, server.connect() as (reader, writer):
        writer.write(HEAD % (b"/echo", 10) + b"x")
        assert await answer(reader) == LATE
        await server.emptied()


@pytest.mark.parametrize(
    ("slowest", "longest"), [(math.inf, 600.0), (0.001, 0.2)], ids=["too slow", "too long"]
)
async def test_a_trickle_is_given_up(slowest: float, longest: float) -> None:
    class Impatient(HttpProtocol):
        stalled_seconds = 0.2
        longest_seconds = longest

    Impatient.slowest = slowest  # type: ignore[assignment]
    async with plain_server(APP, Impatient) as server, server.connect() as (_reader, writer):
        writer.write(HEAD % (b"/echo", 10**6))
        while server.connections:
            writer.write(b"x")
            await asyncio.sleep(0.005)


async def test_a_slow_body_that_keeps_the_rate_has_its_time() -> None:
    class Strict(HttpProtocol):
        stalled_seconds = 0.2
        slowest = 1

    async with plain_server(APP, Strict) as server, server.connect() as (reader, writer):
        writer.write(HEAD % (b"/echo", 1000) + b"x" * 999)
        await asyncio.sleep(2 * Strict.stalled_seconds)
        writer.write(b"x")
        assert await answer(reader) == (OK, b"x" * 1000)


async def test_a_body_is_not_late_while_the_application_does_not_read() -> None:
    class Impatient(HttpProtocol):
        stalled_seconds = 0.05
        slowest = 10**6

    goes_on = asyncio.Event()

    async def busy(request: Request) -> Response:
        await goes_on.wait()
        return PlainTextResponse(str(len(await read_body(request, len(LONG)))))

    app = Starlette(routes=[Route("/busy", busy, methods=["POST"])])
    async with plain_server(app, Impatient) as server, server.connect() as (reader, writer):
        writer.write(HEAD % (b"/busy", len(LONG)) + LONG)
        # The bytes that were read before the pause have earned a fraction of this time.
        await asyncio.sleep(1)
        goes_on.set()
        assert await answer(reader) == (OK, str(len(LONG)).encode())


async def test_a_stream_whose_request_never_ends_is_ended() -> None:
    class Impatient(HttpProtocol):
        stalled_seconds = 0.05

    async def stream(request: Request) -> Response:
        async def parts() -> Any:
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/stream", stream)])
    async with plain_server(app, Impatient) as server, server.connect() as (reader, writer):
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
        assert (await reader.readuntil(b"first")).startswith(OK)
        await reader.read()
        await server.emptied()


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_a_client_that_takes_nothing_of_its_answer_is_given_up(more: bytes) -> None:
    class Impatient(HttpProtocol):
        untaken_seconds = 0.4

    async with plain_server(APP, Impatient) as server, server.connect(takes=4096) as (reader, writer):
        writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await server.emptied()


async def test_a_client_that_takes_little_at_a_time_gets_it_all() -> None:
    class Impatient(HttpProtocol):
        untaken_seconds = 1.5

    async with plain_server(APP, Impatient) as server, server.connect(takes=4096) as (reader, writer):
        writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        slowly_until = asyncio.get_running_loop().time() + 1.5 * Impatient.untaken_seconds
        while taken < len(LONG):
            taken += len(await reader.read(65_536))
            if asyncio.get_running_loop().time() < slowly_until:
                await asyncio.sleep(0.02)
        assert server.connections == 1


async def test_an_application_learns_that_its_client_is_gone_despite_pipelined_requests() -> None:
    """Else a stream with a pipelined request behind it would go on for ever."""
    heard = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        heard.set()

    async with plain_server(stream, HttpProtocol) as server:
        async with server.connect() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await reader.readuntil(b"first")
        await heard.wait()


def counted(per_address: int, total: int) -> tuple[Connections, Any]:
    connections = Connections(per_address, total)
    return connections, partial(Quick, connections=connections)


async def get(server: PlainServer) -> bytes:
    async with server.connect() as (reader, writer):
        writer.write(b"GET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await answer(reader))[0]


@pytest.mark.parametrize(
    ("limits", "status"),
    [((2, 100), b"HTTP/1.1 429 Too Many Requests"), ((100, 2), b"HTTP/1.1 429 Too Many Requests")],
)
async def test_an_address_has_so_many_connections_at_most(limits: tuple[int, int], status: bytes) -> None:
    connections, protocol = counted(*limits)
    allowed = min(limits[0], limits[1] // 2)
    async with plain_server(APP, protocol) as server:
        idle = [server.connect() for _ in range(allowed)]
        for one in idle:
            await one.__aenter__()
        await asyncio.sleep(0)
        async with server.connect() as (reader, _writer):
            head, sentence = await whole_answer(reader)
            assert head[0] == status
            assert b"retry-after: 30" in head
            assert sentence == b"Too many connections from this address; close some, or wait.\n"
            await ended(reader)
        assert len(connections) == allowed
        for one in idle:
            await one.__aexit__(None, None, None)
        await server.emptied()
        assert len(connections) == 0
        assert await get(server) == OK


async def test_sockets_count_as_connections() -> None:
    async def accept(socket: Any) -> None:
        await socket.accept("graphql-transport-ws")
        await socket.receive()

    connections, protocol = counted(1, 100)
    app = Starlette(routes=[WebSocketRoute("/graphql", accept), *ROUTES])
    async with plain_server(app, protocol) as server:
        async with server.connect() as (reader, writer):
            writer.write(UPGRADE.format(version=13, more="").encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert await get(server) == b"HTTP/1.1 429 Too Many Requests"
        await server.emptied()
        assert len(connections) == 0
        assert await get(server) == OK


async def test_a_socket_whose_peer_closes_and_then_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FrameProtocol, "linger", 0.1)

    async def flood(socket: Any) -> None:
        await socket.accept("graphql-transport-ws")
        await socket.send_bytes(LONG)
        await socket.receive()

    app = Starlette(routes=[WebSocketRoute("/graphql", flood)])
    async with plain_server(app, HttpProtocol) as server, server.connect(takes=4096) as (reader, writer):
        writer.write(UPGRADE.format(version=13, more="").encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(closing(1000))
        await server.emptied()


async def test_an_open_socket_keeps_nothing_of_the_request_that_opened_it() -> None:
    """It would cost several KiB a socket."""
    counter = Connections(10, 100)
    requests: WeakSet[HttpProtocol] = WeakSet()

    def protocol(*args: Any, **kwargs: Any) -> HttpProtocol:
        made = HttpProtocol(*args, **kwargs, connections=counter)
        requests.add(made)
        return made

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async with plain_server(application, protocol) as server:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/"):
            await becomes(lambda: not requests)
            assert len(counter) == 1
        await becomes(lambda: not len(counter))


@pytest.mark.parametrize(
    "unreadable",
    [
        b"GET / HTTP/1.1\r\n%s\r\nContent-Length: 10\r\n\r\n",
        b"GET / HTTP/1.1\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\n%s\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.1\r\n%s\r\nCookie: a=" + b"x" * 9000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n%s\r\n\r\n",
    ],
    ids=["length", "chunked", "POST", "long header", "long URL"],
)
async def test_an_upgrade_that_cannot_be_read_is_refused_at_once(unreadable: bytes) -> None:
    upgrade = (
        b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
    async with plain_server(APP, HttpProtocol) as server, server.connect() as (reader, writer):
        writer.write(unreadable.replace(b"%s", upgrade))
        line, sentence = await answer(reader)
        assert line == b"HTTP/1.1 400 Bad Request"
        assert b"without a body, with lines of 8 KB at most" in sentence
        await ended(reader)
        await server.emptied()
