"""The doorbell in an outage: messages may be lost, but after it each listener gets RESYNC."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from app.events.broadcast.base import RESYNC, NotPublished
from app.events.broadcast.memory import MemoryBackend
from app.events.doorbell import Doorbell
from tests.events.broadcasters import (
    backend_of,
    becomes,
    cut_listeners,
    frozen,
    process_of,
    take,
    tasks,
    two_processes,
    until,
    url_of,
)
from tests.events.gate import Gate
from tests.services.process import Service
from tests.services.valkey import Valkey

pytestmark = pytest.mark.usefixtures("no_task_is_left")


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
        assert [await anext(listener) for listener in everyone] == [RESYNC] * 200
        await becomes(lambda: here.healthy and there.healthy)
        await there.publish("account:8", "on")
        assert [message async for message in until(everyone[8], "on")][-1] == "on"
        assert [message async for message in until(everyone[108], "on")][-1] == "on"


async def test_an_outage_is_told_once(server: Service) -> None:
    with capture_logs() as logs:
        async with Doorbell(backend_of(server)) as here, here.listen("a") as listener:
            server.kill()
            await becomes(lambda: not here.healthy)
            await asyncio.gather(*(here.publish("a", "lost") for _ in range(50)))
            server.start()
            assert await anext(listener) == RESYNC
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
    async with Doorbell.from_url(url_of(server)) as here, here.listen("a") as listener:
        server.kill()
        await here.publish("a", "lost")
        await becomes(lambda: not here.healthy)
        leaving = asyncio.create_task(take(listener))
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


async def test_a_listener_cut_off_by_the_server(server: Service) -> None:
    async with two_processes(url_of(server)) as (here, there), here.listen("a") as listener:
        assert await cut_listeners(server) == 1
        assert await anext(listener) == RESYNC
        await there.publish("a", "on")
        assert await anext(listener) == "on"


async def test_a_frozen_server_stops_nobody(server: Service) -> None:
    backend = backend_of(server)
    async with Doorbell(backend) as here, here.listen("a") as listener:
        await here.publish("a", "connects")
        assert await anext(listener) == "connects"
        with frozen(await process_of(server, "SELECT pg_notify($1, $2)")):
            await asyncio.gather(*(here.publish("a", "lost") for _ in range(100)))
            assert not here.healthy
        # Rings that were on their way may arrive as well.
        assert {message async for message in until(listener, RESYNC)} <= {"lost", RESYNC}
        await becomes(lambda: here.healthy)


async def test_a_publisher_alone_cut_off_makes_up_for_what_it_lost(server: Service) -> None:
    """The listeners' own links are well all the time: only the publisher knows that they missed something."""
    gate = Gate(server.port)
    await gate.open()
    url = url_of(server).replace(str(server.port), str(gate.port))
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(Doorbell.from_url(url_of(server)))
        there = await stack.enter_async_context(Doorbell.from_url(url))
        listener, others, quiet = [await stack.enter_async_context(here.listen(channel)) for channel in "abc"]
        await there.publish("a", "1")
        assert await anext(listener) == "1"
        await gate.shut()
        for channel in "abab":
            await there.publish(channel, "lost")
        await gate.open()
        assert [await anext(listener), await anext(others)] == [RESYNC, RESYNC]
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
            raise NotPublished("away")
        self.entered.release()
        await self.pass_one.acquire()
        await super().publish(channel, message)


async def test_what_is_lost_while_a_resync_is_on_its_way_gets_another() -> None:
    """The first RESYNC may have been read before the second event was committed."""
    backend = Turnstile()
    async with Doorbell(backend) as here, here.listen("a") as listener:
        await here.publish("a", "lost")
        backend.away = False
        await backend.entered.acquire()
        await here.publish("a", "lost too")
        backend.pass_one.release()
        assert await anext(listener) == RESYNC
        await backend.entered.acquire()
        backend.pass_one.release()
        assert await anext(listener) == RESYNC


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
    async with two_processes(url) as (here, there), here.listen("a") as listener:
        await there.publish("a", "1")
        assert await anext(listener) == "1"
        await gate.shut()
        await becomes(lambda: not here.healthy)
        await gate.open()
        assert await anext(listener) == RESYNC
        await there.publish("a", "on")
        assert [message async for message in until(listener, "on")][-1] == "on"
    await gate.end()
