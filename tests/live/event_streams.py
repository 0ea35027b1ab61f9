"""A reader of event streams, block by block."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.graphql.serving import EVENTS, Serving

Block = dict[str, str]

CREDENTIAL_ENDED = {
    "message": "The credential has expired or was revoked.",
    "extensions": {"code": "UNAUTHENTICATED"},
}


class Reader:
    """Reads an event stream block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def block(self) -> Block | None:
        """The next block's fields, a comment under the name ""; None at the end of the stream."""
        fields: Block = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        return None

    async def event(self) -> tuple[str, Any]:
        """The next event's cursor and response."""
        while True:
            block = await self.block()
            assert block is not None
            if "event" in block:
                assert block["event"] == "next"
                return block["id"], json.loads(block["data"])

    async def refused(self) -> dict[str, Any]:
        """The one error with which the stream ends."""
        block = await self.block()
        assert block is not None
        assert block.keys() == {"event", "data"}
        assert block["event"] == "next"
        (error,) = json.loads(block["data"])["errors"]
        assert [await self.block(), await self.block()] == [{"event": "complete", "data": ""}, None]
        found: dict[str, Any] = error
        return found


@asynccontextmanager
async def stream(
    served: Serving,
    key: str,
    query: str = EVENTS,
    variables: dict[str, Any] | None = None,
    method: str = "POST",
    **headers: str,
) -> AsyncIterator[Reader]:
    sent = {"accept": "text/event-stream", "x-api-key": key}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"query": query, "variables": variables}
    options: dict[str, Any] = {"json": asked}
    if method == "GET":
        options = {"params": {"query": query, "variables": json.dumps(variables)}}
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream(method, served.http_url, headers=sent, **options) as response,
    ):
        yield Reader(response)
