"""Readers of event streams that are slow, or take nothing."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from app.auth.actor import Actor
from app.live.registry import Timing
from app.live.sink import HIGH_WATER
from app.live.sse import EventStreamResponse
from tests.events.broadcasters import becomes
from tests.graphql.serving import Serving, serving
from tests.support import TestAccount, World

# About 6 KiB an event.
WIDE = "subscription { events { sequence " + " ".join(f"d{n}: data" for n in range(30)) + " } }"


@asynccontextmanager
async def small_reader(served: Serving, key: str, query: str) -> AsyncIterator[asyncio.StreamReader]:
    """The body of an event stream, in a client with small receive buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    head = (
        f"GET /graphql?query={quote(query)} HTTP/1.0\r\nAccept: text/event-stream\r\nX-Api-Key: {key}\r\n\r\n"
    )
    writer.write(head.encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    while await reader.readline() != b"\r\n":
        pass
    try:
        yield reader
    finally:
        writer.close()


async def blocks(reader: asyncio.StreamReader) -> AsyncIterator[int]:
    """The sequences of the events, read a little at a time, until the end."""
    unread = b""
    while some := await reader.read(4096):
        *whole, unread = (unread + some).split(b"\n\n")
        for block in whole:
            if b"data: " in block:
                yield json.loads(block.partition(b"data: ")[2])["data"]["events"]["sequence"]
        await asyncio.sleep(0)


def stream_of(served: Serving) -> EventStreamResponse:
    (only,) = served.connections._open
    assert isinstance(only, EventStreamResponse)
    return only


async def test_a_slow_reader_misses_nothing_and_its_queue_is_bounded(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    async with small_reader(served, holder.key, WIDE) as reader:
        await served.subscriptions(1)
        await served.hub.customers(owner, 400)
        slow = stream_of(served)
        await becomes(lambda: not slow.has_room)
        await served.hub.customers(owner, 100)
        assert HIGH_WATER <= slow._queued < 2 * HIGH_WATER
        sequences = blocks(reader)
        assert [await anext(sequences) for _ in range(500)] == list(range(2, 502))
        await served.hub.customer(owner)
        assert await anext(sequences) == 502
    await becomes(lambda: len(served.connections) == 0)


async def test_a_reader_that_takes_nothing_is_ended(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=0.05, rounds=1, stalled=0.3, close=0.1)
    async with (
        serving(small_world, timing=timing) as served,
        small_reader(served, holder.key, WIDE) as reader,
    ):
        await served.subscriptions(1)
        await served.hub.customers(owner, 400)
        await served.subscriptions(0)
        await becomes(lambda: len(served.connections) == 0)
        # It can still read whole events, but not all of them.
        sequences = [sequence async for sequence in blocks(reader)]
        assert sequences == list(range(2, len(sequences) + 2))
        assert len(sequences) < 400


async def test_a_reader_that_takes_little_at_a_time_is_kept_however_slow_it_is(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=600, stalled=30)
    async with (
        serving(small_world, timing=timing) as served,
        small_reader(served, holder.key, WIDE) as reader,
    ):
        await served.subscriptions(1)
        await served.hub.customers(owner, 400)
        slow, now = stream_of(served), time.monotonic()
        await becomes(lambda: not slow.has_room)
        sequences, told = blocks(reader), list[int]()
        # A part of 64 KiB takes it longer than it may stand still.
        for turn in range(12):
            slow.maintain(now + 29 * turn)
            taken = slow._bytes_taken
            while slow._bytes_taken == taken:
                told.append(await anext(sequences))
        assert served.connections.hub.subscriptions == 1
        assert len(told) < 200
        told += [await anext(sequences) for _ in range(400 - len(told))]
        assert told == list(range(2, 402))


async def test_a_stall_is_timed_from_where_the_reader_fell_behind(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=600, stalled=30)
    async with (
        serving(small_world, timing=timing) as served,
        small_reader(served, holder.key, WIDE) as reader,
    ):
        await served.subscriptions(1)
        slow, now = stream_of(served), time.monotonic()
        await served.hub.customers(owner, 400)
        await becomes(lambda: not slow.has_room)
        # The time before it fell behind does not count.
        slow.maintain(now + 1000)
        slow.maintain(now + 1029)
        assert served.connections.hub.subscriptions == 1
        taken = slow._bytes_taken
        while slow._bytes_taken == taken:
            await reader.read(1024)
            await asyncio.sleep(0)
        slow.maintain(now + 1040)
        slow.maintain(now + 1069)
        assert served.connections.hub.subscriptions == 1
        slow.maintain(now + 1070)
        assert served.connections.hub.subscriptions == 0
