"""WebSocket frame by frame, as no library sends them: broken frames get the close codes of RFC 6455."""

import asyncio
import gc
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.live.registry import PEER
from app.live.ws.send_queue import FrameSendQueue
from tests.events.broadcasters import becomes
from tests.graphql.serving import Serving, serving, session_of
from tests.live.ws.raw_socket import (
    BROKEN,
    CLOSE,
    CONTINUATION,
    MEBIBYTE,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Raw,
    closing,
    frame,
    raw,
    text,
)
from tests.support import TestAccount, World


@asynccontextmanager
async def connected(served: Serving, key: str | None = None) -> AsyncIterator[Raw]:
    """A connection that must leave nothing behind in the server; with a key, it has been acknowledged."""
    async with raw(served.port, key) as client:
        yield client
    await becomes(lambda: len(served.connections) == 0)


async def test_a_message_may_come_in_pieces(served: Serving, holder: TestAccount) -> None:
    whole = json.dumps({"type": "ping", "payload": {"text": "é😀"}}, ensure_ascii=False).encode()
    async with connected(served, holder.key) as client:
        # Each byte in its own frame, which splits characters too; pings may come in between.
        pieces = [
            frame(TEXT if at == 0 else CONTINUATION, whole[at : at + 1], fin=at == len(whole) - 1)
            for at in range(len(whole))
        ]
        client.send(*pieces[:5], frame(PING, b"hello"), *pieces[5:])
        assert await client.hear() == (PONG, b"hello")
        assert await client.message() == {"type": "pong", "payload": {"text": "é😀"}}
        # Each byte in its own packet.
        for byte in text({"type": "ping"}):
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert await client.message() == {"type": "pong"}


async def test_several_messages_may_come_at_once(served: Serving, holder: TestAccount) -> None:
    async with connected(served) as client:
        subscribe = {"id": "1", "type": "subscribe", "payload": {"query": "{ __typename }"}}
        client.send(
            text({"type": "connection_init", "payload": {"apiKey": holder.key}}),
            *(text({"type": "ping", "payload": {"n": number}}) for number in range(50)),
            text(subscribe),
        )
        assert await client.message() == {"type": "connection_ack"}
        for number in range(50):
            assert await client.message() == {"type": "pong", "payload": {"n": number}}
        answer = {"id": "1", "type": "next", "payload": {"data": {"__typename": "Query"}}}
        assert await client.message() == answer
        assert await client.message() == {"id": "1", "type": "complete"}


async def test_a_second_init_before_the_acknowledgement_closes_4429(
    served: Serving, holder: TestAccount
) -> None:
    async with connected(served) as client:
        init = text({"type": "connection_init", "payload": {"apiKey": holder.key}})
        client.send(init, init)
        assert await client.message() == {"type": "connection_ack"}
        assert await client.closed() == 4429


async def test_what_is_broken_gets_its_code(served: Serving, holder: TestAccount) -> None:
    heard = {}
    for name, (frames, _) in BROKEN.items():
        async with connected(served, holder.key) as client:
            client.send(*frames)
            heard[name] = await client.closed()
    assert heard == {name: code for name, (_, code) in BROKEN.items()}
    assert served.connections.closes == Counter(heard.values())


async def test_a_close_is_answered_with_its_own_code(served: Serving, holder: TestAccount) -> None:
    for code in (1000, 1001, 1011, 3000, 4999):
        async with connected(served, holder.key) as client:
            client.send(closing(code, b"bye"))
            assert await client.closed() == code


async def test_a_peers_own_code_is_not_taken_for_ours(small_world: World, holder: TestAccount) -> None:
    async with serving(small_world) as served:
        for code in (1000, 1002, 1013, 4403, 4999):
            async with connected(served, holder.key) as client:
                client.send(closing(code))
                assert await client.closed() == code
        async with connected(served, holder.key) as client:
            client.writer.transport.abort()
        async with connected(served) as client:
            client.send(text({"type": "connection_init", "payload": {"apiKey": "wrong"}}))
            assert await client.closed() == 4403
        assert served.connections.closes == {PEER: 6, 4403: 1}


async def test_an_empty_close_is_answered_with_one(served: Serving) -> None:
    async with connected(served) as client:
        client.send(frame(CLOSE))
        assert await client.hear() == (CLOSE, b"")
        assert await client.reader.read() == b""


async def test_an_upgrade_that_is_none_is_refused(served: Serving) -> None:
    for version, more in ((12, ""), (13, "Sec-WebSocket-Version: 13\r\n"), (13, "Sec-WebSocket-Key: x\r\n")):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(UPGRADE.format(version=version, more=more).encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_compression_is_not_agreed_to(served: Serving) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(UPGRADE.format(version=13, more="Sec-WebSocket-Extensions: permessage-deflate\r\n").encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"sec-websocket-extensions" not in answer.lower()
    writer.close()


async def test_a_client_that_is_still_sending_hears_why_it_is_closed(
    small_world: World, holder: TestAccount
) -> None:
    """The client would see a broken connection (1006) if the server closed with bytes unread."""
    async with serving(small_world) as served, connected(served, holder.key) as client:
        client.send(frame(TEXT, b"x" * MEBIBYTE, fin=False))
        more = frame(CONTINUATION, b"x" * MEBIBYTE, fin=False)
        for _ in range(16):
            client.send(more)
            await client.writer.drain()
        assert await client.closed() == 1009
        assert served.connections.closes == {1009: 1}


async def test_pings_of_a_client_that_takes_nothing_are_not_kept(
    small_world: World, holder: TestAccount
) -> None:
    async with serving(small_world) as served, connected(served, holder.key) as client:
        pings = frame(PING, b"x" * 125) * 500
        send_queue = session_of(served, 0).send_queue
        # This side stops reading at once, and the kernel buffers little.
        for _ in range(400):
            client.send(pings)
            await client.writer.drain()
            assert send_queue.unsent < MEBIBYTE
        client.send(text({"type": "ping", "payload": {"last": True}}))
        while (heard := await client.hear())[0] == PONG:
            assert heard[1] == b"x" * 125
        assert json.loads(heard[1]) == {"type": "pong", "payload": {"last": True}}


async def test_pieces_without_content_are_not_kept(small_world: World, holder: TestAccount) -> None:
    async with serving(small_world) as served, connected(served, holder.key) as client:
        send_queue = session_of(served, 0).send_queue
        assert isinstance(send_queue, FrameSendQueue)
        client.send(frame(TEXT, b'{"type"', fin=False))
        client.send(*[frame(CONTINUATION, fin=False)] * 100_000)
        await client.writer.drain()
        client.send(frame(PING, b"so far"))
        assert await client.hear() == (PONG, b"so far")
        assert len(send_queue._protocol.frames) == 1
        client.send(frame(CONTINUATION, b':"ping"}'))
        assert await client.message() == {"type": "pong"}


@pytest.mark.parametrize("by", ["us", "its peer"])
async def test_a_closed_socket_is_written_to_no_more_from_that_moment_on(
    small_world: World, holder: TestAccount, by: str
) -> None:
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { events { id } }"}}
    async with serving(small_world) as served, connected(served, holder.key) as client:
        client.send(text(subscribe))
        await served.subscriptions(1)
        send_queue = session_of(served, 0).send_queue
        assert isinstance(send_queue, FrameSendQueue)
        (group,) = served.connections.hub._groups()
        assert (len(group.live._direct), len(group.live._indirect)) == (1, 0)
        if by == "us":
            send_queue._protocol.close_with(1001, "")
        else:
            send_queue._protocol.data_received(closing(1001))
        assert (len(group.live._direct), len(group.live._indirect)) == (0, 1)
        assert await client.closed() == 1001


async def test_a_socket_that_is_gone_leaves_nothing_behind(small_world: World, holder: TestAccount) -> None:
    """No garbage collection is needed: after a deploy there would be very much to collect."""
    async with serving(small_world) as served:
        gc.collect()
        gc.disable()
        try:
            async with connected(served, holder.key):
                session = session_of(served, 0)
                assert isinstance(session.send_queue, FrameSendQueue)
                left = [weakref.ref(session), weakref.ref(session.send_queue._protocol)]
                del session
            await becomes(lambda: [one() for one in left] == [None, None])
        finally:
            gc.enable()
