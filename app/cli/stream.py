"""The event stream of an account over WebSocket.

The protocol is spoken here rather than by the `gql` client: that reads ahead into a queue without a bound, so the
cursor in a ping would be ahead of events that nobody has seen yet. It would save 13 lines.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from app.cli.client import ANSWER_WITHIN, WRONG_KEY, Api, ClientError, sentences
from app.core import clock

FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 15.0
# An event carries at most a customer or a consent with its meters, which is far shorter.
LARGEST_MESSAGE: Final = 16 * 1024 * 1024

SUBSCRIPTION: Final = """
subscription ($after: String, $types: [EventType!]) {
  events(after: $after, filter: {types: $types}) { id name sequence cursor occurredAt data }
}
"""


@dataclass(frozen=True)
class StreamEvent:
    """An event of the stream; `sequence` is None for a token bound to one customer."""

    id: str
    name: str
    sequence: int | None
    cursor: str
    occurred_at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        at = clock.parse_utc(answer["occurredAt"])
        return cls(answer["id"], answer["name"], answer["sequence"], answer["cursor"], at, answer["data"])


def chosen_types(patterns: str | None) -> list[str] | None:
    """The constants of the events that a comma list of dotted names and wildcards means; None, for all, stays None.

    Raises ClientError for a pattern that matches none.
    """
    if patterns is None:
        return None
    from app.cli.features import unknown_event, whole_catalogue

    events = whole_catalogue()
    wanted = [one.strip() for one in patterns.split(",") if one.strip()]
    for pattern in wanted or [patterns]:
        if not any(fnmatchcase(event.type, pattern) for event in events):
            names = ", ".join(event.type for event in events)
            raise unknown_event(pattern, f'there are {names}, and wildcards such as "meter.*"')
    return [
        event.constant() for event in events if any(fnmatchcase(event.type, pattern) for pattern in wanted)
    ]


class ResumingStream:
    """The events of an account from a cursor on, over as many connections as it takes, none missing, none twice."""

    def __init__(
        self,
        api: Api,
        *,
        after: str | None = None,
        types: Sequence[str] | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Without `after` the stream begins now. `types` are constants; `notice` gets a line for each connection."""
        self.cursor = after
        self._api = api
        self._types = types
        self._notice = notice

    async def begin(self) -> None:
        """Read the log's end, which also tries the server and the key. Raises ClientError."""
        latest = await self._api.latest_cursor()
        if self.cursor is None:
            # Fixed before the first connection: were it lost before the first event, "now" would have moved.
            self.cursor = latest

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Every event, for ever. Raises ClientError when another connection would end in the same way."""
        if self.cursor is None:
            await self.begin()
        waits = _waits()
        while True:
            try:
                async with self._subscribed() as socket:
                    waits = _waits()
                    async for event in self._received(socket):
                        yield event
                reason = "the server ended the stream"
            except _Lost as lost:
                reason = str(lost)
            wait = next(waits)
            self._notice(f"Connection lost ({reason}); connecting again in {wait:.1f} s.")
            await asyncio.sleep(wait)

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[ClientConnection]:
        """An acknowledged connection with the subscription under way. Raises _Lost and ClientError."""
        address = self._api.address
        try:
            async with connect(
                address.socket,
                subprotocols=[Subprotocol("graphql-transport-ws")],
                max_size=LARGEST_MESSAGE,
                proxy=None if address.is_local else True,
            ) as socket:
                await _send(socket, type="connection_init", payload={"apiKey": self._api.key})
                async with asyncio.timeout(ANSWER_WITHIN):
                    async for kind, _ in _messages(socket):
                        if kind == "connection_ack":
                            break
                    else:
                        raise _Lost("the server closed the connection")
                variables = {"after": self.cursor, "types": self._types}
                subscription = {"query": SUBSCRIPTION, "variables": variables}
                await _send(socket, type="subscribe", id="1", payload=subscription)
                self._notice(f"Listening at {address.base}.")
                yield socket
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (400, 401, 403, 404):
                raise ClientError(f"{address.socket} refuses the connection with HTTP {status}.") from None
            raise _Lost(f"HTTP {status}") from None
        except ConnectionClosed as error:
            raise _closed(error) from None
        except (OSError, WebSocketException, TimeoutError) as error:
            raise _Lost(str(error) or type(error).__name__) from None

    async def _received(self, socket: ClientConnection) -> AsyncIterator[StreamEvent]:
        async for kind, payload in _messages(socket):
            match kind:
                case "next" if not payload.get("errors"):
                    event = StreamEvent.of(payload["data"]["events"])
                    self.cursor = event.cursor
                    yield event
                case "next":
                    raise _Lost(sentences(payload["errors"]))
                case "ping":
                    # A filtered, quiet stream learns only by this how far the server has read.
                    self.cursor = ((payload or {}).get("cursors") or {}).get("1", self.cursor)
                case "error":
                    raise _refused(payload)
                case "complete":
                    return


class _Lost(Exception):
    """The connection is gone, or of no use, and another one may do better."""


async def _messages(socket: ClientConnection) -> AsyncIterator[tuple[str, Any]]:
    """Type and payload of each message; pings are answered."""
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "ping":
            await _send(socket, **message | {"type": "pong"})
        yield message["type"], message.get("payload")


async def _send(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


def _closed(error: ConnectionClosed) -> Exception:
    """The error for a closed connection by its code: those from 4400 to 4409 would come again every time."""
    close = error.rcvd
    if close is None:
        return _Lost("without a word")
    if close.code in (4401, 4403):
        return ClientError(WRONG_KEY)
    if 4400 <= close.code < 4410 and close.code != 4408:
        return ClientError(f"The server ended the connection: {close.reason or 'no reason'} ({close.code}).")
    return _Lost(f"{close.reason or 'closed'}, {close.code}")


def _refused(errors: list[dict[str, Any]]) -> Exception:
    """The error for a subscription that the server ended with these errors."""
    extensions = errors[0].get("extensions") or {}
    code = extensions.get("code")
    if code == "CURSOR_EXPIRED":
        oldest = extensions.get("oldestCursor")
        rest = f" What is left of the log begins with --after {oldest}" if oldest else ""
        return ClientError(sentences(errors) + rest)
    if code in ("RATE_LIMITED", "INTERNAL"):
        return _Lost(sentences(errors))
    return ClientError(WRONG_KEY if code == "UNAUTHENTICATED" else sentences(errors))


def _waits() -> Iterator[float]:
    """Seconds before each next try: doubling up to a limit, varied, so that clients do not return all at once."""
    wait = FIRST_WAIT
    while True:
        yield wait * random.uniform(0.8, 1.2)  # noqa: S311 - chance, not a secret
        wait = min(wait * 2, LONGEST_WAIT)
