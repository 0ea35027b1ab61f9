"""Clients that read slowly, read nothing or vanish do not disturb others."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.auth.actor import Actor
from app.live.registry import Timing
from app.live.sink import HIGH_WATER
from tests.events.broadcasters import becomes
from tests.graphql.serving import Client, Serving, serving, session_of
from tests.live.event_streams import stream
from tests.live.ws.raw_socket import closing
from tests.support import TestAccount, World

# About 6 KiB an event.
WIDE = "subscription { events { sequence " + " ".join(f"d{n}: data" for n in range(30)) + " } }"


@asynccontextmanager
async def small_client(served: Serving, key: str) -> AsyncIterator[Client]:
    """A client with small receive buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.port))
    async with served.connect(key, sock=sock, max_queue=1, write_limit=1024, close_timeout=1) as client:
        yield client


@pytest.fixture(params=[True, False], ids=["frames", "asgi"])
def frames(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_slow_client_misses_nothing_and_holds_up_nobody(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    async with small_client(served, holder.key) as slow, served.connect(holder.key) as quick:
        await slow.subscribe(WIDE)
        await quick.subscribe(WIDE)
        await served.subscriptions(2)
        for _ in range(14):
            await served.hub.customers(owner, 20)
            await quick.events(20)
        send_queue = session_of(served, 0).send_queue
        await becomes(lambda: not send_queue.has_room)
        # Further events add nothing to its queue.
        await served.hub.customers(owner, 20)
        await quick.events(20)
        assert HIGH_WATER * 0.9 < send_queue.unsent < HIGH_WATER + 20_000
        assert await slow.events(300) == list(range(2, 302))
        await served.hub.customer(owner)
        assert await slow.events(1) == await quick.events(1) == [302]


async def test_a_client_that_takes_nothing_is_closed_with_1013(
    frames: bool, small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=600, stalled=30, idle=600)
    async with (
        serving(small_world, frames=frames, timing=timing) as served,
        small_client(served, holder.key) as stuck,
        served.connect(holder.key) as quick,
    ):
        await stuck.subscribe(WIDE)
        await quick.subscribe(WIDE)
        await served.subscriptions(2)
        await served.hub.customers(owner, 300)
        await quick.events(300)
        sessions, now = [session_of(served, number) for number in range(2)], time.monotonic()
        await becomes(lambda: [one.send_queue.has_room for one in sessions] == [False, True])
        while served.connections.hub.subscriptions == 2:
            for one in sessions:
                one.maintain(now)
            now += 31
            # Its kernel may still take bytes.
            await asyncio.sleep(0.005)
        await served.subscriptions(1)
        assert served.connections.closes == {1013: 1}
        assert await stuck.closed() == (1013, "Too slow: resume from the last cursor")
        await served.hub.customer(owner)
        assert await quick.events(1) == [302]


async def test_a_client_that_vanishes_leaves_nothing_behind(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    async with small_client(served, holder.key) as gone:
        await gone.subscribe(WIDE)
        await served.subscriptions(1)
        await served.hub.customers(owner, 300)
        await becomes(lambda: not session_of(served, 0).send_queue.has_room)
        gone.connection.transport.abort()
    await served.subscriptions(0)
    await becomes(lambda: len(served.connections) == 0)


async def test_kept_payloads_and_pages_count_for_their_bound(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    """Most operation ids never recur, and a message encoded for one of them would be kept in vain."""
    await served.hub.customers(owner, 20)
    begin = await served.world.data("{ eventStream { oldestCursor } }", key=holder.key)
    after = {"after": begin["eventStream"]["oldestCursor"]}
    query = WIDE.replace("subscription {", "subscription($after: String) {").replace(
        "events {", "events(after: $after) {"
    )
    async with served.connect(holder.key) as client, stream(served, holder.key, query, after) as reader:
        for number in range(20):
            await client.subscribe(query, f"{number}-of-many", after)
        assert len(await client.events(20 * 21)) == 20 * 21
        assert [(await reader.event())[1]["data"]["events"]["sequence"] for _ in range(21)] == list(
            range(1, 22)
        )
        await served.hub.customer(owner)
        await client.events(20)
        late = [f"{number}-late" for number in range(20)]
        for identifier in late:
            await client.subscribe(query, identifier, after)
        await client.events(20 * 22)
        (group,) = served.connections.hub._groups()
        assert group.pages
        batches = [batch for page in group.pages for batch in page.batches]
        remembered = [payload for batch in batches for payload in batch] + list(group.recent)
        kept = [len(payload.body) + sum(map(len, payload.encoded.values())) for payload in remembered]
        kept += [sum(map(len, batch.encoded.values())) for batch in batches]
        assert (
            sum(kept)
            <= served.connections.hub.runtime.recent.bytes
            < 3 * sum(len(one.body) for one in remembered)
        )
    await becomes(lambda: len(served.connections) == 0)


async def test_a_client_that_only_asks_is_read_no_faster_than_it_listens(
    served: Serving, holder: TestAccount
) -> None:
    async with small_client(served, holder.key) as client:

        async def ask() -> None:
            for number in range(400):
                await client.say(type="ping", payload={"n": number, "x": "x" * 10_000})

        asking = asyncio.create_task(ask())
        send_queue = session_of(served, 0).send_queue
        await becomes(lambda: not send_queue.has_room)
        assert send_queue.unsent < HIGH_WATER + 20_000
        for number in range(400):
            assert (await client.hear())["payload"]["n"] == number
        await asking


async def test_a_peer_that_answers_no_ping_is_closed_with_1013(small_world: World) -> None:
    async with serving(small_world, ping=0.1) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        ping = await reader.readexactly(6)
        assert ping[:2] == b"\x89\x04"
        told = b"\x88\x15" + (1013).to_bytes(2) + b"no answer to a ping"
        assert await reader.readexactly(len(told)) == told
        await becomes(lambda: len(served.connections) == 0)
        writer.write(closing(1013))
        assert await reader.read() == b""
        writer.close()
