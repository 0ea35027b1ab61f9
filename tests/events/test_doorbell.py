"""The doorbell's messages and listeners."""

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from app.events.broadcast.base import RESYNC
from app.events.doorbell import Doorbell, Listener
from tests.events.broadcasters import (
    NETWORKED,
    becomes,
    command,
    take,
    two_processes,
    until,
    url_of,
)
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey

pytestmark = pytest.mark.usefixtures("no_task_is_left")


@pytest.fixture(params=["memory", *NETWORKED])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of URL once, its server running."""
    if request.param == "memory":
        return "memory://"
    server: Service = request.getfixturevalue("own_valkey" if request.param == "valkey" else "own_postgres")
    server.start()
    return url_of(server)


async def test_rings_in_order_on_its_channel(url: str) -> None:
    texts = ["1", "Zählerstand 4711 ⚡ 電力", '{"sequence": 2}', "3"]
    async with two_processes(url) as (here, there):
        assert here.healthy
        assert there.healthy
        async with here.listen("account:é") as listener, here.listen("account:other") as others:
            for text in texts:
                await there.publish("account:é", text)
            await there.publish("account:other", "last")
            assert [await anext(listener) for _ in texts] == texts
            assert await anext(others) == "last"
    assert not here.healthy


async def test_two_first_listeners_at_once(url: str) -> None:
    """The stock Broadcast loses messages of one of them, or fails with KeyError."""
    async with two_processes(url) as (here, there), contextlib.AsyncExitStack() as stack:
        for turn in range(20):
            channel = f"account:{turn}"
            listening = [stack.enter_async_context(here.listen(channel)) for _ in range(2)]
            both = await asyncio.gather(*listening)
            await there.publish(channel, "1")
            await there.publish(channel, "2")
            assert [[await anext(listener), await anext(listener)] for listener in both] == [["1", "2"]] * 2


async def test_one_subscription_per_process_until_the_last_has_left(own_valkey: Valkey) -> None:
    own_valkey.start()
    async with Doorbell.from_url(own_valkey.url) as here:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(100):
                await stack.enter_async_context(here.listen("a"))
            assert await command(own_valkey, "PUBSUB", "NUMSUB", "a") == [b"a", 1]
            assert str(await command(own_valkey, "CLIENT", "LIST", "TYPE", "pubsub")).count("addr=") == 2
        while await command(own_valkey, "PUBSUB", "CHANNELS"):
            continue


async def test_leaving_beside_others_and_coming_back(url: str) -> None:
    async with two_processes(url) as (here, there), here.listen("a") as steady:
        for turn in range(50):
            async with here.listen("a") as listener, here.listen("alone") as alone:
                await there.publish("a", str(turn))
                await there.publish("alone", str(turn))
                assert [await anext(listener), await anext(steady), await anext(alone)] == [str(turn)] * 3


async def test_a_listener_cancelled_while_it_subscribes(url: str) -> None:
    async def listen(doorbell: Doorbell) -> None:
        async with doorbell.listen("a") as listener:
            await anext(listener)

    async with two_processes(url) as (here, there):
        for turn in range(20):
            listening = asyncio.create_task(listen(here))
            for _ in range(turn):
                await asyncio.sleep(0)
            listening.cancel()
            async with here.listen("a") as listener:
                await there.publish("a", str(turn))
                assert await anext(listener) == str(turn)
            await asyncio.wait([listening])


async def test_ten_thousand_messages_beside_a_slow_listener(url: str) -> None:
    async def take_all(listener: Listener) -> list[str]:
        return [message async for message in until(listener, "9999")]

    async with two_processes(url) as (here, there), here.listen("a") as slow, here.listen("a") as fast:
        taking = asyncio.create_task(take_all(fast))
        longest = 0
        for number in range(10_000):
            await there.publish("a", str(number))
            longest = max(longest, len(slow))
        assert await taking == [str(number) for number in range(10_000)]
        # 0 … 999 waited, 1,000 became RESYNC, the next 999 fitted behind it, and so on.
        left = [message async for message in until(slow, "9999")]
    assert longest == 1_000
    assert left == [RESYNC, *map(str, range(9_001, 10_000))]


async def test_rings_hold_their_limit_and_resync_covers_what_came_before() -> None:
    listener = Listener(3)
    for message in ("1", "2", "3"):
        listener.put(message)
    assert len(listener) == 3
    listener.put("4")
    assert len(listener) == 1
    listener.put("5")
    assert [await anext(listener), await anext(listener)] == [RESYNC, "5"]
    for message in ("6", RESYNC, "7"):
        listener.put(message)
    assert [await anext(listener), await anext(listener)] == [RESYNC, "7"]
    listener.put("8")
    listener.close()
    assert [message async for message in listener] == []


async def test_its_end_ends_the_listeners(url: str) -> None:
    async with Doorbell.from_url(url) as here:
        listening = [asyncio.create_task(listen(here, channel)) for channel in ("a", "a", "b")]
        async with here.listen("a") as listener:
            await here.publish("a", "1")
            assert await anext(listener) == "1"
        # These begin to subscribe when all comes to its end.
        listening += [asyncio.create_task(listen(here, channel)) for channel in ("b", "c")]
        await asyncio.sleep(0)
    assert [await task for task in listening] == [["1"], ["1"], [], [], []]
    assert await listen(here, "d") == []
    await here.publish("a", "to nobody")


async def listen(doorbell: Doorbell, channel: str) -> list[str]:
    async with doorbell.listen(channel) as listener:
        return await take(listener)


async def test_a_publisher_cancelled_on_its_way_still_rings(url: str) -> None:
    async with two_processes(url) as (here, there):
        for turn in range(30):
            async with here.listen(f"account:{turn}") as listener:
                publishing = asyncio.create_task(there.publish(f"account:{turn}", "here"))
                for _ in range(turn // 3 + 1):
                    await asyncio.sleep(0)
                publishing.cancel()
                assert await anext(listener) in {"here", RESYNC}
        await becomes(lambda: there.healthy)


async def test_what_postgresql_cannot_carry_is_replaced(own_postgres: Postgres) -> None:
    own_postgres.start()
    async with two_processes(own_postgres.url()) as (here, there), here.listen("a") as listener:
        for message, arrives in (("x" * 7_500, "x" * 7_500), ("x" * 7_501, RESYNC), ("nul\0", RESYNC)):
            await there.publish("a", message)
            assert await anext(listener) == arrives


@pytest.mark.parametrize("make", ["redis://127.0.0.1:1", "postgresql://127.0.0.1:1/none"])
async def test_half_characters_stop_nobody(make: str) -> None:
    async with Doorbell.from_url(make) as here:
        with capture_logs() as logs:
            await here.publish("\ud800", "a")
        assert logs == []
        with pytest.raises(ValueError, match="lone surrogate"):
            async with here.listen("\ud800"):
                pass


@pytest.mark.parametrize("wrong", ["kafka://127.0.0.1", "127.0.0.1:6379", "", "redis-stream://127.0.0.1"])
def test_other_broadcasters_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="use memory, redis, rediss or postgresql"):
        Doorbell.from_url(wrong)
