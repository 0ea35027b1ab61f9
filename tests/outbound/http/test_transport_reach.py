"""Which receivers an exchange reaches: addresses, names and certificates."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.outbound.attempt import Attempt, AttemptOutcome
from app.outbound.http.pool import open_socket
from app.outbound.http.ssrf_guard import AddressRefused, Networks
from app.outbound.http.transport import Transport
from tests.delivery.receivers import (
    OK,
    Authority,
    hangs,
    receiver,
    says,
)

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)
PATIENCE = 0.3
LONG = 10.0


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(LOOPBACK) as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


async def post(transport: Transport, url: str, timeout: float = LONG, body: bytes = b"{}") -> Attempt:
    return await transport.post(url, {"content-type": "application/json"}, body, timeout)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::1]:{port}/",
        "http://localhost:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[64:ff9b::7f00:1]:{port}/",
    ],
)
async def test_addresses_out_of_bounds(url: str) -> None:
    async with receiver(says(OK)) as place, Transport() as transport:
        exchange = await post(transport, url.format(port=place.port))
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.BLOCKED_ADDRESS, None)
    assert "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS" in (exchange.error or "")
    assert place.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_other_spellings_reach_nothing(transport: Transport, host: str) -> None:
    async with receiver(says(OK)) as place:
        exchange = await post(transport, place.url(host=host))
    assert exchange.outcome is AttemptOutcome.CONNECTION
    assert place.connections == 0


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"]]
)
async def test_names_that_lead_out_of_bounds(addresses: list[str]) -> None:
    async with receiver(says(OK)) as place, Transport(lookup=lambda host: addresses) as transport:
        exchange = await post(transport, place.url(host="innocent.example"))
    assert exchange.outcome is AttemptOutcome.BLOCKED_ADDRESS
    assert (exchange.error or "").startswith(
        "innocent.example is not a public address or leads to one that is not."
    )
    assert place.connections == 0


async def test_the_address_checked_is_the_address_connected_to() -> None:
    asked: list[str] = []

    def rebinding(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.255.255.1"]

    async with receiver(says(OK)) as place, Transport(LOOPBACK, lookup=rebinding) as transport:
        exchange = await post(transport, place.url(host="rebinding.example"))
        assert (exchange.outcome, place.requests[0].headers["host"]) == (
            AttemptOutcome.SUCCEEDED,
            f"rebinding.example:{place.port}",
        )
    assert asked == ["rebinding.example"]


async def test_an_address_of_a_name_that_moves_inside_is_refused_at_the_next_connection() -> None:
    addresses = ["127.0.0.1"]
    async with receiver(says(OK)) as place:
        async with Transport(LOOPBACK, lookup=lambda host: list(addresses)) as transport:
            assert (await post(transport, place.url(host="moving.example"))).status == 200
        addresses[:] = ["10.0.0.1"]
        async with Transport(LOOPBACK, lookup=lambda host: list(addresses)) as transport:
            assert (
                await post(transport, place.url(host="moving.example"))
            ).outcome is AttemptOutcome.BLOCKED_ADDRESS


def test_the_last_wall_is_at_the_socket() -> None:
    for address in ("10.0.0.1", "169.254.169.254", "::1"):
        with pytest.raises(AddressRefused):
            open_socket(address, LOOPBACK)


async def test_localhost_within_the_operators_networks(transport: Transport) -> None:
    async with receiver(says(OK)) as place:
        assert (await post(transport, place.url(host="localhost"))).outcome is AttemptOutcome.SUCCEEDED


async def test_an_international_name() -> None:
    asked: list[str] = []

    def lookup(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with receiver(says(OK)) as place, Transport(LOOPBACK, lookup=lookup) as transport:
        assert (await post(transport, place.url(host="bücher.example"))).status == 200
    assert asked == ["xn--bcher-kva.example"]
    assert place.requests[0].headers["host"] == f"xn--bcher-kva.example:{place.port}"


async def test_a_second_address_is_tried() -> None:
    async with (
        receiver(says(OK)) as place,
        Transport(LOOPBACK, lookup=lambda host: ["127.0.0.99", "127.0.0.1"]) as transport,
    ):
        assert (await post(transport, place.url(host="two.example"))).status == 200


async def test_a_name_that_does_not_exist() -> None:
    def missing(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Transport(lookup=missing) as transport:
        exchange = await post(transport, "https://missing.example/")
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.DNS,
        "The name missing.example could not be resolved.",
    )


async def test_a_slow_name_server_ends_at_the_deadline() -> None:
    release = threading.Event()

    def slow(host: str) -> Sequence[str]:
        release.wait()
        return ["127.0.0.1"]

    async with Transport(LOOPBACK, lookup=slow) as transport:
        exchange = await post(transport, "http://slow.example/", PATIENCE)
        release.set()
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.TIMEOUT,
        "There was no complete answer within 0.3 seconds.",
    )


async def test_a_good_certificate(authority: Authority) -> None:
    context = authority.server("good.example", "127.0.0.1")
    async with (
        receiver(says(OK), tls=context) as place,
        Transport(LOOPBACK, ssl_context=authority.trust(), lookup=lambda host: ["127.0.0.1"]) as transport,
    ):
        named = await post(transport, place.url(host="good.example", scheme="https"))
        literal = await post(transport, place.url(scheme="https"))
    assert [named.status, literal.status] == [200, 200]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("self-signed", "self-signed certificate"),
        ("wrong host", "Hostname mismatch, certificate is not valid for 'bad.example'"),
        ("unknown authority", "unable to get local issuer certificate"),
    ],
)
async def test_bad_certificates(authority: Authority, tmp_path: Path, kind: str, reason: str) -> None:
    issuer = Authority(tmp_path) if kind == "unknown authority" else authority
    context = issuer.server(
        "other.example" if kind == "wrong host" else "bad.example",
        expired=kind == "expired",
        self_signed=kind == "self-signed",
    )
    async with (
        receiver(says(OK), tls=context) as place,
        Transport(LOOPBACK, ssl_context=authority.trust(), lookup=lambda host: ["127.0.0.1"]) as transport,
    ):
        exchange = await post(transport, place.url(host="bad.example", scheme="https"))
    assert place.requests == []
    assert exchange.outcome is AttemptOutcome.TLS
    assert (exchange.error or "").startswith(f"The certificate of bad.example was refused: {reason}")


async def test_the_default_trust_is_the_systems(authority: Authority, transport: Transport) -> None:
    async with receiver(says(OK), tls=authority.server("127.0.0.1")) as place:
        exchange = await post(transport, place.url(scheme="https"))
    assert exchange.outcome is AttemptOutcome.TLS


async def test_https_to_a_receiver_without_tls(transport: Transport) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        exchange = await post(transport, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert exchange.outcome is AttemptOutcome.TLS
    assert (exchange.error or "").startswith("No encrypted connection could be made: ")


async def test_a_handshake_that_never_comes(transport: Transport) -> None:
    async with receiver(hangs) as place:
        exchange = await post(transport, place.url(scheme="https"), PATIENCE)
    assert exchange.outcome is AttemptOutcome.TIMEOUT
