"""The tests' webhook receiver: exact requests, planned answers, faults of every kind."""

import asyncio
import urllib.request

import httpx
import pytest

from tests.services.patience import PATIENCE
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.long


async def test_requests_are_kept_to_the_byte(receiver: Receiver):
    arrival = asyncio.create_task(receiver.wait_for(1))
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        answer = await client.post(
            receiver.url("/hook?a=1"), content=b'{"n": 1}\r\n\x00', headers={"Webhook-Id": "evt_1"}
        )
        assert (answer.status_code, answer.content) == (204, b"")
        (request,) = await arrival
        assert (request.method, request.target, request.path) == ("POST", "/hook?a=1", "/hook")
        assert request.body == b'{"n": 1}\r\n\x00'
        assert request.headers["webhook-id"] == "evt_1"
        await client.post(receiver.url("/other"), json=[2], headers={"expect": "100-continue"})
    (other,) = receiver.to("/other")
    assert other.json() == [2]
    assert request.at < other.at
    assert (request.connection, other.connection) == (1, 1)


async def test_answers_planned_by_order_then_by_path_then_default(receiver: Receiver):
    receiver.plan(500, Answer(302, {"location": "/elsewhere"}), 503)
    receiver.on("/gone", 410)
    receiver.on("/echo", lambda request: Answer(200, body=request.body))
    receiver.default = Answer(202)
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        statuses = [(await client.post(receiver.url("/hook"))).status_code for _ in range(4)]
        assert statuses == [500, 302, 503, 202]
        assert (await client.post(receiver.url("/gone"))).status_code == 410
        assert (await client.post(receiver.url("/echo"), content=b"x" * 200_000)).content == b"x" * 200_000
    receiver.clear()
    assert list(receiver.requests) == []


async def test_drop_hold_and_stall(receiver: Receiver):
    receiver.plan(Answer(drop=True), Answer(200, hold=True), Answer(200, body=b"12345678", stall=True))
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(receiver.url())
        held = asyncio.create_task(client.post(receiver.url("/held")))
        await receiver.wait_for(lambda request: request.path == "/held")
        async with client.stream("POST", receiver.url("/stalled")) as stalled:
            pieces = stalled.aiter_raw()
            assert await anext(pieces) == b"1234"
            assert not held.done()
            receiver.release()
            assert await anext(pieces) == b"5678"
        assert (await held).status_code == 200


async def test_stop_cuts_and_start_listens_on_the_same_port(receiver: Receiver):
    receiver.plan(Answer(hold=True))
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        cut = asyncio.create_task(client.post(receiver.url()))
        await receiver.wait_for(1)
        receiver.stop()
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await cut
        with pytest.raises(httpx.ConnectError):
            await client.post(receiver.url())
        receiver.start()
        assert (await client.post(receiver.url())).status_code == 204


def test_it_answers_while_the_test_blocks(receiver: Receiver):
    with urllib.request.urlopen(receiver.url("/sync"), data=b"1") as answer:
        assert answer.status == 204
    assert [request.body for request in receiver.requests.wait(1)] == [b"1"]
