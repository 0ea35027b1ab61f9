"""Limits on heads and floods, by time and by length, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.graphql.http.body import read_body
from app.server.uvicorn_http import MAX_HEAD, MAX_HEADERS, MAX_PIPELINED, HttpProtocol
from tests.server.plain_server import Connection, answer, ended, plain_server, whole_answer

REQUEST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
BAD = b"HTTP/1.1 400 Bad Request"
LATE = (b"HTTP/1.1 408 Request Timeout", b"The request came too slowly; send it again.\n")
TOO_LONG = (b"HTTP/1.1 431 Request Header Fields Too Large", b"The headers are too long.\n")
MEBIBYTE = 1024 * 1024


class Impatient(HttpProtocol):
    head_seconds = 0.3


class Patient(HttpProtocol):
    head_seconds = 600.0
    linger_seconds = 0.3


async def echo(request: Request) -> Response:
    body = await read_body(request, 10 * MEBIBYTE)
    return PlainTextResponse(body, headers={"x-heads": str(len(request.headers))})


APP = Starlette(routes=[Route("/echo", echo, methods=["POST"])])


@asynccontextmanager
async def connected(protocol: type[HttpProtocol]) -> AsyncIterator[Connection]:
    """A connection to a server that echoes complete bodies."""
    async with plain_server(APP, protocol) as server, server.connect() as connection:
        yield connection


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [(b"", None), (b"POST /echo HTTP/1.1\r\nHost: x\r\n", LATE), (b"\r\n", LATE)],
    ids=["nothing", "half a head", "an empty line"],
)
async def test_a_head_that_does_not_come_is_given_up(
    sent: bytes, refusal: tuple[bytes, bytes] | None
) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(sent)
        if refusal is not None:
            assert await answer(reader) == refusal
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"POST /ec", b"\r\n"], ids=["half a head", "an empty line"])
async def test_the_head_of_a_later_request_is_given_up_as_well(sent: bytes) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(REQUEST)
        assert await answer(reader) == (OK, b"hello")
        writer.write(sent)
        assert await answer(reader) == LATE
        assert await reader.read() == b""


async def test_a_body_has_the_time_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(REQUEST[:-2])
        await asyncio.sleep(Impatient.head_seconds * 2)
        writer.write(REQUEST[-2:] + REQUEST)
        assert await answer(reader) == (OK, b"hello")
        assert await answer(reader) == (OK, b"hello")
    assert not caplog.records


async def test_an_endless_head_is_refused() -> None:
    async with connected(Patient) as (reader, writer):
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\n")
        line = b"x-filler: " + b"x" * 1000 + b"\r\n"
        for _ in range(MAX_HEAD // len(line) + 1):
            writer.write(line)
        assert await answer(reader) == TOO_LONG


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "pipelined"])
async def test_a_head_that_comes_whole_is_measured_as_well(before: bytes) -> None:
    """The limit holds however much of the head arrives at once."""
    async with connected(Patient) as (reader, writer):
        head = (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nx: " + b"x" * 2 * MAX_HEAD + b"\r\n\r\n"
        )
        if before:
            # The request before it may have been answered, or be lost with the connection.
            writer.write(before)
            assert await answer(reader) == (OK, b"hello")
        writer.write(head)
        assert await answer(reader) == TOO_LONG


@pytest.mark.parametrize(("count", "status"), [(MAX_HEADERS, OK), (MAX_HEADERS + 1, TOO_LONG[0])])
async def test_a_head_has_so_many_lines_at_most(count: int, status: bytes) -> None:
    async with connected(Patient) as (reader, writer):
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + b"a:b\r\n" * (count - 2) + b"\r\n"
        )
        assert (await answer(reader))[0] == status


async def test_a_long_body_is_no_head() -> None:
    async with connected(Patient) as (reader, writer):
        body = b"x" * (MAX_HEAD * 3)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await answer(reader) == (OK, body)
        writer.write(REQUEST)
        assert await answer(reader) == (OK, b"hello")


async def test_chunks_of_one_byte_are_no_flood() -> None:
    async with connected(Patient) as (reader, writer):
        body = b"x" * MAX_HEAD
        writer.write(CHUNKED + b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n")
        assert await answer(reader) == (OK, body)


FLOODS = {
    "trailers": b"5\r\nhello\r\n0\r\n" + b"x-filler: y\r\n" * (4 * MEBIBYTE // 13) + b"\r\n",
    "one trailer": b"5\r\nhello\r\n0\r\nx: " + b"y" * 4 * MEBIBYTE + b"\r\n\r\n",
    "a chunk's extension": b"5;x=" + b"y" * 4 * MEBIBYTE + b"\r\nhello\r\n0\r\n\r\n",
    "the extensions of small chunks": (b"1;x=" + b"y" * 2000 + b"\r\nx\r\n") * 2000 + b"0\r\n\r\n",
    "leading zeros": b"0" * 4 * MEBIBYTE + b"5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "kept alive"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_around_a_body_ends_the_connection(flood: bytes, before: bytes) -> None:
    async with plain_server(APP, Patient) as server, server.connect() as (reader, writer):
        if before:
            writer.write(before)
            assert await answer(reader) == (OK, b"hello")
        writer.write(CHUNKED)
        for start in range(0, len(flood), 65_536):
            writer.write(flood[start : start + 65_536])
        # The continuing flood may lose the refusal, but the connection ends, and no request was answered.
        try:
            first = await reader.read(15)
        except ConnectionError:
            first = b""
        assert first != OK
        await server.emptied()


async def test_trailers_are_dropped() -> None:
    """Merged into the headers they would count after the credentials were checked."""
    async with connected(Patient) as (reader, writer):
        writer.write(CHUNKED + b"5\r\nhello\r\n0\r\nx-api-key: k\r\nx-more: y\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-heads: 2\r\n" in head
        assert await reader.readexactly(5) == b"hello"
        writer.write(REQUEST)
        assert await answer(reader) == (OK, b"hello")


async def test_so_many_requests_wait_for_an_answer_at_most() -> None:
    """Requests beyond the limit are refused once those before them are answered."""
    async with connected(Patient) as (reader, writer):
        writer.write(REQUEST * MAX_PIPELINED)
        for _ in range(MAX_PIPELINED):
            assert await answer(reader) == (OK, b"hello")
        writer.write(REQUEST * 3000)
        for _ in range(MAX_PIPELINED + 1):
            assert await answer(reader) == (OK, b"hello")
        head, body = await whole_answer(reader)
        assert head[0] == b"HTTP/1.1 429 Too Many Requests"
        assert {b"connection: close", b"retry-after: 1"} <= set(head)
        assert body == b"At most 64 requests may wait for the answer of one before them.\n"
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nHost: x\r\n", OK),
        (b"POST /echo HTTP/1.1\r\nhost:\r\n", OK),
        (b"POST /echo HTTP/1.0\r\n", OK),
        (b"POST /echo HTTP/1.1\r\n", BAD),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nHost: x\r\n", BAD),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nHOST: y\r\n", BAD),
        (b"POST /echo HTTP/1.0\r\nHost: x\r\nHost: y\r\n", BAD),
        (b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", BAD),
    ],
    ids=["one", "an empty one", "1.0", "none", "two", "two that differ", "two in 1.0", "none for a socket"],
)
async def test_a_request_has_one_host(head: bytes, status: bytes) -> None:
    """Two parts of a deployment could otherwise take it for requests to different hosts (RFC 9112, 3.2)."""
    async with connected(Patient) as (reader, writer):
        writer.write(head + b"Content-Length: 0\r\n\r\n")
        answered = await answer(reader)
        assert answered == (status, b"" if status == OK else b"A request needs one Host header.\n")
        if status == BAD:
            await ended(reader)


@pytest.mark.parametrize(
    "sent",
    [b"BREW\x01 / HTTP/1.1\r\nHost: x\r\n\r\n", CHUNKED + b"no length\r\n"],
    ids=["no request", "no chunk"],
)
async def test_invalid_http_is_refused_without_a_line_in_the_log(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(Patient) as (reader, writer):
        writer.write(sent)
        assert await answer(reader) == (b"HTTP/1.1 400 Bad Request", b"Invalid HTTP request received.\n")
        await ended(reader)
    assert not caplog.records


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (b"GET\x01/ HTTP/1.1\r\nHost: x\r\n\r\n", (BAD, b"Invalid HTTP request received.\n")),
        (b"GET /slow HTTP/1.1\r\n\r\n", (BAD, b"A request needs one Host header.\n")),
        (b"GET /slow HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * MAX_HEADERS + b"\r\n", TOO_LONG),
        (CHUNKED + b"no length\r\n", (BAD, b"Invalid HTTP request received.\n")),
    ],
    ids=["no request", "no host", "a long head", "no chunk"],
)
async def test_a_refusal_comes_after_the_answers_before_it(sent: bytes, refusal: tuple[bytes, bytes]) -> None:
    """A client that has sent two requests would take a refusal for the answer to the first."""
    goes_on = asyncio.Event()

    async def slow(request: Request) -> Response:
        await goes_on.wait()
        return PlainTextResponse("late")

    app = Starlette(routes=[Route("/slow", slow), *APP.routes])
    async with plain_server(app, Patient) as server, server.connect() as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + sent + REQUEST)
        goes_on.set()
        assert await answer(reader) == (OK, b"late")
        assert await answer(reader) == refusal
        await ended(reader)
        await server.emptied()


async def test_the_next_head_is_not_due_while_an_answer_is_awaited() -> None:
    goes_on = asyncio.Event()

    async def slow(request: Request) -> Response:
        await goes_on.wait()
        return PlainTextResponse("late")

    app = Starlette(routes=[Route("/slow", slow), *APP.routes])
    async with plain_server(app, Impatient) as server, server.connect() as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST[:20])
        await asyncio.sleep(Impatient.head_seconds * 2)
        goes_on.set()
        assert await answer(reader) == (OK, b"late")
        writer.write(REQUEST[20:])
        assert await answer(reader) == (OK, b"hello")
