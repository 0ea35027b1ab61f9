"""A web server in the test's own process, on a port of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn

GRACE: Final = 2.0
"""Seconds that requests under way have once the server is to end."""


class WebServer(uvicorn.Server):
    """Ends at once: uvicorn looks every tenth of a second whether it is to, and hundreds of tests have a server."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ending = asyncio.Event()

    async def main_loop(self) -> None:
        # Of its ticks one is enough: it makes the headers that each response has.
        await self.on_tick(0)
        await self.is_ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(GRACE):
                while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.002)
        except TimeoutError:
            for task in state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


@asynccontextmanager
async def web_server(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[WebServer]:
    """Serve on the listener, which is bound, and wait for the server's end."""
    server = WebServer(config)
    serving = asyncio.create_task(server._serve([listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.002)
    try:
        yield server
    finally:
        server.is_ending.set()
        await serving
