"""The usual upgrade to a WebSocket, answered by the request that uvicorn's HTTP protocol has read.

uvicorn writes that request out again, and websockets parses and checks it from the start, which takes a third of a new
socket's time: after a deploy all clients come back at once. A request that differs in anything from what clients send
still goes that way.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.http11 import MAX_LINE_LENGTH
from websockets.utils import accept_key

SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
)
# Less than websockets allows: beside a value a line has its name, a colon and its end.
LONGEST: Final = MAX_LINE_LENGTH - 256
_CONNECTION: Final = frozenset({b"upgrade", b"keep-alive, upgrade", b"upgrade, keep-alive"})
# 16 bytes in base64.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_TOKENS = re.compile(rb"[A-Za-z0-9._-]+(?:, ?[A-Za-z0-9._-]+)*")
_VALUES = re.compile(rb"[\x09\x20-\x7e\x80-\xff]*")

Fields = Sequence[tuple[bytes, bytes]]


class Upgrade(NamedTuple):
    """A valid request, and the answer to its key."""

    path: str
    query: bytes
    headers: Fields
    subprotocols: list[str]
    accept: bytes

    def answer(self, fields: Fields) -> bytes:
        """The head that switches protocols, with more header fields."""
        more = b"".join([b"%b: %b\r\n" % field for field in fields])
        return SWITCHING % (self.accept, more)


def usual_upgrade(method: str, url: bytes, headers: Fields) -> Upgrade | None:
    """The upgrade that the request asks for, or None where websockets must read it; names are in lower case."""
    fields = dict(headers)
    if method != "GET" or len(fields) != len(headers) or not url.isascii():
        return None
    if b"content-length" in fields or b"transfer-encoding" in fields:
        return None
    values = [url, *fields.values()]
    if max(map(len, values)) > LONGEST or not _VALUES.fullmatch(b"".join(values)):
        return None
    key = fields.get(b"sec-websocket-key", b"")
    protocols = fields.get(b"sec-websocket-protocol")
    if (
        fields.get(b"connection", b"").lower() not in _CONNECTION
        or fields.get(b"upgrade", b"").lower() != b"websocket"
        or fields.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or not (protocols is None or _TOKENS.fullmatch(protocols))
        or max(map(len, fields)) > 128
    ):
        return None
    path, _, query = url.partition(b"?")
    names = [] if protocols is None else [name.strip() for name in protocols.decode().split(",")]
    return Upgrade(path.decode(), query, headers, names, accept_key(key.decode()).encode())
