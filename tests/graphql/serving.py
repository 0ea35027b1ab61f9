"""A real uvicorn in this process, with the GraphQL endpoints of live streams over a world's database."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import ClientConnection

from app.graphql.http.origins import Origins
from app.graphql.http.rates import Rates
from app.graphql.http.view import GraphQLView
from app.live.registry import ConnectionRegistry, Timing
from app.live.sse import SseResponder
from app.live.ws.endpoint import SocketEndpoint
from app.live.ws.session import Session
from app.server.uvicorn_http import HttpProtocol
from app.server.uvicorn_websockets import FrameProtocol
from tests.live.listening import Listening, listening
from tests.services.web_server import web_server
from tests.support import World

EVENTS = """
subscription($after: String, $filter: EventFilter) { events(after: $after, filter: $filter) { sequence cursor } }
"""


class Client:
    """A graphql-transport-ws client that sends exactly the given messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.connection.recv())
        return message

    async def init(self, key: str) -> None:
        await self.say(type="connection_init", payload={"apiKey": key})
        assert await self.hear() == {"type": "connection_ack"}

    async def subscribe(
        self, query: str = EVENTS, identifier: str = "1", variables: dict[str, Any] | None = None, **more: Any
    ) -> None:
        payload = {"query": query, "variables": variables, **more}
        await self.say(id=identifier, type="subscribe", payload=payload)

    async def settled(self) -> None:
        """Waits until the server has read all messages, and checks that it has sent nothing else."""
        await self.say(type="ping")
        assert await self.hear() == {"type": "pong"}

    async def events(self, count: int) -> list[int]:
        """The sequences of the next `count` messages."""
        return [(await self.hear())["payload"]["data"]["events"]["sequence"] for _ in range(count)]

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close; earlier messages are dropped."""
        while True:
            try:
                await self.connection.recv()
            except websockets.ConnectionClosed as closed:
                return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@dataclass
class Serving:
    """A running server."""

    connections: ConnectionRegistry
    hub: Listening
    port: int
    server: uvicorn.Server

    @property
    def world(self) -> World:
        return self.hub.world

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Client]:
        """A connected client that has sent nothing yet."""
        options = {"subprotocols": ["graphql-transport-ws"], "compression": None, **options}
        async with websockets.connect(self.url, **options) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def connect(self, key: str, **options: Any) -> AsyncIterator[Client]:
        """A client whose key has been acknowledged."""
        async with self.open(**options) as client:
            await client.init(key)
            yield client

    async def subscriptions(self, count: int) -> None:
        """Waits until `count` are open."""
        while self.connections.hub.subscriptions != count:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


def session_of(served: Serving, number: int) -> Session:
    """The server's session of the n-th open stream."""
    stream = list(served.connections._open)[number]
    assert isinstance(stream, Session)
    return stream


def application(connections: ConnectionRegistry) -> Starlette:
    services, engine = connections.services, connections.engine
    view = GraphQLView(
        services, engine, connections.authenticator, connections.rates, SseResponder(connections)
    )
    return Starlette(
        routes=[
            Route("/graphql", view.__call__, methods=["GET", "POST"]),
            WebSocketRoute("/graphql", SocketEndpoint(connections, Origins(services))),
        ]
    )


@asynccontextmanager
async def serving(
    world: World,
    *,
    frames: bool = True,
    timing: Timing | None = None,
    ping: float = 20,
    rates: Rates | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    """`frames`: uses the own protocols with their access to the transport, else plain ASGI. `ping` is in seconds."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(listening(world, **options))
        rates = rates or Rates(world.services.settings.rate_limit)
        connections = ConnectionRegistry(
            world.services, world.engine, world.authenticator, rates, hub.hub, timing
        )
        listener = socket.socket()
        # The kernel would buffer megabytes for a client that reads nothing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            application(connections),
            http=HttpProtocol if frames else "httptools",
            ws=FrameProtocol if frames else "websockets-sansio",
            ws_per_message_deflate=False,
            ws_max_size=world.services.settings.max_message + 1000,
            ws_ping_interval=ping,
            ws_ping_timeout=ping,
            log_level="warning",
            lifespan="off",
        )
        async with web_server(config, listener) as server:
            try:
                yield Serving(connections, hub, listener.getsockname()[1], server)
            finally:
                await connections.close()
