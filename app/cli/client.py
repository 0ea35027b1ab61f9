"""A client of Voltwire for the terminal: GraphQL over HTTP, and the event stream over WebSocket.

`voltwire listen`, `voltwire trigger` and the demo call a server through this, as any consumer does over the network.
"""

import asyncio
import ipaddress
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from app.core import clock
from app.events.catalogue import EventType

ANSWER_WITHIN: Final = 30.0
FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 15.0
# An event carries at most a customer or a consent with its meters; this is far above, and below what would hurt.
LARGEST_MESSAGE: Final = 16 * 1024 * 1024
NAMES: Final = tuple(kind.value for kind in EventType)

WRONG_KEY: Final = "The server refuses this key: give a live one with --key or VOLTWIRE_API_KEY."
SUBSCRIPTION: Final = """
subscription ($after: String, $types: [EventType!]) {
  events(after: $after, filter: {types: $types}) { id name sequence cursor occurredAt data }
}
"""


class ClientError(Exception):
    """What went wrong and what to do about it: a sentence for whoever sits at the terminal."""


@dataclass(frozen=True)
class Address:
    """Where a server is: its base URL without a slash at the end, `http://127.0.0.1:8000`."""

    base: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what people give: with or without scheme, trailing slash or `/graphql`. Raises ClientError."""
        given = text.strip()
        if "//" not in given:
            given = f"http://{given}"
        try:
            parts = urlsplit(given)
            named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            raise ClientError(f"{text} is not an address: write it as http://127.0.0.1:8000.") from None
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        if not named or not plain or scheme not in ("http", "https"):
            raise ClientError(f"{text} is not an address of a server: write it as http://127.0.0.1:8000.")
        path = parts.path.rstrip("/").removesuffix("/graphql").rstrip("/")
        return cls(f"{scheme}://{parts.netloc}{path}")

    @property
    def graphql(self) -> str:
        return f"{self.base}/graphql"

    @property
    def socket(self) -> str:
        return f"ws{self.graphql.removeprefix('http')}"

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, which is never reached through a proxy."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


class Api:
    """GraphQL over HTTP with a key. Close it, or use it as an async context manager."""

    def __init__(self, address: Address, key: str | None) -> None:
        self.address = address
        self.key = _checked(key)
        self._http = httpx.AsyncClient(
            headers={"x-api-key": self.key, "accept": "application/json"},
            timeout=ANSWER_WITHIN,
            trust_env=not address.is_local,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's data. Raises ClientError for anything but a whole answer."""
        try:
            response = await self._http.post(
                self.address.graphql, json={"query": query, "variables": variables or {}}
            )
        except httpx.TimeoutException:
            raise ClientError(
                f"{self.address.base} took longer than {ANSWER_WITHIN:.0f} s to answer; try again."
            ) from None
        except httpx.HTTPError as error:
            raise ClientError(
                f"Nothing answers at {self.address.base} ({str(error) or type(error).__name__}): start the server with "
                "./scripts/serve, or say where it is with --url."
            ) from None
        return self._data(response)

    async def change(self, mutation: str, selection: str, **values: Any) -> dict[str, Any]:
        """Run one mutation on its input and give its payload. Raises ClientError with what `userErrors` say."""
        kind = f"{mutation[0].upper()}{mutation[1:]}Input"
        answer = await self.ask(
            f"mutation ($input: {kind}!) {{ {mutation}(input: $input) {{ {selection} userErrors {{ message }} }} }}",
            {"input": values},
        )
        payload: dict[str, Any] = answer[mutation]
        if payload["userErrors"]:
            reasons = " ".join(one["message"] for one in payload["userErrors"])
            raise ClientError(f"{mutation} was refused: {reasons}")
        return payload

    async def latest_cursor(self) -> str:
        """Where the event log ends now."""
        answer = await self.ask("{ eventStream { latestCursor } }")
        cursor: str = answer["eventStream"]["latestCursor"]
        return cursor

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code == 401:
            raise ClientError(WRONG_KEY)
        if response.status_code == 429:
            wait = response.headers.get("retry-after", "a few")
            raise ClientError(f"Too many requests with this account's keys: try again in {wait} seconds.")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not {"data", "errors"} & answer.keys():
            raise ClientError(
                f"What answers at {self.address.graphql} is not Voltwire (HTTP {response.status_code}): "
                "check the address given with --url."
            )
        if answer.get("errors"):
            raise ClientError(_sentences(answer["errors"]))
        data: dict[str, Any] = answer["data"]
        return data


@dataclass(frozen=True)
class Event:
    """One event of the stream; `sequence` is None for a token bound to one customer."""

    id: str
    name: str
    sequence: int | None
    cursor: str
    occurred_at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        return cls(
            id=answer["id"],
            name=answer["name"],
            sequence=answer["sequence"],
            cursor=answer["cursor"],
            occurred_at=clock.parse_utc(answer["occurredAt"]),
            data=answer["data"],
        )


def chosen_types(patterns: str | None) -> list[EventType] | None:
    """The event types that a comma list of dotted names and wildcards means; None, for all, stays None.

    Raises ClientError for a pattern that matches none.
    """
    if patterns is None:
        return None
    wanted = [one.strip() for one in patterns.split(",") if one.strip()]
    for pattern in wanted or [patterns]:
        if not any(fnmatchcase(name, pattern) for name in NAMES):
            raise ClientError(
                f'There is no event "{pattern}": there are {", ".join(NAMES)}, and wildcards such as "meter.*".'
            )
    return [kind for kind in EventType if any(fnmatchcase(kind.value, pattern) for pattern in wanted)]


class Stream:
    """The events of an account from a cursor on, over as many connections as it takes, none missing, none twice."""

    def __init__(
        self,
        api: Api,
        *,
        after: str | None = None,
        types: Sequence[EventType] | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`after` omitted: from now on. `notice` is told of lost and new connections."""
        self.cursor = after
        self._api = api
        self._types = None if types is None else [kind.name for kind in types]
        self._notice = notice

    async def begin(self) -> None:
        """Find out where now is, and with it whether server and key are right. Raises ClientError."""
        latest = await self._api.latest_cursor()
        if self.cursor is None:
            # Fixed before the first connection: were it lost before the first event, "now" would have moved.
            self.cursor = latest

    async def events(self) -> AsyncIterator[Event]:
        """Every event, for ever. Raises ClientError when going on makes no sense."""
        if self.cursor is None:
            await self.begin()
        waits = _waits()
        while True:
            try:
                async with self._connected() as socket:
                    waits = _waits()
                    async for event in self._read(socket):
                        yield event
                reason = "the server ended the stream"
            except _Lost as lost:
                reason = str(lost)
            wait = next(waits)
            self._notice(f"Connection lost ({reason}); connecting again in {wait:.1f} s.")
            await asyncio.sleep(wait)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        """An acknowledged connection with the subscription under way."""
        address = self._api.address
        try:
            async with connect(
                address.socket,
                subprotocols=[Subprotocol("graphql-transport-ws")],
                max_size=LARGEST_MESSAGE,
                proxy=None if address.is_local else True,
            ) as socket:
                await _send(socket, "connection_init", {"apiKey": self._api.key})
                await _acknowledged(socket)
                variables = {"after": self.cursor, "types": self._types}
                await _send(socket, "subscribe", {"query": SUBSCRIPTION, "variables": variables}, "1")
                self._notice(f"Listening at {address.base}.")
                yield socket
        except InvalidStatus as error:
            if error.response.status_code in (400, 401, 403, 404):
                raise ClientError(
                    f"{address.socket} refuses the connection with HTTP {error.response.status_code}."
                ) from None
            raise _Lost(f"HTTP {error.response.status_code}") from None
        except ConnectionClosed as error:
            raise _closed(error) from None
        except (OSError, WebSocketException, TimeoutError) as error:
            raise _Lost(str(error) or type(error).__name__) from None

    async def _read(self, socket: ClientConnection) -> AsyncIterator[Event]:
        async for text in socket:
            message = json.loads(text)
            payload = message.get("payload")
            match message["type"]:
                case "next" if not payload.get("errors"):
                    event = Event.of(payload["data"]["events"])
                    self.cursor = event.cursor
                    yield event
                case "next":
                    raise _Lost(_sentences(payload["errors"]))
                case "ping":
                    # It says how far the server has read, which a filtered, quiet stream would not learn otherwise.
                    self.cursor = ((payload or {}).get("cursors") or {}).get("1", self.cursor)
                    await _send(socket, "pong", payload)
                case "error":
                    raise _refused(payload)
                case "complete":
                    return


class _Lost(Exception):
    """The connection is gone, or of no use, and another one may do better."""


async def _send(socket: ClientConnection, kind: str, payload: Any, identifier: str | None = None) -> None:
    message: dict[str, Any] = {"type": kind}
    if identifier is not None:
        message["id"] = identifier
    if payload is not None:
        message["payload"] = payload
    await socket.send(json.dumps(message))


async def _acknowledged(socket: ClientConnection) -> None:
    async with asyncio.timeout(ANSWER_WITHIN):
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "connection_ack":
                return
            if message["type"] == "ping":
                await _send(socket, "pong", message.get("payload"))
    raise _Lost("the server closed the connection")


def _closed(error: ConnectionClosed) -> Exception:
    """What to make of a closed connection by its code: those from 4400 to 4409 would come again every time."""
    close = error.rcvd
    if close is None:
        return _Lost("without a word")
    if close.code in (4401, 4403):
        return ClientError(WRONG_KEY)
    if 4400 <= close.code < 4410 and close.code != 4408:
        return ClientError(f"The server ended the connection: {close.reason or 'no reason'} ({close.code}).")
    return _Lost(f"{close.reason or 'closed'}, {close.code}")


def _refused(errors: list[dict[str, Any]]) -> Exception:
    """What to make of a subscription that the server ended with errors."""
    extensions = errors[0].get("extensions") or {}
    code = extensions.get("code")
    if code == "CURSOR_EXPIRED":
        oldest = extensions.get("oldestCursor")
        rest = f" What is left of the log begins with --after {oldest}" if oldest else ""
        return ClientError(_sentences(errors) + rest)
    if code in ("RATE_LIMITED", "INTERNAL"):
        return _Lost(_sentences(errors))
    return ClientError(WRONG_KEY if code == "UNAUTHENTICATED" else _sentences(errors))


def _waits() -> Iterator[float]:
    """Seconds before each next try: doubling up to a limit, varied, so that clients do not return all at once."""
    wait = FIRST_WAIT
    while True:
        yield wait * random.uniform(0.8, 1.2)  # noqa: S311 - chance, not a secret
        wait = min(wait * 2, LONGEST_WAIT)


def _checked(key: str | None) -> str:
    """The key as it can be sent in a header. Raises ClientError."""
    text = (key or "").strip()
    if not text:
        raise ClientError("Give an API key with --key or in VOLTWIRE_API_KEY.")
    if not (text.isascii() and text.isprintable()):
        raise ClientError(WRONG_KEY)
    return text


def _sentences(errors: list[dict[str, Any]]) -> str:
    return " ".join(dict.fromkeys(str(one["message"]) for one in errors))
