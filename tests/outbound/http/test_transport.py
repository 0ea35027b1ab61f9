"""Exchanges with receivers on real sockets: good, odd and hostile ones."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from app.outbound.attempt import Attempt, AttemptOutcome
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
ENOUGH = 2.0
"""Seconds within which a status arrives on any machine, and its body does not."""
LONG = 10.0


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(LOOPBACK) as made:
        yield made


async def post(transport: Transport, url: str, timeout: float = LONG, body: bytes = b"{}") -> Attempt:
    return await transport.post(url, {"content-type": "application/json"}, body, timeout)


async def exchange_with(transport: Transport, answer: Answer, timeout: float = LONG) -> Attempt:
    async with receiver(answer) as place:
        return await post(transport, place.url(), timeout)


async def test_what_is_sent_and_what_is_told(transport: Transport) -> None:
    before = time.time_ns() // 1_000_000
    async with receiver(says(OK)) as place:
        exchange = await transport.post(
            place.url("/hook%2Fa?b=%20c"),
            {"content-type": "application/json", "webhook-id": "evt_1", "X-Custom": "é"},
            b'{"a":1}\x00\xff',
            LONG,
        )
    after = time.time_ns() // 1_000_000
    assert before <= exchange.started_at <= after
    assert 0 <= exchange.duration_ms <= after - before + 1
    assert exchange == Attempt(
        exchange.started_at, exchange.duration_ms, AttemptOutcome.SUCCEEDED, status=200, response_body="ok"
    )
    (request,) = place.requests
    assert request.line == "POST /hook%2Fa?b=%20c HTTP/1.1"
    assert request.body == b'{"a":1}\x00\xff'
    assert request.headers == {
        "host": f"127.0.0.1:{place.port}",
        "content-type": "application/json",
        "content-length": "9",
        "webhook-id": "evt_1",
        "x-custom": "é",
        "user-agent": "Voltwire",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


async def test_a_connection_is_kept(transport: Transport) -> None:
    async with receiver(says(OK)) as place:
        for _ in range(5):
            assert (await post(transport, place.url())).outcome is AttemptOutcome.SUCCEEDED
    assert place.connections == 1


async def test_no_cookies(transport: Transport) -> None:
    async with receiver(says(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))) as place:
        await post(transport, place.url())
        await post(transport, place.url())
    assert "cookie" not in place.requests[1].headers


async def test_no_proxy_from_the_environment(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver(says(OK)) as proxy, receiver(says(OK)) as place:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        await post(transport, place.url())
    assert (len(proxy.requests), len(place.requests)) == (0, 1)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx(transport: Transport, status: int) -> None:
    exchange = await exchange_with(transport, says(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status))
    assert (exchange.outcome, exchange.status, exchange.error) == (AttemptOutcome.SUCCEEDED, status, None)
    assert exchange.response_body == ""


@pytest.mark.parametrize("status", [400, 404, 410, 500, 503, 599])
async def test_other_statuses(transport: Transport, status: int) -> None:
    answer = says(b"HTTP/1.1 %d X\r\nContent-Length: 3\r\n\r\nbad" % status)
    exchange = await exchange_with(transport, answer)
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.HTTP_STATUS, status)
    assert (exchange.response_body, exchange.error) == ("bad", f"The receiver answered {status}.")


async def test_switching_protocols_is_no_success(transport: Transport) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with receiver(says(head)) as place:
        exchange = await post(transport, place.url())
        await place.finished.get()
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.HTTP_STATUS, 101)


async def test_early_hints_are_passed_over(transport: Transport) -> None:
    exchange = await exchange_with(transport, says(b"HTTP/1.1 103 Early Hints\r\n\r\n", OK))
    assert exchange.status == 200


async def test_retry_after_is_told(transport: Transport) -> None:
    answer = says(b"HTTP/1.1 429 X\r\nRetry-After:  120 \r\nContent-Length: 0\r\n\r\n")
    exchange = await exchange_with(transport, answer)
    assert (exchange.status, exchange.retry_after) == (429, "120")


async def test_retry_after_of_bad_bytes_is_text(transport: Transport) -> None:
    answer = says(b"HTTP/1.1 429 X\r\nRetry-After: \xff\xfesoon\r\nContent-Length: 0\r\n\r\n")
    exchange = await exchange_with(transport, answer)
    assert exchange.retry_after == "soon"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(transport: Transport, status: int) -> None:
    async with receiver(says(OK)) as target:
        head = b"HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, target.url().encode())
        exchange = await exchange_with(transport, says(head))
    assert target.connections == 0
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.HTTP_STATUS, status)
    assert exchange.error == (
        f"The receiver answered {status}, a redirect to {target.url()}. Redirects are not followed: "
        "set the endpoint's URL to the final one."
    )


def _with_body(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


async def test_16_kb_of_the_body_are_kept_and_the_connection_with_it(transport: Transport) -> None:
    async with receiver(says(_with_body(b"x" * 16384))) as place:
        for _ in range(2):
            assert (await post(transport, place.url())).response_body == "x" * 16384
    assert place.connections == 1


async def test_after_16_kb_the_connection_is_closed(transport: Transport) -> None:
    async with receiver(says(_with_body(b"x" * 16383 + "€".encode() + b"y" * 500_000))) as place:
        exchange = await post(transport, place.url())
        await place.finished.get()
    # The character that the bound cuts in two is left out.
    assert (exchange.outcome, exchange.response_body) == (AttemptOutcome.SUCCEEDED, "x" * 16383)


@pytest.mark.parametrize(("status", "outcome"), [(200, "SUCCEEDED"), (500, "HTTP_STATUS")])
@pytest.mark.parametrize("framing", [b"Content-Length: 10000000000", b"Connection: close"])
async def test_an_endless_body(transport: Transport, status: int, outcome: str, framing: bytes) -> None:
    answer = floods(b"HTTP/1.1 %d X\r\n%b\r\n\r\n" % (status, framing), b"z" * 65536)
    async with receiver(answer) as place:
        exchange = await post(transport, place.url())
        await place.finished.get()
    assert (exchange.outcome.value, exchange.status, exchange.response_body) == (outcome, status, "z" * 16384)


async def test_a_gzip_bomb_stays_small(transport: Transport) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    exchange = await exchange_with(transport, says(_with_body(bomb, headers=b"Content-Encoding: gzip\r\n")))
    assert exchange.outcome is AttemptOutcome.SUCCEEDED
    assert exchange.response_body is not None
    assert len(exchange.response_body) <= 16384


async def test_the_body_is_text_whatever_came(transport: Transport) -> None:
    exchange = await exchange_with(
        transport, says(_with_body(b"a\x00b\xff\xfec\xc3\xa9\xed\xa0\x80\xe2\x82"))
    )
    assert exchange.response_body == "ab\ufffd\ufffdcé\ufffd\ufffd\ufffd\ufffd"


async def test_an_unknown_charset_changes_nothing(transport: Transport) -> None:
    answer = says(_with_body(b"caf\xc3\xa9", headers=b"Content-Type: text/plain; charset=nonsense\r\n"))
    assert (await exchange_with(transport, answer)).response_body == "café"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(hangs, id="hangs"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\nX-", b"a"), id="drips a header"),
        pytest.param(drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="continues for ever"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\n"), id="half a head"),
    ],
)
async def test_no_answer_in_time(transport: Transport, answer: Answer) -> None:
    async with receiver(answer) as place:
        exchange = await post(transport, place.url(), PATIENCE)
        if answer is not hangs:
            await place.finished.get()
    assert (exchange.outcome, exchange.status, exchange.response_body) == (AttemptOutcome.TIMEOUT, None, None)
    assert exchange.error == "There was no complete answer within 0.3 seconds."
    assert exchange.duration_ms >= 290


async def test_a_dripping_body_ends_at_the_deadline_and_the_status_counts(transport: Transport) -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Length: 1000\r\n\r\n"
    good, bad = await asyncio.gather(
        *(exchange_with(transport, drips(head % status, b"d"), ENOUGH) for status in (202, 503))
    )
    assert (good.outcome, good.status, good.error) == (AttemptOutcome.SUCCEEDED, 202, None)
    assert set(good.response_body or "") == {"d"}
    assert (bad.outcome, bad.status) == (AttemptOutcome.HTTP_STATUS, 503)
    assert bad.error == "The receiver answered 503."


async def test_a_reset_within_the_body_leaves_the_status(transport: Transport) -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Length: 1000\r\n\r\npart"
    good = await exchange_with(transport, then_resets(head % 200))
    assert (good.outcome, good.status, good.response_body) == (AttemptOutcome.SUCCEEDED, 200, "part")
    bad = await exchange_with(transport, then_resets(head % 500))
    assert (bad.outcome, bad.status, bad.response_body) == (AttemptOutcome.HTTP_STATUS, 500, "part")


async def test_an_answer_and_then_a_reset(transport: Transport) -> None:
    async with receiver(then_resets(OK)) as place:
        for _ in range(3):
            assert (await post(transport, place.url())).outcome is AttemptOutcome.SUCCEEDED
            await place.finished.get()
    assert len(place.requests) == 3


@pytest.mark.parametrize("answer", [closes, then_resets(), then_resets(b"HTTP/1.1 20")])
async def test_no_answer_at_all_is_one_try(transport: Transport, answer: Answer) -> None:
    async with receiver(answer) as place:
        exchange = await post(transport, place.url())
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.CONNECTION, None)
    assert exchange.error in (
        "The receiver closed the connection without an answer.",
        "The connection broke before the answer: Connection reset by peer.",
    )
    assert len(place.requests) == 1


async def test_a_kept_connection_that_the_receiver_closes_is_nobodys_failure(transport: Transport) -> None:
    async with receiver(says(OK), closes, says(OK)) as place:
        first = await post(transport, place.url())
        second = await post(transport, place.url())
    assert [first.outcome, second.outcome] == [AttemptOutcome.SUCCEEDED] * 2
    assert (place.connections, len(place.requests)) == (2, 3)


async def test_a_receiver_that_breaks_off_gets_it_twice_at_most_however_many_connections_are_kept(
    transport: Transport,
) -> None:
    async with receiver(*[says(OK)] * 5, closes) as place:
        await asyncio.gather(*(post(transport, place.url()) for _ in range(5)))
        assert place.connections == 5
        broken = await post(transport, place.url())
    assert broken.outcome is AttemptOutcome.CONNECTION
    assert len(place.requests) == 5 + 2


async def test_but_a_new_connection_gets_no_second_try(transport: Transport) -> None:
    async with receiver(says(OK), closes, closes, says(OK)) as place:
        await post(transport, place.url())
        second = await post(transport, place.url())
    assert second.outcome is AttemptOutcome.CONNECTION
    assert len(place.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(says(b"SSH-2.0-OpenSSH_9.6\r\n"), id="another protocol"),
        pytest.param(says(b"\x00\x01\x02\x03\r\n\r\n"), id="noise"),
        pytest.param(says(b"HTTP/1.1 abc X\r\n\r\n"), id="no number"),
        pytest.param(says(b"HTTP/1.1 200 X\r\nContent-Length: -5\r\n\r\n"), id="negative length"),
        pytest.param(says(b"HTTP/1.1 200 X\r\nbroken header\r\n\r\n"), id="broken header"),
        pytest.param(floods(b"HTTP/1.1 200 X\r\nX: ", b"a" * 65536), id="endless header"),
        pytest.param(floods(b"HTTP/1.1 200 X\r\n", b"X: a\r\n" * 1000), id="endless headers"),
    ],
)
async def test_no_http(transport: Transport, answer: Answer) -> None:
    exchange = await exchange_with(transport, answer)
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.CONNECTION, None)
    assert exchange.error == "The receiver did not answer in valid HTTP."


async def test_nobody_listens(transport: Transport) -> None:
    port = free_port()
    exchange = await post(transport, f"http://127.0.0.1:{port}/")
    assert exchange.outcome is AttemptOutcome.CONNECTION
    assert exchange.error == f"No connection to 127.0.0.1 port {port}: Connection refused."


async def test_an_unfit_url_or_header_is_told_and_not_raised(transport: Transport) -> None:
    exchange = await post(transport, "ftp://example.com/")
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.CONNECTION,
        "A webhook URL starts with https:// or http://.",
    )
    async with receiver(says(OK)) as place:
        injected = await transport.post(place.url(), {"x": "a\r\ny: b"}, b"", LONG)
        unnamed = await transport.post(place.url(), {"bad name": "a"}, b"", LONG)
    assert place.requests == [] or all("y" not in request.headers for request in place.requests)
    assert injected.outcome is AttemptOutcome.CONNECTION
    assert injected.error is not None
    assert unnamed.started_at > 0


async def test_hanging_receivers_hold_up_nobody(transport: Transport) -> None:
    async with receiver(hangs) as hanging, receiver(says(OK)) as place:
        waiting = [asyncio.create_task(post(transport, hanging.url())) for _ in range(300)]
        for _ in range(300):
            await hanging.arrived.get()
        assert (await post(transport, place.url())).outcome is AttemptOutcome.SUCCEEDED
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in results)


async def test_a_cancelled_exchange_closes_its_connection(transport: Transport) -> None:
    async with receiver(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"d")) as place:
        task = asyncio.create_task(post(transport, place.url()))
        await place.arrived.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await place.finished.get() == "closed"
