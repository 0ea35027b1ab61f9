"""The limit: a ready text written straight into every socket, without GraphQL, framework, rights or database.

`python -m scripts.benchmarks.baselines.bare_sockets PORT`; every POST sends the message `BENCH_FRAME` to all sockets.
"""

import asyncio
import base64
import hashlib
import os
import re
import struct
import sys
from typing import cast

import uvloop

MESSAGE = os.environ.get(
    "BENCH_FRAME", '{"id":"1","type":"next","payload":{"data":{"events":null}}}'
).encode()
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FRAME = (
    bytes([0x81, len(MESSAGE)]) if len(MESSAGE) < 126 else struct.pack("!BBH", 0x81, 126, len(MESSAGE))
) + MESSAGE
ACK = b'\x81\x19{"type":"connection_ack"}'
ANSWER = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n{"data":{"fired": true}}'
)

subscribed: set[asyncio.Transport] = set()


class Bare(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.upgraded = False
        self.buffer = b""

    def connection_lost(self, exc: Exception | None) -> None:
        subscribed.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            if b"connection_init" in data:
                self.transport.write(ACK)
            if b'"subscribe"' in data:
                subscribed.add(self.transport)
            return
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        key = re.search(rb"(?i)sec-websocket-key: *([^\r]+)", head)
        if key:
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: "
                + accept
                + b"\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
            )
            self.upgraded = True
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if len(body) >= (int(length[1]) if length else 0):
            self.buffer = b""
            self.transport.write(ANSWER)
            for socket in subscribed if length else ():
                socket.write(FRAME)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
