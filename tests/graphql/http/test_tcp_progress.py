"""The progress of a connection's peer, on both event loops."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from app.graphql.http.tcp_progress import limit_unsent, tcp_progress
from tests.events.broadcasters import becomes

SENT = 2_000_000


async def look() -> None:
    """The peer reads late, and then disconnects."""
    connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: connected.put_nowait(writer), "127.0.0.1", 0)
    reader, peer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=1024)
    writer = await connected.get()
    limit_unsent(writer.transport)
    before = tcp_progress(writer.transport)
    assert before.unacked == 0
    writer.write(b"x" * SENT)
    assert 0 < tcp_progress(writer.transport).unacked <= SENT
    await reader.readexactly(SENT)
    # The peer's system may delay its last acknowledgement.
    await becomes(lambda: tcp_progress(writer.transport) == (before.acked + SENT, before.received, 0))
    assert tcp_progress(writer.transport).differs_from(before)
    writer.transport.abort()
    assert await reader.read() == b""
    limit_unsent(writer.transport)
    assert tcp_progress(writer.transport).unacked == 0
    peer.close()
    server.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_all_that_is_taken_is_seen(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(look())
