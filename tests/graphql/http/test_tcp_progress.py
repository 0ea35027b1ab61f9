"""What is seen of a connection's peer, on both event loops."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from app.graphql.http.tcp_progress import keep_little_unsent, reach_of
from tests.events.broadcasters import becomes

SENT = 2_000_000


async def look() -> None:
    """At a peer that reads at last, and at one that is gone."""
    connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: connected.put_nowait(writer), "127.0.0.1", 0)
    reader, peer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=1024)
    writer = await connected.get()
    keep_little_unsent(writer.transport)
    before = reach_of(writer.transport)
    assert before.waiting == 0
    writer.write(b"x" * SENT)
    assert 0 < reach_of(writer.transport).waiting <= SENT
    await reader.readexactly(SENT)
    # The peer's system may wait a little before it says that it has the last of it.
    await becomes(lambda: reach_of(writer.transport) == (before.taken + SENT, before.given, 0))
    assert reach_of(writer.transport).moved_from(before)
    writer.transport.abort()
    assert await reader.read() == b""
    keep_little_unsent(writer.transport)
    assert reach_of(writer.transport).waiting == 0
    peer.close()
    server.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_all_that_is_taken_is_seen(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(look())
