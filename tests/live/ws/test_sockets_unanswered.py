"""Peers whose pong does not arrive: slow ones keep their sockets, the others get a close code."""

import struct

from app.auth.actor import Actor
from app.live.ws.send_queue import FrameSendQueue
from app.server.uvicorn_websockets import FrameProtocol
from tests.events.broadcasters import becomes
from tests.graphql.serving import Serving, serving, session_of
from tests.live.ws.raw_socket import CLOSE, PING, PONG, TEXT, Raw, frame, raw, text
from tests.live.ws.test_sockets_slow import WIDE
from tests.support import TestAccount, World

EVENTS = 300


async def behind(served: Serving, client: Raw, owner: Actor) -> FrameProtocol:
    """Give the server far more to send than the client takes, and keep it from reading."""
    client.send(text({"id": "1", "type": "subscribe", "payload": {"query": WIDE}}))
    await served.subscriptions(1)
    await served.hub.customers(owner, EVENTS)
    send_queue = session_of(served, 0).send_queue
    assert isinstance(send_queue, FrameSendQueue)
    await becomes(lambda: not send_queue.has_room)
    client.send(*[text({"type": "ping"})] * 3)
    protocol = send_queue._protocol
    await becomes(lambda: protocol.read_paused)
    return protocol


def ping(protocol: FrameProtocol, patience: float) -> None:
    """Send the keepalive ping that is due in 20 s, with this timeout."""
    protocol.stop_keepalive()
    protocol.ping_timeout = patience
    protocol.send_keepalive_ping()


async def code_after(client: Raw) -> int:
    """The code of the close frame; earlier frames are dropped."""
    while True:
        opcode, payload = await client.hear()
        if opcode == CLOSE:
            return int(struct.unpack("!H", payload[:2])[0])


async def test_a_slow_peer_is_not_given_up_while_nobody_reads_what_it_answers(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    async with serving(small_world) as served, raw(served.port, holder.key) as client:
        protocol = await behind(served, client, owner)
        heard = {TEXT: 0, PING: 0}

        async def hear() -> None:
            opcode, payload = await client.hear()
            heard[opcode] += 1
            if opcode == PING:
                client.send(frame(PONG, payload))

        ping(protocol, 0.5)
        for _ in range(4):
            timer = protocol.pong_timer
            await hear()
            # The client has taken a little, and its pong has not arrived for another timeout.
            await becomes(lambda timer=timer: protocol.pong_timer is not timer)  # type: ignore[misc]
            assert protocol.read_paused
            assert not served.connections.closes
        while heard[TEXT] < EVENTS + 3:
            await hear()
        assert heard[PING]
        assert not served.connections.closes
        assert served.connections.hub.subscriptions == 1


async def test_a_peer_that_takes_nothing_hears_at_last_why_it_was_closed(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    """The client would see a broken connection (1006) if the server left bytes unread."""
    async with serving(small_world) as served, raw(served.port, holder.key) as client:
        ping(await behind(served, client, owner), 0.1)
        send_queue = session_of(served, 0).send_queue
        # The close was sent and the queue dropped, though the client still takes nothing.
        await becomes(lambda: served.connections.closes == {1013: 1})
        assert send_queue.closed
        await becomes(lambda: len(served.connections) == 0)
        assert send_queue._queued == 0
        client.send(*[text({"type": "ping"})] * 3)
        assert await code_after(client) == 1013
        client.send(frame(CLOSE, (1013).to_bytes(2)))
        assert await client.reader.read() == b""


async def test_a_closed_peer_may_go_on_reading_to_the_close(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    async with serving(small_world) as served, raw(served.port, holder.key) as client:
        protocol = await behind(served, client, owner)
        protocol.close_timeout = 0.5
        session_of(served, 0).forbid()
        for _ in range(3):
            timer = protocol.close_timer
            await client.hear()
            await becomes(lambda timer=timer: protocol.close_timer is not timer)  # type: ignore[misc]
            client.send(text({"type": "ping"}))
        assert await code_after(client) == 4403
        client.send(frame(CLOSE, (4403).to_bytes(2)))
        assert await client.reader.read() == b""
