"""Where a server listens, and requests to it over one plain connection."""

import asyncio
from dataclasses import dataclass
from typing import cast

from scripts.benchmarks.harness.machine import BenchError


@dataclass(frozen=True)
class Target:
    """Where a server takes sockets and mutations, and what it wants to be told."""

    port: int
    path: str = "/graphql"
    headers: tuple[tuple[str, str], ...] = ()
    init: bytes = b'{"type":"connection_init"}'

    def header_lines(self) -> str:
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers)


class ConnectionEnded(BenchError):
    """The server closed a connection without a byte of an answer."""


class Poster(asyncio.Protocol):
    """A keep-alive HTTP connection for mutations, one at a time."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer and not self.answer.done():
            error = BenchError if self.buffer else ConnectionEnded
            self.answer.set_exception(error("the server closed the connection of the mutations"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answer = whole_response(self.buffer)
        if answer and self.answer and not self.answer.done():
            self.buffer = b""
            self.answer.set_result(answer)

    async def post(self, body: bytes) -> bytes:
        """The response's head and body; an error in a GraphQL answer is raised."""
        if self.transport is not None:
            # The server may have ended a connection that was idle, or be about to.
            try:
                return await self._exchange(self.transport, body)
            except ConnectionEnded:
                pass
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", self.target.port)
        assert self.transport is not None
        return await self._exchange(self.transport, body)

    async def _exchange(self, transport: asyncio.Transport, body: bytes) -> bytes:
        self.answer = asyncio.get_running_loop().create_future()
        transport.write(
            f"POST {self.target.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.target.port}\r\n"
            f"Content-Type: application/json\r\nAccept: application/json\r\n"
            f"{self.target.header_lines()}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = await self.answer
        if is_refusal(answer):
            raise BenchError(f"a mutation failed: {answer[-500:].decode(errors='replace')}")
        return answer


def is_refusal(answer: bytes) -> bool:
    """Whether the response is a failure, an error of GraphQL, or a `code` within userErrors."""
    return not answer.startswith(b"HTTP/1.1 200") or b'"errors"' in answer or b'"code"' in answer


def whole_response(buffer: bytes) -> bytes | None:
    """The buffer when it holds a whole HTTP response (with a length or chunked), else None."""
    head, found, body = buffer.partition(b"\r\n\r\n")
    if not found:
        return None
    lowered = head.lower()
    at = lowered.find(b"content-length:")
    if at >= 0:
        return buffer if len(body) >= int(lowered[at + 15 :].split(b"\r\n", 1)[0]) else None
    return buffer if body.endswith(b"0\r\n\r\n") else None
