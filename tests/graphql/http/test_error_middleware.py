"""Requests that a shutdown cuts off are told what is known of their outcome."""

import asyncio
from typing import Any

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.graphql.http.error_middleware import OUTCOME_UNKNOWN, SHUTTING_DOWN, ErrorMiddleware


async def cut_off(method: str, *, has_begun: bool = False) -> list[Message]:
    """The messages of a response to a request that is cancelled while it is answered."""
    sent: list[Message] = []
    waits = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        waits.set()
        await asyncio.get_running_loop().create_future()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": method, "path": "/", "headers": []}
    answering = asyncio.ensure_future(ErrorMiddleware(app)(scope, receive, send))
    await waits.wait()
    answering.cancel()
    await asyncio.wait([answering])
    assert answering.cancelled() == has_begun
    return sent


@pytest.mark.parametrize(("method", "message"), [("GET", SHUTTING_DOWN), ("POST", OUTCOME_UNKNOWN)])
async def test_a_request_that_is_cut_off_is_told_what_is_known(method: str, message: str) -> None:
    start, body = await cut_off(method)
    assert start["status"] == 503
    assert (b"connection", b"close") in start["headers"]
    assert orjson.loads(body["body"]) == {"code": "INTERNAL", "message": message}


async def test_a_change_that_is_cut_off_may_have_been_made() -> None:
    _, body = await cut_off("POST")
    said = orjson.loads(body["body"])["message"]
    assert "may have been made" in said
    assert "idempotency key" in said


async def test_a_response_that_has_begun_is_not_completed() -> None:
    assert [one["type"] for one in await cut_off("GET", has_begun=True)] == ["http.response.start"]
