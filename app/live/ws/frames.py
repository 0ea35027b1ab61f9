"""The server's messages of graphql-transport-ws, as text and as whole WebSocket frames.

A payload's messages differ in the operation's id only, so they are kept with the payload and shared by all sockets that
chose the same id, as most do. Building frames here instead of in `websockets` saves that work for each socket:
`./scripts/bench live` shows it as "deliveries a second" beside "deliveries a second, plain ASGI".
"""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

import orjson

from app.live.payload import Batch, Payload

ACK: Final = '{"type":"connection_ack"}'
PONG: Final = '{"type":"pong"}'
_TEXT, _FINAL = 0x1, 0x80


def next_prefix(operation_id: str) -> str:
    """The beginning of each `next` message of an operation."""
    return f'{{"id":{json.dumps(operation_id)},"type":"next","payload":'


def next_text(prefix: str, body: bytes) -> str:
    return f"{prefix}{body.decode()}}}"


def payload_text(prefix: str, payload: Payload) -> str:
    """The `next` message of a shared payload."""
    text: str | None = payload.encoded.get(prefix)
    if text is None:
        text = next_text(prefix, payload.body)
        payload.keep_encoded(prefix, text)
    return text


def payload_frame(prefix: str, payload: Payload) -> bytes:
    """The `next` message of a shared payload as a frame."""
    frame: bytes | None = payload.encoded.get(prefix)
    if frame is None:
        frame = text_frame(b"".join((prefix.encode(), payload.body, b"}")))
        payload.keep_encoded(prefix, frame)
    return frame


def batch_frames(prefix: str, batch: Batch) -> bytes:
    """The `next` messages of a shared batch as frames."""
    if len(batch) == 1:
        return payload_frame(prefix, batch.payloads[0])
    frames: bytes | None = batch.encoded.get(prefix)
    if frames is None:
        start = prefix.encode()
        parts: list[bytes] = []
        for payload in batch:
            parts += (frame_head(len(start) + len(payload.body) + 1), start, payload.body, b"}")
        frames = b"".join(parts)
        batch.keep_encoded(prefix, frames)
    return frames


def complete_text(operation_id: str) -> str:
    return f'{{"id":{json.dumps(operation_id)},"type":"complete"}}'


def error_text(operation_id: str, errors: Sequence[dict[str, Any]]) -> str:
    body = orjson.dumps(errors, default=str).decode()
    return f'{{"id":{json.dumps(operation_id)},"type":"error","payload":{body}}}'


def pong_text(payload: str | None) -> str:
    return PONG if payload is None else f'{{"type":"pong","payload":{payload}}}'


def cursors_text(cursors: dict[str, str]) -> str:
    """The `ping` with the cursors through which idle subscriptions have read, by operation id."""
    return json.dumps({"type": "ping", "payload": {"cursors": cursors}}, separators=(",", ":"))


def text_frame(text: bytes) -> bytes:
    """A whole, unmasked WebSocket text frame (RFC 6455, 5.2)."""
    return frame_head(len(text)) + text


def frame_head(size: int) -> bytes:
    """The bytes before a text of this many bytes."""
    if size < 126:
        return struct.pack("!BB", _FINAL | _TEXT, size)
    if size < 65_536:
        return struct.pack("!BBH", _FINAL | _TEXT, 126, size)
    return struct.pack("!BBQ", _FINAL | _TEXT, 127, size)
