"""A relay between a broadcaster and one process, for the tests of backends and doorbell."""

import asyncio
import contextlib
import ssl

from tests.events.broadcasters import becomes, tasks
from tests.services.ports import free_port


class Gate:
    """A TCP relay that can be shut, so that only the process behind it loses the server."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._tls = tls
        self.port = free_port()
        self.trips = 0
        """The clients' round trips: each time one sent something at first or after an answer."""
        self._client_spoke = False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port, ssl=self._tls)

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await self._server.wait_closed()

    async def end(self) -> None:
        """Shut for good; the relaying tasks end a turn later."""
        await self.shut()
        await becomes(lambda: not any("Gate" in repr(task) for task in tasks()))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]
        await asyncio.gather(
            self._copy(reader, far_writer, from_client=True),
            self._copy(far_reader, writer, from_client=False),
        )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.trips += from_client and not self._client_spoke
                self._client_spoke = from_client
                writer.write(data)
        writer.close()
