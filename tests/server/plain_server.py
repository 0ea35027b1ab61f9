"""uvicorn with our HTTP protocol in this process, under any application, and clients of plain bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from app.server.uvicorn_websockets import FrameProtocol
from tests.events.broadcasters import becomes
from tests.services.web_server import web_server

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PlainServer:
    """A running server."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self.port: int = server.servers[0].sockets[0].getsockname()[1]

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._server.server_state.connections)

    async def emptied(self) -> None:
        """Return when no connection is open."""
        await becomes(lambda: not self.connections)

    @asynccontextmanager
    async def connect(self, *, takes: int | None = None) -> AsyncIterator[Connection]:
        """A client that buffers at most `takes` bytes before the test reads them."""
        sock = socket.socket()
        if takes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=takes or 2**16)
        try:
            yield reader, writer
        finally:
            writer.close()


@asynccontextmanager
async def plain_server(app: Any, protocol: Callable[..., asyncio.Protocol]) -> AsyncIterator[PlainServer]:
    """Serve the application, and wait for its end."""
    options: Any = {"http": protocol, "ws": FrameProtocol, "log_config": None, "lifespan": "off"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with web_server(uvicorn.Config(app, **options), listener) as server:
            yield PlainServer(server)


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status line and body of the next response."""
    head, body = await whole_answer(reader)
    return head[0], body


async def whole_answer(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """The lines of the next response's head, in lower case but the first, and its body."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    lines = [line.lower() for line in lines if line]
    (length,) = (line.partition(b":")[2] for line in lines if line.startswith(b"content-length:"))
    return [first, *lines], await reader.readexactly(int(length))


async def ended(reader: asyncio.StreamReader) -> None:
    """The connection ends with nothing more, cleanly or not."""
    try:
        assert await reader.read() == b""
    except ConnectionError:
        return
