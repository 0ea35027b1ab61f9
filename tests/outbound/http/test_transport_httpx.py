"""The transport behind an httpx client."""

import gzip
from collections.abc import AsyncIterator
from ipaddress import ip_network

import httpx
import pytest

from app.outbound.http.ssrf_guard import Networks
from app.outbound.http.transport import Transport
from tests.delivery.receivers import (
    OK,
    Answer,
    closes,
    drips,
    floods,
    hangs,
    receiver,
    says,
    then_resets,
)
from tests.services.ports import free_port

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)
PATIENCE = 0.3
LONG = 10.0


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(LOOPBACK) as made:
        yield made


def _with_body(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


async def test_httpx_speaks_through_it(transport: Transport) -> None:
    async with receiver(says(OK.replace(b"\r\n\r\n", b"\r\nX-A: 1\r\nX-A: 2\r\n\r\n"))) as place:
        client = httpx.AsyncClient(transport=transport)
        answer = await client.post(place.url("/a?b=c"), content=b"body", headers={"x-test": "1"})
        again = await client.get(place.url("/b"))
    assert (answer.status_code, answer.text, answer.headers.get_list("x-a")) == (200, "ok", ["1", "2"])
    assert (answer.reason_phrase, answer.http_version, again.text) == ("OK", "HTTP/1.1", "ok")
    first, second = place.requests
    assert (first.line, first.body, first.headers["x-test"]) == ("POST /a?b=c HTTP/1.1", b"body", "1")
    assert first.headers["accept-encoding"] == "identity"
    assert (second.line, second.body) == ("GET /b HTTP/1.1", b"")
    assert place.connections == 1


async def test_httpx_gets_compressed_bodies_as_they_are(transport: Transport) -> None:
    packed = gzip.compress(b"0" * 10_000_000)
    async with receiver(says(_with_body(packed, headers=b"Content-Encoding: gzip\r\n"))) as place:
        answer = await httpx.AsyncClient(transport=transport).get(place.url())
    assert answer.content == packed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(hangs, httpx.ReadTimeout, id="hangs"),
        pytest.param(
            drips(b"HTTP/1.1 200 X\r\nContent-Length: 999\r\n\r\n", b"d"), httpx.ReadTimeout, id="drips"
        ),
        pytest.param(
            then_resets(b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n"), httpx.ReadError, id="resets"
        ),
        pytest.param(floods(b"HTTP/1.1 200 X\r\n\r\n", b"z" * 65536), httpx.ReadError, id="floods"),
        pytest.param(closes, httpx.RemoteProtocolError, id="closes"),
        pytest.param(says(b"nonsense\r\n\r\n"), httpx.RemoteProtocolError, id="nonsense"),
    ],
)
async def test_httpx_errors(transport: Transport, answer: Answer, expected: type[Exception]) -> None:
    async with receiver(answer) as place:
        with pytest.raises(expected):
            await httpx.AsyncClient(transport=transport, timeout=PATIENCE).get(place.url())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.0.0.1/", httpx.ConnectError),
        ("http://user:pass@example.com/", httpx.UnsupportedProtocol),
        pytest.param(f"http://127.0.0.1:{free_port()}/", httpx.ConnectError, id="nobody listens"),
    ],
)
async def test_httpx_errors_before_a_connection(
    transport: Transport, url: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await httpx.AsyncClient(transport=transport).get(url)
