"""A server that runs out of files: it keeps some from its connections, and comes back when it had none."""

import asyncio
import resource
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from app.core import descriptors
from tests.system.clients import eventually
from tests.system.deployment import SECRET_KEY, Executed, Process, clean_environment, deployed

NONE_LEFT = "no connection is accepted: the process may open no more files (ulimit -n)"
UNFINISHED = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"


def test_so_many_are_for_connections() -> None:
    assert [descriptors.for_connections(limit) for limit in (1, 256, 1024, 65_536)] == [1, 192, 768, 63_488]


class Limited(Executed):
    """May open 256 files, as a service often may."""

    def command(self) -> Sequence[str | Path]:
        return ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *super().command()]


async def healthy(process: Process, address: str = "127.0.0.1") -> bool:
    try:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            return (await client.get(f"{process.url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more loopback addresses than one")
async def test_one_address_cannot_keep_the_others_out(tmp_path: Path) -> None:
    """256 files, of which 192 are for connections, of which an address gets half."""
    environment = clean_environment() | {
        "VOLTWIRE_DATA_DIR": str(tmp_path),
        "VOLTWIRE_SECRET_KEY": SECRET_KEY,
    }
    process = Limited("serve", environment)
    try:
        await asyncio.to_thread(process.start)
        async with AsyncExitStack() as stack:
            answers = []
            for _ in range(400):
                reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
                stack.callback(writer.close)
                writer.write(UNFINISHED)
                answers.append(asyncio.create_task(_status(reader)))
            statuses = await asyncio.gather(*answers)
            assert await healthy(process, "127.0.0.2")
        assert statuses.count(b"200") <= 96
        assert statuses.count(b"200") + statuses.count(b"429") == 400
        assert await process.terminate() == 0
    finally:
        process.kill()
        process.close()


async def _status(reader: asyncio.StreamReader) -> bytes:
    """A refusal may be lost with its connection, which is closed with our request unread."""
    try:
        return (await reader.readline()).split(b" ")[1]
    except (ConnectionError, IndexError):
        return b"429"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
async def test_a_server_without_a_file_for_a_connection_says_so_once_and_comes_back(tmp_path: Path) -> None:
    async with deployed(["serve"], tmp_path) as deployment:
        (process,) = deployment.processes
        assert process.process is not None
        pid = process.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # Fewer than are open already, so that there is none for the next, whatever is closed for it.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        _reader, writer = await asyncio.open_connection("127.0.0.1", process.port)

        async def told() -> bool:
            return any(record["event"] == NONE_LEFT for record in process.records())

        await eventually(told)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await eventually(lambda: healthy(process))
        writer.close()
        messages = [record["event"] for record in process.records()]
        assert messages.count(NONE_LEFT) == 1
        assert messages.count("connections are accepted again") == 1
