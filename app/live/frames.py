"""How responses travel: the text of a socket's messages, ready-made WebSocket frames, the blocks of an event stream.

A payload is encoded once. What goes around it differs in the operation's id only, so it is kept with the payload and
shared by all sockets that chose the same id, as most do.
"""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

import orjson

from app.live.payload import Payload

ACK: Final = '{"type":"connection_ack"}'
PONG: Final = '{"type":"pong"}'
_TEXT, _FINAL = 0x1, 0x80


def next_lead(operation_id: str) -> str:
    """How each `next` message of an operation begins."""
    return f'{{"id":{json.dumps(operation_id)},"type":"next","payload":'


def next_text(lead: str, body: bytes) -> str:
    return f"{lead}{body.decode()}}}"


def payload_text(lead: str, payload: Payload) -> str:
    """The `next` message of a shared payload."""
    text: str | None = payload.frames.get(lead)
    if text is None:
        text = next_text(lead, payload.body)
        payload.keep(lead, text)
    return text


def complete_text(operation_id: str) -> str:
    return f'{{"id":{json.dumps(operation_id)},"type":"complete"}}'


def error_text(operation_id: str, errors: Sequence[dict[str, Any]]) -> str:
    body = orjson.dumps(errors, default=str).decode()
    return f'{{"id":{json.dumps(operation_id)},"type":"error","payload":{body}}}'


def pong_text(payload: str | None) -> str:
    return PONG if payload is None else f'{{"type":"pong","payload":{payload}}}'


def cursors_text(cursors: dict[str, str]) -> str:
    """The `ping` that says how far idle subscriptions have read, by operation id."""
    return json.dumps({"type": "ping", "payload": {"cursors": cursors}}, separators=(",", ":"))


def text_frame(text: bytes) -> bytes:
    """A whole, unmasked WebSocket text frame (RFC 6455, 5.2)."""
    size = len(text)
    if size < 126:
        return struct.pack("!BB", _FINAL | _TEXT, size) + text
    if size < 65_536:
        return struct.pack("!BBH", _FINAL | _TEXT, 126, size) + text
    return struct.pack("!BBQ", _FINAL | _TEXT, 127, size) + text


def event_block(name: str, data: bytes, cursor: str | None = None) -> bytes:
    """One event of an event stream; JSON without line breaks is one data line."""
    head = b"" if cursor is None else f"id: {cursor}\n".encode()
    return head + f"event: {name}\ndata: ".encode() + data + b"\n\n"


def progress_block(cursor: str | None) -> bytes:
    """A comment that keeps the connection open, with the cursor through which all was sent."""
    return b":\n\n" if cursor is None else f":\nid: {cursor}\n\n".encode()
