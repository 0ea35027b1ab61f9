"""Connections to receivers: when one is used again, what bounds an answer, and how a new one is made."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from ipaddress import ip_network

import httpx
import pytest

from app.outbound.attempt import Attempt, AttemptOutcome
from app.outbound.http.pool import Pool, RequestUrl
from app.outbound.http.ssrf_guard import Networks
from app.outbound.http.transport import Transport
from tests.delivery.receivers import OK, floods, receiver, says

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)
LONG = 10.0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(LOOPBACK) as made:
        yield made


async def post(transport: Transport, url: str) -> Attempt:
    return await transport.post(url, {"webhook-id": "evt_1"}, b"{}", LONG)


async def test_a_second_answer_is_taken_for_no_one_elses(transport: Transport) -> None:
    forged = OK.replace(b"200", b"410")
    async with receiver(says(OK + forged), says(OK)) as place:
        exchanges = [await post(transport, place.url()) for _ in range(2)]
    assert [one.status for one in exchanges] == [200, 200]
    assert place.connections == 2


async def test_neither_is_one_that_comes_later(transport: Transport) -> None:
    is_kept = asyncio.Event()

    async def chatters(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await is_kept.wait()
        writer.write(OK.replace(b"200", b"410"))

    async with receiver(chatters, says(OK)) as place:
        first = await post(transport, place.url())
        is_kept.set()
        assert await place.finished.get() == "closed"
        second = await post(transport, place.url())
    assert [first.status, second.status] == [200, 200]
    assert place.connections == 2


async def test_a_receiver_that_closes_after_its_answer(transport: Transport) -> None:
    async with receiver(says(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) as place:
        for _ in range(2):
            assert (await post(transport, place.url())).response_body == "ok"
            assert await place.finished.get() == "closed"
    assert place.connections == 2


async def test_a_body_in_chunks(transport: Transport) -> None:
    async with receiver(says(CHUNKED, b"2\r\nab\r\n", b"1;x=y\r\nc\r\n0\r\nX-Trailer: 1\r\n\r\n")) as place:
        for _ in range(2):
            assert (await post(transport, place.url())).response_body == "abc"
    assert place.connections == 1


@pytest.mark.parametrize(
    ("head", "block"),
    [
        pytest.param(CHUNKED + b"5;", b"x" * 65536, id="a chunk's extension"),
        pytest.param(CHUNKED + b"0\r\n", b"X: a\r\n" * 1000, id="trailers"),
        pytest.param(CHUNKED + b"0\r\nX: ", b"a" * 65536, id="a trailer"),
    ],
)
async def test_endless_frames_around_a_body(transport: Transport, head: bytes, block: bytes) -> None:
    async with receiver(floods(head, block)) as place:
        exchange = await post(transport, place.url())
        assert await place.finished.get() == "closed"
    assert (exchange.outcome, exchange.response_body) == (AttemptOutcome.SUCCEEDED, "")


async def test_endless_early_hints(transport: Transport) -> None:
    async with receiver(floods(b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 500)) as place:
        exchange = await post(transport, place.url())
    assert exchange.error == "The receiver did not answer in valid HTTP."


async def test_a_body_that_ends_with_the_connection(transport: Transport) -> None:
    async def ends(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    async with receiver(ends) as place, httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(place.url())).text == "all of it"


async def test_a_head_alone(transport: Transport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with receiver(says(head)) as place, httpx.AsyncClient(transport=transport) as client:
        answer = await client.head(place.url())
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("value", ["a\nb: c", "a\rb", "a\0b"])
async def test_no_header_becomes_two(transport: Transport, value: str) -> None:
    async with receiver(says(OK)) as place:
        exchange = await transport.post(place.url(), {"x": value}, b"", LONG)
    assert exchange.error == (
        "The request could not be made: The value of a header holds a line break or a NUL."
    )
    assert place.connections == 0


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with receiver(says(OK)) as place:
        pool = Pool(LOOPBACK, keepalive=0.05)
        where = RequestUrl.of(place.url(), LOOPBACK)
        pool.keep(where, await pool.connect(where))
        assert await place.finished.get() == "closed"
        assert pool.take(where) is None
        await pool.aclose()


async def test_a_name_is_looked_up_once_for_all_who_ask_together() -> None:
    asked: list[str] = []

    def lookup(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with receiver(says(OK)) as place, Transport(LOOPBACK, lookup=lookup) as transport:
        url = place.url(host="busy.example")
        exchanges = await asyncio.gather(*(post(transport, url) for _ in range(20)))
    assert [one.status for one in exchanges] == [200] * 20
    assert asked == ["busy.example"]


async def test_a_lookup_that_failed_is_not_remembered() -> None:
    answers: list[list[str]] = [[], ["127.0.0.1"]]

    async with (
        receiver(says(OK)) as place,
        Transport(LOOPBACK, lookup=lambda host: answers.pop(0)) as transport,
    ):
        url = place.url(host="new.example")
        exchanges = [await post(transport, url) for _ in range(2)]
    assert [one.outcome for one in exchanges] == [AttemptOutcome.DNS, AttemptOutcome.SUCCEEDED]


async def test_an_address_that_does_not_answer_holds_up_none_of_the_others() -> None:
    async with receiver(says(OK)) as place:
        with socket.socket() as deaf:
            try:
                deaf.bind(("127.0.0.2", place.port))
            except OSError:
                pytest.skip("this system has one loopback address")
            deaf.listen(0)
            # A full queue: connections from now on get no answer.
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(("127.0.0.2", place.port))
            addresses = ["127.0.0.2", "127.0.0.1"]
            async with Transport(LOOPBACK, lookup=lambda host: addresses) as transport:
                exchange = await post(transport, place.url(host="two.example"))
            for one in waiting:
                one.close()
    assert exchange.status == 200
