"""The broadcaster's backends, each under the stock `Broadcast`, against real servers that are killed and frozen."""

import asyncio
import itertools
from collections.abc import Callable

import pytest
from broadcaster import Broadcast, Event
from redis.asyncio import Redis

from app.events.broadcast.base import RESYNC, Backend, Inbox, MessageRefused, NotPublished
from app.events.broadcast.linked import LinkedBackend, delays
from app.events.broadcast.memory import MemoryBackend
from app.events.broadcast.postgres import MESSAGE_BYTES, PostgresBackend, wire_name
from app.events.broadcast.valkey import ValkeyBackend
from tests.events.broadcasters import NETWORKED, backend_of, becomes, cut_listeners, frozen, process_of
from tests.events.gate import Gate
from tests.services.process import Service
from tests.services.valkey import Valkey

PATIENT = 300.0
"""A deadline that no machine misses."""


pytestmark = pytest.mark.usefixtures("no_task_is_left")


@pytest.fixture(params=["memory", *NETWORKED])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend once, its server running, not connected yet."""
    if request.param == "memory":
        return MemoryBackend()
    server: Service = request.getfixturevalue("own_valkey" if request.param == "valkey" else "own_postgres")
    server.start()
    return backend_of(server)


async def test_carries_text_in_order_to_the_right_channel(backend: Backend) -> None:
    texts = ["1", "Zählerstand 4711 ⚡ 電力", "", '{"a": "b\'c"}', "x" * 7_500]
    broadcast = Broadcast(backend=backend)
    async with broadcast, broadcast.subscribe("a") as ours, broadcast.subscribe("b") as other:
        for text in texts:
            await broadcast.publish("a", text)
        await broadcast.publish("b", "last")
        assert [await ours.get() for _ in texts] == [Event("a", text) for text in texts]
        assert await other.get() == Event("b", "last")


CHANNELS = [
    "plain",
    "with space, \"quotes\" and 'more'; --",
    "Groß/Klein",
    "groß/klein",
    "é" * 31,
    "é" * 32,
    "x" * 63,
    "x" * 64,
    "x" * 300 + "1",
    "x" * 300 + "2",
    "nul\0",
    "",
]


async def test_carries_any_channel_name(backend: Backend) -> None:
    await backend.connect()
    for channel in CHANNELS:
        await backend.subscribe(channel)
    for channel in CHANNELS:
        await backend.publish(channel, f"to {channel!r}")
        assert await backend.next_published() == Event(channel, f"to {channel!r}")
    await backend.disconnect()


def test_names_on_postgresql_fit() -> None:
    assert wire_name("account:42") == "account:42"
    assert wire_name("é" * 31) == "é" * 31
    assert wire_name("é" * 32) == "hash:5d30ba46e031c4cfca9709dd7c6ebe758db2404f6c1d2648"
    assert max(len(wire_name(channel).encode()) for channel in CHANNELS) == 63


async def test_what_was_left_is_heard_no_more(backend: Backend) -> None:
    await backend.connect()
    for channel in ("left", "kept"):
        await backend.subscribe(channel)
    await backend.unsubscribe("left")
    # The servers confirm subscriptions in order, so after this one the other has ended.
    await backend.subscribe("barrier")
    await backend.publish("left", "unheard")
    await backend.publish("kept", "heard")
    assert await backend.next_published() == Event("kept", "heard")
    await backend.disconnect()


async def test_leaving_and_coming_back_misses_nothing(backend: Backend) -> None:
    await backend.connect()
    for turn in range(50):
        await backend.subscribe("a")
        await backend.publish("a", str(turn))
        assert await backend.next_published() == Event("a", str(turn))
        await backend.unsubscribe("a")
    await backend.disconnect()


async def test_many_channels(server: Service) -> None:
    backend = backend_of(server, deadline=PATIENT)
    channels = [f"account:{number}" for number in range(2_500)]
    await backend.connect()
    await asyncio.gather(*map(backend.subscribe, channels))
    for channel in channels:
        await backend.publish(channel, "here")
    assert [await backend.next_published() for _ in channels] == [Event(each, "here") for each in channels]

    server.kill()
    await becomes(lambda: not backend.healthy)
    server.start()
    again = [await backend.next_published() for _ in channels]
    assert sorted(event.channel for event in again) == sorted(channels)
    assert {event.message for event in again} == {RESYNC}
    await backend.disconnect()


async def test_hundreds_of_channels_are_joined_and_left_in_one_round_trip(server: Service) -> None:
    gate = Gate(server.port)
    await gate.open()
    backend = backend_of(server, port=gate.port, deadline=PATIENT, heartbeat=3_600)
    channels = [f"account:{number}" for number in range(2_000)]
    await backend.connect()
    await backend.subscribe("first")
    before = gate.trips
    await asyncio.gather(*map(backend.subscribe, channels))
    assert gate.trips - before == 4
    await asyncio.gather(*map(backend.unsubscribe, channels))
    await backend.subscribe("barrier")
    assert gate.trips - before == 4 + 4 + 1
    await backend.publish(channels[0], "unheard")
    await backend.publish("barrier", "heard")
    assert await backend.next_published() == Event("barrier", "heard")
    await backend.disconnect()
    await gate.end()


async def test_a_channel_whose_confirmation_takes_too_long_resyncs(server: Service) -> None:
    """Joining goes on in the background, and what was published meanwhile is covered."""
    backend = backend_of(server, heartbeat=3_600)
    await backend.connect()
    await backend.subscribe("first")
    with frozen(await process_of(server, "LISTEN%")):
        await backend.subscribe("late")
    while (event := await backend.next_published()) != Event("late", RESYNC):
        assert event == Event("first", RESYNC)
    await backend.publish("late", "heard")
    while (event := await backend.next_published()) != Event("late", "heard"):
        assert event.message == RESYNC
    await backend.disconnect()


async def test_a_killed_server_costs_a_resync(server: Service) -> None:
    backend = backend_of(server)
    await backend.connect()
    await backend.subscribe("a")
    for turn in range(3):
        server.kill()
        await becomes(lambda: not backend.healthy)
        with pytest.raises(NotPublished):
            await backend.publish("a", "lost")
        server.start()
        assert await backend.next_published() == Event("a", RESYNC)
        assert backend.healthy
        await backend.publish("a", str(turn))
        assert await backend.next_published() == Event("a", str(turn))
    await backend.disconnect()


async def test_channels_joined_and_left_during_an_outage(server: Service) -> None:
    server.kill()
    backend = backend_of(server)
    await backend.connect()
    assert not backend.healthy
    for channel in ("left", "joined"):
        await backend.subscribe(channel)
    await backend.unsubscribe("left")
    server.start()
    assert await backend.next_published() == Event("joined", RESYNC)
    await backend.publish("left", "unheard")
    await backend.publish("joined", "heard")
    assert await backend.next_published() == Event("joined", "heard")
    await backend.disconnect()


async def test_a_listener_cut_off_by_the_server(server: Service) -> None:
    # No heartbeat comes to pass here: the end of the connection is seen by itself.
    backend = backend_of(server, heartbeat=3_600)
    await backend.connect()
    await backend.subscribe("a")
    assert await cut_listeners(server) == 1
    assert await backend.next_published() == Event("a", RESYNC)
    await backend.publish("a", "on")
    assert await backend.next_published() == Event("a", "on")
    await backend.disconnect()


async def test_a_listener_that_dies_silently(server: Service) -> None:
    """Frozen, the server keeps the connection and says nothing: only the heartbeat finds out."""
    backend = backend_of(server, heartbeat=3_600)
    await backend.connect()
    await backend.subscribe("a")
    # After the heartbeat, the last statement would be another one.
    pid = await process_of(server, "LISTEN%")
    backend.heartbeat = 0.1
    await backend.subscribe("b")
    with frozen(pid):
        await becomes(lambda: not backend.healthy)
    assert {(await backend.next_published()).message for _ in "ab"} == {RESYNC}
    await backend.publish("a", "on")
    assert await backend.next_published() == Event("a", "on")
    await backend.disconnect()


async def test_publishing_to_a_frozen_server_ends_at_the_deadline(server: Service) -> None:
    backend = backend_of(server)
    await backend.connect()
    await backend.publish("a", "connects")
    with frozen(await process_of(server, "SELECT pg_notify($1, $2)")):
        outcomes = await asyncio.gather(
            *(backend.publish("a", "lost") for _ in range(20)), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} == {NotPublished}
    await becomes(lambda: backend.healthy)
    await backend.subscribe("a")
    await backend.publish("a", "found again")
    while (await backend.next_published()).message != "found again":
        continue
    await backend.disconnect()


async def test_a_publisher_that_is_cancelled_leaves_a_usable_connection(backend: Backend) -> None:
    await backend.connect()
    await backend.subscribe("a")
    for turn in range(30):
        publishing = asyncio.create_task(backend.publish("a", "perhaps"))
        for _ in range(turn):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.wait([publishing])
    await backend.publish("a", "surely")
    while (event := await backend.next_published()) != Event("a", "surely"):
        assert event == Event("a", "perhaps")
    await backend.disconnect()


async def test_ends_while_the_server_is_down(server: Service) -> None:
    backend = backend_of(server)
    await backend.connect()
    await backend.subscribe("a")
    await backend.publish("a", "connects")
    server.kill()
    await becomes(lambda: not backend.healthy)
    await backend.disconnect()


async def test_ends_while_the_server_is_frozen(server: Service) -> None:
    backend = backend_of(server, heartbeat=3_600)
    await backend.connect()
    await backend.subscribe("a")
    await backend.publish("a", "connects")
    with frozen(await process_of(server, "LISTEN%")):
        await backend.disconnect()


async def test_refuses_what_postgresql_cannot_carry() -> None:
    backend = PostgresBackend("postgresql://127.0.0.1:1/none")
    with pytest.raises(
        MessageRefused, match=r"has 7,501 bytes and PostgreSQL carries 7,500: send its number only"
    ):
        await backend.publish("a", "x" * (MESSAGE_BYTES + 1))
    with pytest.raises(MessageRefused, match=r"has 7,502 bytes"):
        await backend.publish("a", "é" * (MESSAGE_BYTES // 2 + 1))
    with pytest.raises(MessageRefused, match="NUL"):
        await backend.publish("a", "a\0b")


@pytest.mark.parametrize("make", [ValkeyBackend, PostgresBackend])
async def test_refuses_half_characters(make: Callable[[str], LinkedBackend]) -> None:
    backend = make("redis://127.0.0.1:1" if make is ValkeyBackend else "postgresql://127.0.0.1:1/none")
    for channel, message in (("a", "\ud800"), ("\ud800", "a")):
        with pytest.raises(MessageRefused, match="lone surrogate"):
            await backend.publish(channel, message)


async def test_foreign_bytes_on_valkey_ring_too(own_valkey: Valkey) -> None:
    own_valkey.start()
    backend = backend_of(own_valkey)
    await backend.connect()
    await backend.subscribe("a")
    async with Redis.from_url(own_valkey.url, protocol=2) as client:
        await client.publish("a", b"\xff")
    assert await backend.next_published() == Event("a", "\ufffd")
    await backend.disconnect()


async def test_an_inbox_holds_its_limit_and_then_resyncs() -> None:
    inbox = Inbox(["a", "b"], limit=3)
    for number in range(5):
        inbox.put("a", str(number))
    assert [await inbox.get() for _ in range(5)] == [Event("a", str(number)) for number in range(5)]
    for number in range(6):
        inbox.put("a", str(number))
    inbox.put("b", "after")
    assert [await inbox.get() for _ in range(3)] == [
        Event("a", RESYNC),
        Event("b", RESYNC),
        Event("b", "after"),
    ]


def test_attempts_are_spread_from_a_tenth_of_a_second_to_five_seconds() -> None:
    waits = list(itertools.islice(delays(), 10))
    tops = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5]
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, tops, strict=True))
