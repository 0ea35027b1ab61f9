"""A deploy finishes the operations in flight on open connections and begins no others."""

import asyncio

import pytest
import websockets

from app.live.registry import Timing
from tests.events.broadcasters import becomes, locked
from tests.graphql.serving import Serving, serving, session_of
from tests.live.event_streams import stream
from tests.live.ws.test_sockets_slow import small_client
from tests.support import TestAccount, World
from tests.support import world as open_world

AWAY = (1012, "The server is restarting")
MAKE = (
    'mutation($email: String!) { createCustomer(input: {name: "Ada", email: $email}) { customer { email } } }'
)
MADE = {"data": {"createCustomer": {"customer": {"email": "ada@example.com"}}}}


async def emails(world: World, holder: TestAccount) -> list[str]:
    found = await world.data("{ customers { nodes { email } } }", key=holder.key)
    return [one["email"] for one in found["customers"]["nodes"]]


async def test_a_mutation_under_way_is_answered_and_nothing_more_is_begun(
    served: Serving, small_world: World, holder: TestAccount
) -> None:
    async with served.connect(holder.key) as busy, served.connect(holder.key) as listening:
        await listening.subscribe()
        await served.subscriptions(1)
        # No other transaction can write meanwhile.
        async with small_world.database.transaction():
            await busy.subscribe(MAKE, "made", {"email": "ada@example.com"})
            await busy.settled()
            closing = asyncio.create_task(served.connections.close())
            assert await listening.closed() == AWAY
            await busy.subscribe(MAKE, "late", {"email": "late@example.com"})
            await busy.settled()
        assert await busy.hear() == {"id": "made", "type": "next", "payload": MADE}
        assert await busy.hear() == {"id": "made", "type": "complete"}
        assert await busy.closed() == AWAY
        await closing
    assert await emails(small_world, holder) == ["ada@example.com"]


async def test_each_socket_is_closed_once_it_has_its_own_answer(
    served: Serving, small_world: World, holder: TestAccount
) -> None:
    async with served.connect(holder.key) as first, served.connect(holder.key) as second:
        async with small_world.database.transaction():
            for client in (first, second):
                await client.subscribe(MAKE, "made", {"email": "ada@example.com"})
                await client.settled()
            closing = asyncio.create_task(served.connections.close())
        assert (await first.hear())["payload"] == MADE
        # The email is taken by then.
        assert (await second.hear())["payload"] == {"data": {"createCustomer": {"customer": None}}}
        for client in (first, second):
            assert await client.hear() == {"id": "made", "type": "complete"}
            assert await client.closed() == AWAY
        await closing


async def test_a_slow_client_gets_its_answer(
    served: Serving, small_world: World, holder: TestAccount
) -> None:
    async with small_client(served, holder.key) as slow:
        send_queue = session_of(served, 0).send_queue
        async with small_world.database.transaction():
            await slow.subscribe(MAKE, "made", {"email": "ada@example.com"})
            for _ in range(100):
                await slow.say(type="ping", payload={"x": "x" * 5000})
            await becomes(lambda: send_queue.unsent > 200_000)
            closing = asyncio.create_task(served.connections.close())
        for _ in range(100):
            assert (await slow.hear())["type"] == "pong"
        assert (await slow.hear())["payload"] == MADE
        assert await slow.hear() == {"id": "made", "type": "complete"}
        assert await slow.closed() == AWAY
        await closing


async def test_a_mutation_is_carried_out_without_its_socket(
    served: Serving, small_world: World, holder: TestAccount
) -> None:
    async with small_world.database.transaction():
        async with served.connect(holder.key) as gone:
            await gone.subscribe(MAKE, "made", {"email": "ada@example.com"})
            await gone.settled()
        await becomes(lambda: len(served.connections) == 0)
        closing = asyncio.create_task(served.connections.close())
        await becomes(lambda: served.connections.is_closing)
    await closing
    await served.connections.hub.close()
    assert await emails(small_world, holder) == ["ada@example.com"]


async def test_what_does_not_end_is_not_waited_for_for_ever(small_world: World, holder: TestAccount) -> None:
    async with (
        serving(small_world, timing=Timing(finish=0.1)) as served,
        served.connect(holder.key) as busy,
        small_world.database.transaction(),
    ):
        await busy.subscribe(MAKE, "made", {"email": "ada@example.com"})
        await busy.settled()
        await served.connections.close()
        assert await busy.closed() == AWAY
        await served.connections.hub.close()
    assert await emails(small_world, holder) == []


async def test_new_clients_during_a_deploy_are_told_to_come_again(
    served: Serving, holder: TestAccount
) -> None:
    await served.connections.close()
    async with stream(served, holder.key) as reader:
        assert reader.response.status_code == 503
        assert reader.response.headers["retry-after"] == "30"
        assert await reader.response.aread() == b"The server is shutting down; connect again.\n"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with served.connect(holder.key):
            pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "30"
    # Requests that need no stream are answered.
    async with stream(served, holder.key, "{ viewer { scopes } }") as reader:
        assert [(await reader.block() or {})["event"] for _ in range(2)] == ["next", "complete"]


@pytest.mark.parametrize("way", ["socket", "events"])
async def test_clients_that_came_just_before_a_deploy_are_told_too(
    migrated_postgres_url: str, way: str
) -> None:
    async with open_world(migrated_postgres_url) as world, serving(world) as served:
        account = await world.account()

        async def come() -> int:
            if way == "events":
                async with stream(served, account.key) as reader:
                    return reader.response.status_code
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with served.open(additional_headers={"x-api-key": account.key}):
                    pass
            return refused.value.response.status_code

        # Closing begins while the key is being read.
        async with locked(migrated_postgres_url, "api_keys") as reading:
            coming = asyncio.create_task(come())
            await reading()
            await served.connections.close()
        assert await coming == 503
