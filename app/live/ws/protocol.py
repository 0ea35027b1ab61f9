"""Parses the client's messages of graphql-transport-ws, strictly.

The protocol has a `query` in each `subscribe` and knows no documents that are named by their hash. A client that names
one in `extensions.persistedQuery` sends an empty `query`, or none.
Source: github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from app.core import json_decimals

SUBPROTOCOL: Final = "graphql-transport-ws"
LONGEST_ID: Final = 255
# A close frame carries at most 125 bytes, two of them the code.
LONGEST_REASON: Final = 123


class CloseCode:
    """The usual client comes back after 1012, 1013, 4403 and 4408, and gives up after the others."""

    POLICY: Final = 1008
    TOO_BIG: Final = 1009
    GOING_AWAY: Final = 1012
    TRY_LATER: Final = 1013
    BAD_MESSAGE: Final = 4400
    UNAUTHORIZED: Final = 4401
    FORBIDDEN: Final = 4403
    WRONG_SUBPROTOCOL: Final = 4406
    INIT_TIMEOUT: Final = 4408
    TAKEN_ID: Final = 4409
    SECOND_INIT: Final = 4429
    INTERNAL: Final = 4500


class CloseSocket(Exception):
    """The socket must be closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode(errors="replace")[:LONGEST_REASON].decode(errors="ignore")


@dataclass(frozen=True)
class Init:
    payload: dict[str, Any] | None


@dataclass(frozen=True)
class Ping:
    # JSON, or None if there was none.
    payload: str | None


@dataclass(frozen=True)
class Pong:
    pass


@dataclass(frozen=True)
class Subscribe:
    id: str
    query: str | None
    operation_name: str | None
    variables: dict[str, Any] | None
    extensions: dict[str, Any]


@dataclass(frozen=True)
class Complete:
    id: str


Message = Init | Ping | Pong | Subscribe | Complete


def parse(text: str) -> Message:
    """Raises CloseSocket with 4400 and the reason."""
    message = _object(_json(text), "A message")
    kind = message.get("type")
    if not isinstance(kind, str):
        raise _bad("A message needs a type that is a string")
    if kind == "connection_init":
        return Init(_optional(message, "payload", kind))
    if kind == "ping":
        return Ping(_echo(text) if _optional(message, "payload", kind) is not None else None)
    if kind == "pong":
        _optional(message, "payload", kind)
        return Pong()
    if kind == "subscribe":
        return _subscribe(message)
    if kind == "complete":
        return Complete(_id(message))
    if kind in ("connection_ack", "next", "error"):
        raise _bad(f"Only servers send {kind}")
    raise _bad(f"There is no message type {kind[:40]!r}")


def _subscribe(message: dict[str, Any]) -> Subscribe:
    identifier = _id(message)
    payload = _object(message.get("payload"), "The payload of subscribe")
    query, name = payload.get("query"), payload.get("operationName")
    extensions = _optional(payload, "extensions", "subscribe") or {}
    is_named = query in (None, "") and extensions.get("persistedQuery") is not None
    if not is_named and (not isinstance(query, str) or not query):
        raise _bad("The payload of subscribe needs a query that is a string")
    if name is not None and not isinstance(name, str):
        raise _bad("operationName must be a string")
    variables = _optional(payload, "variables", "subscribe")
    return Subscribe(identifier, query or None, name or None, variables, extensions)


def _id(message: dict[str, Any]) -> str:
    identifier = message.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise _bad(f"A {message['type']} message needs an id that is a non-empty string")
    if len(identifier) > LONGEST_ID:
        raise _bad(f"An id has at most {LONGEST_ID} characters")
    return identifier


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{name} must be a JSON object")
    return value


def _optional(values: dict[str, Any], name: str, kind: str) -> dict[str, Any] | None:
    value = values.get(name)
    return None if value is None else _object(value, f"The {name} of {kind}")


def _echo(text: str) -> str:
    # Parsed again with plain floats, because a decimal's digits cannot be written back.
    try:
        return json.dumps(json.loads(text)["payload"], allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise _bad("A number in the payload is too large") from None


def _json(text: str) -> Any:
    try:
        return json_decimals.loads(text)
    except json_decimals.OutOfRange as error:
        raise _bad(f"A message {error}") from None
    except ValueError:
        raise _bad("A message must be JSON") from None


def _bad(reason: str) -> CloseSocket:
    return CloseSocket(CloseCode.BAD_MESSAGE, reason)
