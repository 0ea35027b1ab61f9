"""Many clients that lose their connections all at once, as on a deploy, and come back where they are sent."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from tests.services.patience import PATIENCE
from tests.system.deployment import Process

SEQUENCES = "subscription ($after: String) { events(after: $after) { sequence cursor } }"


@dataclass
class Roamer:
    """A client that always connects again, and goes on after the last event that it has seen."""

    key: str
    cursor: str
    sequences: list[int] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    """How each connection ended."""

    async def follow(self, crowd: "Crowd") -> None:
        with contextlib.suppress(OSError, websockets.InvalidHandshake):
            async with websockets.connect(
                crowd.server.socket_url,
                subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
                compression=None,
                proxy=None,
            ) as connection:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await self._listen(connection, crowd)
                await connection.wait_closed()
            self.closes.append(connection.close_code or 1006)

    async def _listen(self, connection: ClientConnection, crowd: "Crowd") -> None:
        await connection.send(json.dumps({"type": "connection_init", "payload": {"apiKey": self.key}}))
        asked = {"query": SEQUENCES, "variables": {"after": self.cursor}}
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": asked}))
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
        async for text in connection:
            self._take(json.loads(text), crowd)

    def _take(self, message: dict[str, Any], crowd: "Crowd") -> None:
        # A ping says how far an idle client has read.
        if message["type"] != "ping":
            event = message["payload"]["data"]["events"]
            self.cursor = event["cursor"]
            self.sequences.append(event["sequence"])
            crowd.changed.set()


class Crowd:
    """Roamers, each after a cursor of its own; all of them connect to `server`, which may be another one each time."""

    def __init__(self, key: str, cursors: list[str], server: Process) -> None:
        self.server = server
        self.roamers = [Roamer(key, cursor) for cursor in cursors]
        self.changed = asyncio.Event()
        self._roaming = [asyncio.create_task(self._roam(one)) for one in self.roamers]

    async def reached(self, sequence: int) -> None:
        """Return when everyone has seen this one, or a later one."""
        async with asyncio.timeout(PATIENCE):
            while not all(one.sequences and one.sequences[-1] >= sequence for one in self.roamers):
                self.changed.clear()
                await self.changed.wait()

    async def leave(self) -> None:
        for task in self._roaming:
            task.cancel()
        await asyncio.gather(*self._roaming, return_exceptions=True)

    async def _roam(self, roamer: Roamer) -> None:
        while True:
            await roamer.follow(self)
