"""A WebSocket client that writes its own frames, and so can send frames that no library would."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
UPGRADE = (
    "GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: {version}\r\n"
    "Sec-WebSocket-Protocol: graphql-transport-ws\r\n{more}\r\n"
)
MASK = b"\x37\xfa\x21\x3d"
MEBIBYTE = 1024 * 1024


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True
) -> bytes:
    """A frame as a client sends it."""
    head = bytes([fin << 7 | reserved << 4 | opcode])
    size = len(payload)
    short = size if size < 126 else 126 if size < 65_536 else 127
    head += bytes([masked << 7 | short])
    head += b"" if size < 126 else struct.pack("!H" if short == 126 else "!Q", size)
    if not masked:
        return head + payload
    key = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def text(message: object, **options: bool) -> bytes:
    return frame(TEXT, json.dumps(message).encode(), **options)


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


# Frames that break RFC 6455 or graphql-transport-ws, and the close code for each.
BROKEN: dict[str, tuple[list[bytes], int]] = {
    "text that is no UTF-8": ([frame(TEXT, b"\xff")], 1007),
    "half a character": ([frame(TEXT, b'"\xc3')], 1007),
    "a surrogate": ([frame(TEXT, b'"\xed\xa0\x80"')], 1007),
    "no UTF-8 over two frames": ([frame(TEXT, b'"\xc3', fin=False), frame(CONTINUATION, b'"')], 1007),
    "not masked": ([text({"type": "ping"}, masked=False)], 1002),
    "compressed without agreement": ([frame(TEXT, b"{}", reserved=4)], 1002),
    "a reserved bit": ([frame(TEXT, b"{}", reserved=1)], 1002),
    "an unknown kind of data": ([frame(0x3, b"{}")], 1002),
    "an unknown kind of control": ([frame(0xB)], 1002),
    "a continuation of nothing": ([frame(CONTINUATION, b"{}")], 1002),
    "a message within another": ([frame(TEXT, b"{", fin=False), text({"type": "ping"})], 1002),
    "a ping in pieces": ([frame(PING, b"x", fin=False)], 1002),
    "a long ping": ([frame(PING, b"x" * 126)], 1002),
    "a close of one byte": ([frame(CLOSE, b"\x03")], 1002),
    "a close with a code that is never sent": ([closing(1006)], 1002),
    "a close whose reason is no UTF-8": ([closing(1000, b"\xff")], 1007),
    "bytes": ([frame(BINARY, b'{"type":"ping"}')], 4400),
    "bytes in pieces": ([frame(BINARY, b'{"type":', fin=False), frame(CONTINUATION, b'"ping"}')], 4400),
    "nothing": ([frame(TEXT)], 4400),
    "a frame that says it is too long": ([frame(TEXT, b"x" * (2 * MEBIBYTE))[:14]], 1009),
    "a frame that says it is endless": ([b"\x81\xff" + b"\x7f" + b"\xff" * 7 + MASK], 1009),
    "too long in pieces": (
        [
            frame(TEXT, b"x" * MEBIBYTE, fin=False),
            frame(CONTINUATION, b"x" * MEBIBYTE, fin=False),
        ],
        1009,
    ),
}


class Raw:
    """A connection after its upgrade, to which the test writes plain bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def hear(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload; a server's frames are whole and unmasked."""
        first, second = await self.reader.readexactly(2)
        assert first & 0xF0 == 0x80
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def message(self) -> object:
        opcode, payload = await self.hear()
        assert opcode == TEXT
        return json.loads(payload)

    async def closed(self) -> int:
        """The code of the close frame, which must come next; the connection ends after the answer to it."""
        opcode, payload = await self.hear()
        assert opcode == CLOSE
        (code,) = struct.unpack("!H", payload[:2])
        self.send(frame(CLOSE, payload))
        # The server may cut the connection before it reads the answer.
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read() == b""
        return int(code)


@asynccontextmanager
async def raw(port: int, key: str | None = None) -> AsyncIterator[Raw]:
    """A connection with small receive buffers; with a key, it has been acknowledged."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    try:
        writer.write(UPGRADE.format(version=13, more="").encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        client = Raw(reader, writer)
        if key is not None:
            client.send(text({"type": "connection_init", "payload": {"apiKey": key}}))
            assert await client.message() == {"type": "connection_ack"}
        yield client
    finally:
        writer.close()
