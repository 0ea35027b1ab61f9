"""A webhook receiver that only counts: one answer to every POST, at once, on connections that stay open."""

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from typing import cast

from scripts.benchmarks.harness.machine import BenchError

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
SAMPLES = 20

content_length = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
webhook_id = re.compile(rb"(?i)\r\nwebhook-id: *([^\r]+)")
webhook_timestamp = re.compile(rb"(?i)\r\nwebhook-timestamp: *([^\r]+)")
webhook_signature = re.compile(rb"(?i)\r\nwebhook-signature: *([^\r]+)")


class Receiver:
    """Counts requests, distinct `webhook-id`s and connections since the last `expect`."""

    def __init__(self) -> None:
        self.server: asyncio.Server
        self.port = 0
        self.connections: set[Connection] = set()
        self.expect(0)

    async def __aenter__(self) -> "Receiver":
        self.server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), "127.0.0.1", 0, backlog=1024
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for connection in list(self.connections):
            connection.transport.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def expect(self, distinct: int) -> None:
        """Start counting anew; `all_here` is set with the `distinct`-th different message."""
        self.expected = distinct
        self.requests = self.bytes = 0
        self.ids: set[bytes] = set()
        self.samples: list[tuple[bytes, bytes]] = []
        self.most_connections = len(self.connections)
        self.first_at = self.last_at = 0.0
        self.all_here = asyncio.Event()

    def took(self, head: bytes, body: bytes) -> None:
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.requests += 1
        self.bytes += len(body)
        found = webhook_id.search(head)
        self.ids.add(found[1] if found else b"")
        if len(self.samples) < SAMPLES:
            self.samples.append((head, body))
        if len(self.ids) >= self.expected:
            self.all_here.set()

    @property
    def body_size(self) -> int:
        """Mean bytes of a body."""
        return round(self.bytes / self.requests) if self.requests else 0

    def check_signatures(self, secrets: Sequence[str]) -> None:
        """Raises BenchError unless every sample carries a right `v1` signature by one of these secrets."""
        keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
        for head, body in self.samples:
            parts = [pattern.search(head) for pattern in (webhook_id, webhook_timestamp, webhook_signature)]
            if not all(parts):
                raise BenchError("a webhook came without its Standard Webhooks headers")
            message_id, timestamp, signatures = (part[1] for part in parts if part)
            content = b".".join((message_id, timestamp, body))
            right = {b"v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)) for key in keys}
            if right.isdisjoint(signatures.split()):
                raise BenchError("a webhook's signature does not fit its body")


class Connection(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.receiver.connections.add(self)
        self.receiver.most_connections = max(self.receiver.most_connections, len(self.receiver.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self.receiver.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            length = content_length.search(head)
            if not length:
                self.transport.write(b"HTTP/1.1 411 Length Required\r\nconnection: close\r\n\r\n")
                self.transport.close()
                return
            size = int(length[1])
            if len(data) < end + 4 + size:
                break
            self.receiver.took(head, data[end + 4 : end + 4 + size])
            self.transport.write(ANSWER)
            data = data[end + 4 + size :]
        self.buffer = data
