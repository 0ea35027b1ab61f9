"""Many sockets that come back at once: their credentials end as ever, and each gets all that it missed."""

import asyncio
import itertools
import logging
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.accounts import actions as accounts
from app.auth.actor import Actor
from app.auth.api_keys import ApiKey
from app.core import clock
from app.graphql.http.rates import Rates
from app.live.registry import Timing
from app.live.ws.send_queue import FrameSendQueue
from app.server.uvicorn_websockets import READ_AT_ONCE, FrameProtocol
from tests.accounts.state import reads
from tests.events.broadcasters import becomes
from tests.graphql.serving import EVENTS, Client, Serving, serving, session_of
from tests.live.ws.raw_socket import PING, frame, raw, text
from tests.support import TestAccount, World
from tests.support import world as open_world

SOCKETS = 150
MISSED = 20
DOCUMENTS = 6


async def test_each_of_many_sockets_gets_all_that_it_missed_in_order(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    found = await served.world.data("{ eventStream { latestCursor } }", key=holder.key)
    after = {"after": found["eventStream"]["latestCursor"]}
    await served.hub.customers(owner, MISSED)
    async with AsyncExitStack() as stack:

        async def come_back(number: int) -> Client:
            client = await stack.enter_async_context(served.connect(holder.key))
            await client.subscribe(EVENTS, f"own-{number}" if number % 2 else "1", after)
            return client

        with reads(served.world.database) as statements:
            clients = await asyncio.gather(*map(come_back, range(SOCKETS)))
            for client in clients:
                assert await client.events(MISSED) == list(range(2, 2 + MISSED))
        await served.hub.customer(owner)
        for client in clients:
            assert await client.events(1) == [2 + MISSED]
        assert served.connections.hub.groups == 1
        # Nothing is read for each of them.
        assert len(statements) < SOCKETS


async def test_a_socket_writes_no_line_to_the_log(
    small_world: World, holder: TestAccount, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(small_world) as served:
        with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, "uvicorn.error"):
            async with served.connect(holder.key) as client:
                await client.subscribe()
                await client.settled()
            await becomes(lambda: len(served.connections) == 0)
        assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_key_that_is_revoked_while_many_come_back_ends_all_its_sockets(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    """By another process, of which this one hears nothing; sockets of other keys stay."""
    url = str(small_world.services.settings.database_url)
    async with (
        # Sockets that come too late are told that their key is wrong, however many they are.
        serving(small_world, timing=Timing(check=0.05), rates=Rates(10 * SOCKETS)) as served,
        open_world(url) as other,
        AsyncExitStack() as stack,
    ):
        async with other.database.transaction() as session:
            key, secret = await accounts.create_api_key(session, owner, name="second")
        connected = asyncio.Event()

        async def come_back(number: int) -> Client:
            client = await stack.enter_async_context(served.open())
            await client.say(type="connection_init", payload={"apiKey": secret})
            await client.say(id="1", type="subscribe", payload={"query": EVENTS})
            if number == SOCKETS // 3:
                connected.set()
            return client

        async def revoke() -> None:
            await connected.wait()
            async with other.database.transaction() as session:
                revoking = update(ApiKey).where(col(ApiKey.id) == key.id)
                await session.execute(revoking.values(revoked_at=clock.now()))

        staying = await stack.enter_async_context(served.connect(holder.key))
        await staying.subscribe()
        *clients, _ = await asyncio.gather(*map(come_back, range(SOCKETS)), revoke())
        assert {(await client.closed())[0] for client in clients if client is not None} == {4403}
        await becomes(lambda: len(served.connections) == 1)
        await served.hub.customer(owner)
        assert await staying.events(1) == [2]


async def test_documents_of_one_socket_are_read_one_in_a_turn_of_the_loop(
    small_world: World, holder: TestAccount
) -> None:
    async with serving(small_world) as served, raw(served.port, holder.key) as client:
        queue = session_of(served, 0).send_queue
        assert isinstance(queue, FrameSendQueue)
        protocol = queue._protocol
        assert isinstance(protocol, FrameProtocol)
        loop = asyncio.get_running_loop()
        offered: list[int] = []

        def look() -> None:
            offered.append(queue.offered)
            if len(set(offered)) <= DOCUMENTS:
                loop.call_soon(look)

        messages = [
            text({"id": str(number), "type": "subscribe", "payload": {"query": f"{{ unknown{number} }}"}})
            for number in range(DOCUMENTS)
        ]
        protocol.data_received(b"".join(messages))
        look()
        for number in range(DOCUMENTS):
            answer = await client.message()
            assert isinstance(answer, dict)
            assert (answer["type"], answer["id"]) == ("error", str(number))
        # No two were answered in one turn.
        assert len(set(offered)) == DOCUMENTS + 1


async def test_a_flood_of_tiny_frames_is_read_in_parts_between_which_others_are_answered(
    small_world: World, holder: TestAccount
) -> None:
    async with (
        serving(small_world) as served,
        raw(served.port, holder.key) as flooding,
        raw(served.port, holder.key) as other,
    ):
        queues = [session_of(served, number).send_queue for number in (0, 1)]
        flooded, answering = (
            queue._protocol if isinstance(queue, FrameSendQueue) else None for queue in queues
        )
        assert isinstance(flooded, FrameProtocol)
        assert isinstance(answering, FrameProtocol)
        flood = frame(PING) * (20 * READ_AT_ONCE // len(frame(PING)))
        loop = asyncio.get_running_loop()
        # Unread bytes of the flood, and whether the other was answered, at each turn of the loop.
        turns: list[tuple[int, bool]] = []
        offered = queues[1].offered

        def look() -> None:
            turns.append((len(flooded._unread), queues[1].offered > offered))
            if flooded._unread or queues[1].offered == offered:
                loop.call_soon(look)

        flooded.data_received(flood)
        answering.data_received(text({"type": "ping"}))
        loop.call_soon(look)
        assert await other.message() == {"type": "pong"}
        await becomes(lambda: not flooded._unread)
        unread = [left for left, _ in turns if left]
        assert {before - after for before, after in itertools.pairwise(unread)} == {READ_AT_ONCE}
        # The other had its answer before the flood was read.
        assert next(left for left, is_answered in turns if is_answered) > 10 * READ_AT_ONCE
        flooding.writer.transport.abort()
