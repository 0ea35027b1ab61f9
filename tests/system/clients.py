"""A customer's programs: a GraphQL client, a WebSocket client and an event-stream client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

from tests.services.patience import PATIENCE
from tests.services.records import Records

T = TypeVar("T")
EVENTS = """
subscription ($after: String, $filter: EventFilter) {
  events(after: $after, filter: $filter) { __typename id name sequence cursor occurredAt data }
}
"""


class Api:
    """GraphQL over HTTP with a key, or with none."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"x-api-key": key} if key else {}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole response."""
        response = await self.http.post("/graphql", json={"query": query, "variables": variables})
        answer: dict[str, Any] = response.json()
        return answer

    async def data(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The response's data; there must be no error."""
        answer = await self.ask(query, variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    async def mutate(self, name: str, result: str, /, **values: Any) -> dict[str, Any]:
        """The payload of one mutation; no rule may have refused it."""
        kind = f"{name[0].upper()}{name[1:]}Input"
        call = f"{name}(input: $input) {{ {result} userErrors {{ code message field }} }}"
        data = await self.data(f"mutation ($input: {kind}!) {{ {call} }}", input=values)
        payload: dict[str, Any] = data[name]
        assert payload.pop("userErrors") == []
        return payload

    async def latest_cursor(self) -> str:
        """Where the account's log ends now."""
        stream = (await self.data("{ eventStream { latestCursor } }"))["eventStream"]
        cursor: str = stream["latestCursor"]
        return cursor

    async def last_sequence(self) -> int:
        """Of the account's last event."""
        (last,) = (await self.data("{ events(last: 1) { nodes { sequence } } }"))["events"]["nodes"]
        sequence: int = last["sequence"]
        return sequence


class Socket:
    """A graphql-transport-ws connection that keeps what comes and answers pings."""

    def __init__(self, connection: ClientConnection) -> None:
        self.events: Records[dict[str, Any]] = Records()
        """The events of all `next` messages, in order."""
        self.others: Records[dict[str, Any]] = Records()
        """Acknowledgement, pongs, errors and completions."""
        self.pings: Records[dict[str, Any]] = Records()
        """The pings that carry cursors of idle subscriptions."""
        self._connection = connection
        self._reading = asyncio.create_task(self._read())

    @property
    def sequences(self) -> list[int]:
        return [event["sequence"] for event in self.events]

    async def say(self, **message: Any) -> None:
        await self._connection.send(json.dumps(message))

    async def initialise(self, key: str) -> None:
        await self.say(type="connection_init", payload={"apiKey": key})
        await self.others.wait_for(lambda message: message["type"] == "connection_ack")

    async def subscribe(self, identifier: str = "1", query: str = EVENTS, **variables: Any) -> None:
        await self.say(id=identifier, type="subscribe", payload={"query": query, "variables": variables})

    async def settled(self) -> None:
        """Return when everything that was sent before now has come."""
        pongs = sum(message["type"] == "pong" for message in self.others)
        await self.say(type="ping")
        await self.others.wait_for(
            lambda _: sum(message["type"] == "pong" for message in self.others) > pongs
        )

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close, once it comes; 1006 without one."""
        await self._reading
        code = self._connection.close_code
        return (1006 if code is None else code), self._connection.close_reason or ""

    async def close(self, code: int) -> None:
        """Close with a code of the client's choice."""
        await self._connection.close(code)

    def abort(self) -> None:
        """Drop the connection without a word, as a phone in a tunnel does."""
        self._connection.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in self._connection:
                await self._take(json.loads(text))

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "next":
            payload = message["payload"]
            if "data" in payload:
                assert "errors" not in payload, payload
                self.events.add(payload["data"]["events"])
            else:
                self.errors = [error["extensions"]["code"] for error in payload["errors"]]
        elif message["type"] == "ping":
            self.pings.add(message)
            await self.say(type="pong")
        else:
            self.others.add(message)


@contextlib.asynccontextmanager
async def socket(url: str, key: str) -> AsyncIterator[Socket]:
    """A connection to `ws://…/graphql` whose key was acknowledged."""
    # No queue limit: a test that looks elsewhere for a while is no slow consumer.
    async with websockets.connect(
        url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], max_queue=None, proxy=None
    ) as connection:
        client = Socket(connection)
        await client.initialise(key)
        yield client


class EventStream:
    """A response of `text/event-stream`, read to its end in the background."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: Records[dict[str, Any]] = Records()
        self.ids: Records[str] = Records()
        """The last is what a browser would send as Last-Event-ID when it reconnects."""
        self.errors: list[str] = []
        """The codes of the errors that it ended with."""
        self.completed = False
        self._response = response
        self._reading = asyncio.create_task(self._read())

    @property
    def sequences(self) -> list[int]:
        return [event["sequence"] for event in self.events]

    @property
    def last_id(self) -> str | None:
        return self.ids[-1] if self.ids else None

    async def ended(self) -> None:
        """Return when the server has ended the stream, or the connection is lost."""
        await self._reading

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        block: dict[str, str] = {}
        with contextlib.suppress(httpx.TransportError):
            async for line in self._response.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    block[name] = value.removeprefix(" ")
                else:
                    self._take(block)
                    block = {}

    def _take(self, block: dict[str, str]) -> None:
        # An id counts once its block is whole, as in a browser.
        if "id" in block:
            self.ids.add(block["id"])
        if block.get("event") == "complete":
            self.completed = True
        elif block.get("event") == "next":
            payload = json.loads(block["data"])
            if "data" in payload:
                assert "errors" not in payload, payload
                self.events.add(payload["data"]["events"])
            else:
                self.errors = [error["extensions"]["code"] for error in payload["errors"]]


@contextlib.asynccontextmanager
async def event_stream(
    api: Api, query: str = EVENTS, last_event_id: str | None = None, **variables: Any
) -> AsyncIterator[EventStream]:
    """A subscription over Server-Sent Events."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
    request = api.http.build_request(
        "POST", "/graphql", json={"query": query, "variables": variables}, headers=headers, timeout=None
    )
    response = await api.http.send(request, stream=True)
    try:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8", await response.aread()
        stream = EventStream(response)
        try:
            yield stream
        finally:
            await stream.close()
    finally:
        await response.aclose()


async def eventually(look: Callable[[], Awaitable[T | None]], patience: float = PATIENCE) -> T:
    """Call `look` until it gives something, and give that. Raises `TimeoutError` after `patience` seconds.

    Only for what nobody announces, such as an outcome that is written down after its delivery has arrived.
    """
    async with asyncio.timeout(patience):
        while not (found := await look()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
    return found
