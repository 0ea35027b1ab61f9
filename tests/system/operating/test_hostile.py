"""Requests that no well-meaning client sends: each gets its plain answer, and the process logs no error for it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.live.ws.raw_socket import BROKEN, raw
from tests.system.clients import Api, socket
from tests.system.deployment import Account, Deployment, deployed

VIEWER = {"query": "{ viewer { account { id } } }"}
JSON = {"content-type": "application/json"}
WRONG_KEY = "vw_live_" + "a" * 43


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": WRONG_KEY},
        {"x-api-key": "é".encode("latin-1")},
        {"x-api-key": "x" * 50_000},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {WRONG_KEY}"},
        {"authorization": "Bearer vw_stream_" + "A" * 100},
        {"authorization": "Basic dm9sdDp3aXJl"},
    ],
    ids=lambda headers: " ".join(f"{name} {value[:24]!r}" for name, value in headers.items()) or "none",
)
async def test_credentials_that_are_none(served: Deployment, headers: dict[str, Any]) -> None:
    async with Api(served.apis[0].url) as stranger:
        answer = await stranger.http.post("/graphql", json=VIEWER, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="voltwire"'
        assert [error["extensions"]["code"] for error in answer.json()["errors"]] == ["UNAUTHENTICATED"]
        upload = await stranger.http.post("/readings", content=b"x", headers=headers)
        assert upload.status_code == 401


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("*/*", 200, "application/json"),
        (
            "application/graphql-response+json, application/json;q=0.9",
            200,
            "application/graphql-response+json",
        ),
        ("application/json, text/event-stream;q=0.1", 200, "application/json"),
        ("text/event-stream", 200, "text/event-stream"),
        ("text/html", 406, "text/plain"),
        (",,;q=,/", 406, "text/plain"),
        ("*/*;q=nan", 200, "application/json"),
        ("x" * 9000, 406, "text/plain"),
    ],
)
async def test_accept_headers(api: Api, accept: str, status: int, media_type: str) -> None:
    answer = await api.http.post("/graphql", json=VIEWER, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (status, f"{media_type}; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"query": 1}', 400),
        (json.dumps({"query": "{a" * 5000}).encode(), 200),
        (json.dumps({"query": "#" * 900_000}).encode(), 200),
        (json.dumps({"query": "{ __typename \ud800 }"}).encode(), 200),
        (json.dumps({"query": '{ customer(id: "\\u0000") { id } }'}).encode(), 200),
        (json.dumps({"query": "{ __typename }", "variables": {"a": "\x00"}}).encode(), 200),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
)
async def test_bodies_that_make_no_sense(api: Api, body: bytes, status: int) -> None:
    answer = await api.http.post("/graphql", content=body, headers=JSON)
    assert answer.status_code == status
    codes = [error["extensions"]["code"] for error in answer.json()["errors"]]
    assert codes in (["BAD_USER_INPUT"], ["QUERY_TOO_COMPLEX"])


@pytest.mark.parametrize(
    ("path", "media_type", "limit"),
    [("/graphql", "application/json", 4 * 1024**2), ("/readings", "text/csv", 32 * 1024**2)],
)
async def test_a_client_that_sends_too_much_hears_so(
    api: Api, path: str, media_type: str, limit: int
) -> None:
    """Not every client reads an answer before it has sent everything."""
    answer = await api.http.post(path, content=b"x" * (limit + 1), headers={"content-type": media_type})
    assert answer.status_code == 413
    assert str(limit) in answer.text


@pytest.mark.parametrize("subprotocols", [None, ["graphql-ws"]])
async def test_a_socket_without_our_subprotocol_is_closed(
    served: Deployment, subprotocols: list[websockets.Subprotocol] | None
) -> None:
    async with websockets.connect(
        served.apis[0].socket_url, subprotocols=subprotocols, proxy=None
    ) as connection:
        await connection.wait_closed()
    assert connection.close_code == 4406


async def test_a_page_of_another_site_gets_no_socket(served: Deployment) -> None:
    async with websockets.connect(
        served.apis[0].socket_url,
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        origin=websockets.Origin("https://evil.example"),
        proxy=None,
    ) as connection:
        await connection.wait_closed()
    assert (connection.close_code, connection.close_reason) == (
        1008,
        "This origin is not in VOLTWIRE_ALLOWED_ORIGINS.",
    )


async def test_nothing_of_a_sockets_address_is_logged(served: Deployment) -> None:
    """There may be a token in it, where it does not count; and whoever connects would write the log."""
    process = served.apis[0]
    address = f"{process.socket_url}?access_token={WRONG_KEY}"
    async with websockets.connect(
        address, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None
    ) as connection:
        await connection.send('{"type": "connection_init"}')
        await connection.wait_closed()
    assert connection.close_code == 4403
    assert WRONG_KEY not in process.log.read_text()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\x00\x01", 4400),
        ("{", 4400),
        ("[" * 50_000, 4400),
        ('{"type": "connection_ack"}', 4400),
        ('{"type": "connection_init"}', 4429),
        ("x" * (1024**2 + 1), 1009),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, str | bytes) else "",
)
async def test_messages_that_make_no_sense(
    served: Deployment, account: Account, message: str | bytes, code: int
) -> None:
    async with websockets.connect(
        served.apis[0].socket_url,
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        proxy=None,
    ) as connection:
        await connection.send(json.dumps({"type": "connection_init", "payload": {"apiKey": account.key}}))
        assert await connection.recv() == '{"type":"connection_ack"}'
        await connection.send(message)
        await connection.wait_closed()
    assert connection.close_code == code


async def test_frames_that_make_no_sense(served: Deployment, account: Account) -> None:
    heard = {}
    for name, (frames, _) in BROKEN.items():
        async with raw(served.apis[0].port, account.key) as client:
            client.send(*frames)
            heard[name] = await client.closed()
    assert heard == {name: code for name, (_, code) in BROKEN.items()}


async def test_half_requests_hold_nobody_up(served: Deployment, account: Account, api: Api) -> None:
    """Many slow clients at once, on HTTP and in the middle of a socket's handshake and frames."""
    process = served.apis[0]
    starts = [
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: webso",
        b"GET /",
    ]
    writers = []
    for start in starts * 50:
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(start)
        await writer.drain()
        writers.append(writer)
    async with socket(process.socket_url, account.key) as client:
        await client.subscribe(after=await api.latest_cursor())
        await api.mutate("createCustomer", "customer { id }", name="Eve", email="eve@example.com")
        await client.events.wait_for(1)
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def test_a_rate_over_the_limit_is_told_when_to_come_back(tmp_path: Path) -> None:
    """At two requests a second, whoever goes on asking is told to wait, however slow the machine, and then served."""
    async with deployed(["api"], tmp_path, rate_limit="2") as slow:
        account = await slow.account()
        async with Api(slow.apis[0].url, account.key) as api:

            async def ask() -> httpx.Response:
                return await api.http.post("/graphql", json={"query": "{ __typename }"})

            assert (await ask()).status_code == 200
            while (refused := await ask()).status_code == 200:
                continue
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert [error["extensions"]["code"] for error in refused.json()["errors"]] == ["RATE_LIMITED"]
            await asyncio.sleep(int(refused.headers["retry-after"]))
            assert (await ask()).status_code == 200
