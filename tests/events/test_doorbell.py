"""The doorbell's contract: messages may be lost or repeated, but after an outage each listener gets RESYNC."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from app.events.broadcast.base import RESYNC, DoorbellLost
from app.events.broadcast.memory import MemoryBackend
from app.events.doorbell import Doorbell, Rings
from tests.events.broadcasters import (
    NETWORKED,
    backend_of,
    becomes,
    command,
    cut_listeners,
    frozen,
    process_of,
    tasks,
    url_of,
)
from tests.events.gate import Gate
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = tasks()
    yield
    assert tasks() - before == set()


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[Valkey]:
    """A server that only these tests hurt."""
    server = Valkey()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that only these tests hurt."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=NETWORKED)
def server(request: pytest.FixtureRequest) -> Service:
    """Each server once, running."""
    server: Service = request.getfixturevalue("own_valkey" if request.param == "valkey" else "own_postgres")
    server.start()
    return server


@pytest.fixture(params=["memory", *NETWORKED])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of URL once, its server running."""
    if request.param == "memory":
        return "memory://"
    server: Service = request.getfixturevalue("own_valkey" if request.param == "valkey" else "own_postgres")
    server.start()
    return url_of(server)


@contextlib.asynccontextmanager
async def two_processes(url: str) -> AsyncIterator[tuple[Doorbell, Doorbell]]:
    """A doorbell that listens and one that rings; in memory there is but one."""
    async with Doorbell.from_url(url) as here:
        if url.startswith("memory"):
            yield here, here
            return
        async with Doorbell.from_url(url) as there:
            yield here, there


async def test_rings_in_order_on_its_channel(url: str) -> None:
    texts = ["1", "Zählerstand 4711 ⚡ 電力", '{"sequence": 2}', "3"]
    async with two_processes(url) as (here, there):
        assert here.healthy
        assert there.healthy
        async with here.listen("account:é") as rings, here.listen("account:other") as others:
            for text in texts:
                await there.publish("account:é", text)
            await there.publish("account:other", "last")
            assert [await anext(rings) for _ in texts] == texts
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
            assert [[await anext(rings), await anext(rings)] for rings in both] == [["1", "2"]] * 2


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
            async with here.listen("a") as rings, here.listen("alone") as alone:
                await there.publish("a", str(turn))
                await there.publish("alone", str(turn))
                assert [await anext(rings), await anext(steady), await anext(alone)] == [str(turn)] * 3


async def test_a_listener_cancelled_while_it_subscribes(url: str) -> None:
    async def listen(doorbell: Doorbell) -> None:
        async with doorbell.listen("a") as rings:
            await anext(rings)

    async with two_processes(url) as (here, there):
        for turn in range(20):
            listening = asyncio.create_task(listen(here))
            for _ in range(turn):
                await asyncio.sleep(0)
            listening.cancel()
            async with here.listen("a") as rings:
                await there.publish("a", str(turn))
                assert await anext(rings) == str(turn)
            await asyncio.wait([listening])


async def test_ten_thousand_messages_beside_a_slow_listener(url: str) -> None:
    async def take_all(rings: Rings) -> list[str]:
        return [message async for message in until(rings, "9999")]

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


async def until(rings: Rings, last: str) -> AsyncIterator[str]:
    async for message in rings:
        yield message
        if message == last:
            return


async def test_rings_hold_their_limit_and_resync_covers_what_came_before() -> None:
    rings = Rings(3)
    for message in ("1", "2", "3"):
        rings.put(message)
    assert len(rings) == 3
    rings.put("4")
    assert len(rings) == 1
    rings.put("5")
    assert [await anext(rings), await anext(rings)] == [RESYNC, "5"]
    for message in ("6", RESYNC, "7"):
        rings.put(message)
    assert [await anext(rings), await anext(rings)] == [RESYNC, "7"]
    rings.put("8")
    rings.close()
    assert [message async for message in rings] == []


async def test_a_killed_server_costs_every_listener_a_resync(server: Service) -> None:
    async with two_processes(url_of(server)) as (here, there), contextlib.AsyncExitStack() as stack:
        channels = [f"account:{number}" for number in range(100)] * 2
        everyone = [await stack.enter_async_context(here.listen(channel)) for channel in channels]
        server.kill()
        await becomes(lambda: not here.healthy)
        with capture_logs() as logs:
            for _ in range(50):
                await there.publish("account:7", "lost")
        assert [entry["event"] for entry in logs] == ["doorbell_publishing_lost"]
        assert not there.healthy
        server.start()
        assert [await anext(rings) for rings in everyone] == [RESYNC] * 200
        await becomes(lambda: here.healthy and there.healthy)
        await there.publish("account:8", "on")
        assert [message async for message in until(everyone[8], "on")][-1] == "on"
        assert [message async for message in until(everyone[108], "on")][-1] == "on"


async def test_an_outage_is_told_once(server: Service) -> None:
    with capture_logs() as logs:
        async with Doorbell(backend_of(server)) as here, here.listen("a") as rings:
            server.kill()
            await becomes(lambda: not here.healthy)
            await asyncio.gather(*(here.publish("a", "lost") for _ in range(50)))
            server.start()
            assert await anext(rings) == RESYNC
            await becomes(lambda: here.healthy)
    assert sorted(entry["event"] for entry in logs) == [
        "doorbell_listener_back",
        "doorbell_listener_lost",
        "doorbell_publishing_back",
        "doorbell_publishing_lost",
    ]


async def test_starts_while_the_server_is_down(server: Service) -> None:
    server.kill()
    async with Doorbell.from_url(url_of(server)) as here, here.listen("a") as early:
        assert not here.healthy
        await here.publish("a", "lost")
        server.start()
        assert await anext(early) == RESYNC
        await becomes(lambda: here.healthy)
        await here.publish("a", "on")
        assert [message async for message in until(early, "on")][-1] == "on"


async def test_ends_while_the_server_is_down(server: Service) -> None:
    async with Doorbell.from_url(url_of(server)) as here, here.listen("a") as rings:
        server.kill()
        await here.publish("a", "lost")
        await becomes(lambda: not here.healthy)
        leaving = asyncio.create_task(take(rings))
    assert await leaving == []


async def test_ends_before_it_ever_found_its_server(server: Service) -> None:
    server.kill()
    async with Doorbell.from_url(url_of(server)) as here:
        await here.publish("a", "lost")


async def test_a_start_that_is_cancelled(server: Service) -> None:
    async def start() -> None:
        async with Doorbell.from_url(url_of(server)):
            raise AssertionError("A frozen server cannot be connected to.")

    with frozen(server.pid):
        starting = asyncio.create_task(start())
        # Its connection is asked for by now, and not answered.
        for _ in range(100):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
        await becomes(lambda: not any(task.get_name() == "doorbell link" for task in tasks()))


async def take(rings: Rings) -> list[str]:
    return [message async for message in rings]


async def test_its_end_ends_the_listeners(url: str) -> None:
    async with Doorbell.from_url(url) as here:
        listening = [asyncio.create_task(listen(here, channel)) for channel in ("a", "a", "b")]
        async with here.listen("a") as rings:
            await here.publish("a", "1")
            assert await anext(rings) == "1"
        # These begin to subscribe when all comes to its end.
        listening += [asyncio.create_task(listen(here, channel)) for channel in ("b", "c")]
        await asyncio.sleep(0)
    assert [await task for task in listening] == [["1"], ["1"], [], [], []]
    assert await listen(here, "d") == []
    await here.publish("a", "to nobody")


async def listen(doorbell: Doorbell, channel: str) -> list[str]:
    async with doorbell.listen(channel) as rings:
        return await take(rings)


async def test_a_listener_cut_off_by_the_server(server: Service) -> None:
    async with two_processes(url_of(server)) as (here, there), here.listen("a") as rings:
        assert await cut_listeners(server) == 1
        assert await anext(rings) == RESYNC
        await there.publish("a", "on")
        assert await anext(rings) == "on"


async def test_a_frozen_server_stops_nobody(server: Service) -> None:
    backend = backend_of(server)
    async with Doorbell(backend) as here, here.listen("a") as rings:
        await here.publish("a", "connects")
        assert await anext(rings) == "connects"
        with frozen(await process_of(server, "SELECT pg_notify($1, $2)")):
            await asyncio.gather(*(here.publish("a", "lost") for _ in range(100)))
            assert not here.healthy
        # What was on its way may arrive as well.
        assert {message async for message in until(rings, RESYNC)} <= {"lost", RESYNC}
        await becomes(lambda: here.healthy)


async def test_a_publisher_alone_cut_off_makes_up_for_what_it_lost(server: Service) -> None:
    """The listeners' own links are well all the time: only the publisher knows that they missed something."""
    gate = Gate(server.port)
    await gate.open()
    url = url_of(server).replace(str(server.port), str(gate.port))
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(Doorbell.from_url(url_of(server)))
        there = await stack.enter_async_context(Doorbell.from_url(url))
        rings, others, quiet = [await stack.enter_async_context(here.listen(channel)) for channel in "abc"]
        await there.publish("a", "1")
        assert await anext(rings) == "1"
        await gate.shut()
        for channel in "abab":
            await there.publish(channel, "lost")
        await gate.open()
        assert [await anext(rings), await anext(others)] == [RESYNC, RESYNC]
        await becomes(lambda: there.healthy)
        await there.publish("c", "on")
        assert await anext(quiet) == "on"
        assert here.healthy
    await gate.end()


class Turnstile(MemoryBackend):
    """A broadcaster that is away, or lets one message through at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.entered = asyncio.Semaphore(0)
        self.pass_one = asyncio.Semaphore(0)

    async def publish(self, channel: str, message: str) -> None:
        if self.away:
            raise DoorbellLost("away")
        self.entered.release()
        await self.pass_one.acquire()
        await super().publish(channel, message)


async def test_what_is_lost_while_a_resync_is_on_its_way_gets_another() -> None:
    """The first RESYNC may have been read before the second event was committed."""
    backend = Turnstile()
    async with Doorbell(backend) as here, here.listen("a") as rings:
        await here.publish("a", "lost")
        backend.away = False
        await backend.entered.acquire()
        await here.publish("a", "lost too")
        backend.pass_one.release()
        assert await anext(rings) == RESYNC
        await backend.entered.acquire()
        backend.pass_one.release()
        assert await anext(rings) == RESYNC


async def test_a_publisher_cancelled_on_its_way_still_rings(url: str) -> None:
    async with two_processes(url) as (here, there):
        for turn in range(30):
            async with here.listen(f"account:{turn}") as rings:
                publishing = asyncio.create_task(there.publish(f"account:{turn}", "here"))
                for _ in range(turn // 3 + 1):
                    await asyncio.sleep(0)
                publishing.cancel()
                assert await anext(rings) in {"here", RESYNC}
        await becomes(lambda: there.healthy)


async def test_what_postgresql_cannot_carry_is_replaced(own_postgres: Postgres) -> None:
    own_postgres.start()
    async with two_processes(own_postgres.url()) as (here, there), here.listen("a") as rings:
        for message, instead, arrives in (
            ("x" * 7_500, "41", "x" * 7_500),
            ("x" * 7_501, "42", "42"),
            ("nul\0", "43", "43"),
            ("x" * 7_501, "y" * 7_501, RESYNC),
        ):
            await there.publish("a", message, instead=instead)
            assert await anext(rings) == arrives
        await there.publish("a", "x" * 7_501)
        assert await anext(rings) == RESYNC


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


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


async def test_over_tls(own_valkey: Valkey, tmp_path: Path) -> None:
    """The wheel's server has no TLS, so a relay before it speaks it."""
    own_valkey.start()
    certificate, key = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    gate = Gate(own_valkey.port, tls)
    await gate.open()
    url = f"rediss://127.0.0.1:{gate.port}?ssl_ca_certs={certificate}"
    async with two_processes(url) as (here, there), here.listen("a") as rings:
        await there.publish("a", "1")
        assert await anext(rings) == "1"
        await gate.shut()
        await becomes(lambda: not here.healthy)
        await gate.open()
        assert await anext(rings) == RESYNC
        await there.publish("a", "on")
        assert [message async for message in until(rings, "on")][-1] == "on"
    await gate.end()
