"""Requests whose head never ends: given up by time and by length, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from app.api.http_protocol import MAX_HEAD, HttpProtocol

REQUEST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


class Impatient(HttpProtocol):
    head_seconds = 0.3


class Patient(HttpProtocol):
    head_seconds = 600.0


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(protocol: type[HttpProtocol]) -> AsyncIterator[Connection]:
    """A connection to a server that answers with the body it got, once the whole of it is there."""

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status line and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    (length,) = (line.partition(b":")[2] for line in lines if line.startswith(b"content-length:"))
    return head.partition(b"\r\n")[0], await reader.readexactly(int(length))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\n", b"HTTP/1.1 408 Request Timeout"),
        (b"\r\n", b"HTTP/1.1 408 Request Timeout"),
    ],
    ids=["nothing", "half a head", "an empty line"],
)
async def test_a_head_that_does_not_come_is_given_up(sent: bytes, status: bytes | None) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(sent)
        if status is not None:
            assert await answer(reader) == (status, b"")
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"POST /ec", b"\r\n"], ids=["half a head", "an empty line"])
async def test_nor_is_that_of_a_later_request_waited_for(sent: bytes) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(REQUEST)
        assert await answer(reader) == (b"HTTP/1.1 200 OK", b"hello")
        writer.write(sent)
        assert await answer(reader) == (b"HTTP/1.1 408 Request Timeout", b"")
        assert await reader.read() == b""


async def test_a_body_has_the_time_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(Impatient) as (reader, writer):
        writer.write(REQUEST[:-2])
        await asyncio.sleep(Impatient.head_seconds * 2)
        writer.write(REQUEST[-2:] + REQUEST)
        assert await answer(reader) == (b"HTTP/1.1 200 OK", b"hello")
        assert await answer(reader) == (b"HTTP/1.1 200 OK", b"hello")
    assert not caplog.records


async def test_an_endless_head_is_refused() -> None:
    async with connected(Patient) as (reader, writer):
        writer.write(b"POST /echo HTTP/1.1\r\n")
        line = b"x-filler: " + b"x" * 1000 + b"\r\n"
        for _ in range(MAX_HEAD // len(line) + 1):
            writer.write(line)
        assert await answer(reader) == (b"HTTP/1.1 431 Request Header Fields Too Large", b"")


async def test_a_long_body_is_no_head() -> None:
    async with connected(Patient) as (reader, writer):
        body = b"x" * (MAX_HEAD * 3)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await answer(reader) == (b"HTTP/1.1 200 OK", body)
        writer.write(REQUEST)
        assert await answer(reader) == (b"HTTP/1.1 200 OK", b"hello")
