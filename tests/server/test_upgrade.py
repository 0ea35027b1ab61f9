"""The usual upgrade is answered with the same bytes as one that websockets reads, and any other is left to it."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from app.server.upgrade import LONGEST, usual_upgrade
from tests.graphql.serving import Serving, serving
from tests.live.ws.raw_socket import PING, PONG, TEXT, Raw, frame, text
from tests.support import TestAccount, World

USUAL = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "graphql-transport-ws",
}

# Differences from the usual request, and the status of the answer.
UNUSUAL: dict[str, tuple[dict[str, str | None], str]] = {
    "no key": ({"Sec-WebSocket-Key": None}, "400"),
    "a short key": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZQ=="}, "400"),
    "a long key": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZSEh"}, "400"),
    "no base64": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25!!Q=="}, "400"),
    "another version": ({"Sec-WebSocket-Version": "8"}, "400"),
    "no version": ({"Sec-WebSocket-Version": None}, "400"),
    "a body": ({"Content-Length": "5"}, "400"),
    "chunks": ({"Transfer-Encoding": "chunked"}, "400"),
    "a broken subprotocol": ({"Sec-WebSocket-Protocol": "graphql transport ws"}, "400"),
    "a long line": ({"X-Long": "x" * 9000}, "400"),
    "an empty body": ({"Content-Length": "0"}, "101"),
    "more words in Connection": ({"Connection": "close, Upgrade"}, "101"),
    "another subprotocol after ours": (
        {"Sec-WebSocket-Protocol": "graphql-transport-ws,\tgraphql-ws"},
        "101",
    ),
}


@pytest.fixture
async def served(small_world: World) -> AsyncIterator[Serving]:
    async with serving(small_world) as running:
        yield running


def request(target: str = "/graphql", *more: str, **differences: str | None) -> bytes:
    fields = USUAL | differences
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {target} HTTP/1.1", *lines, *more, "", ""]).encode()


async def answer(served: Serving, sent: bytes) -> bytes:
    """The head of the answer, with the time left out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return re.sub(rb"(?i)\r\n(date): [^\r]+", rb"\r\n\1: then", head)


def fields_of(sent: bytes) -> list[tuple[bytes, bytes]]:
    lines = sent.split(b"\r\n")[1:-2]
    return [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]


async def test_the_answer_has_the_bytes_of_websockets(served: Serving) -> None:
    for target in ("/graphql", "/graphql?a=b%20c", "/%67raphql"):
        # Twice the same field, which nothing reads, is not usual.
        short, long = request(target, "X-One: 1"), request(target, "X-One: 1", "X-One: 1")
        assert usual_upgrade("GET", target.encode(), fields_of(short)) is not None
        assert usual_upgrade("GET", target.encode(), fields_of(long)) is None
        heads = [await answer(served, sent) for sent in (short, long)]
        assert heads[0] == heads[1]
        assert heads[0].startswith(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        assert heads[0].endswith(b"\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n")


@pytest.mark.parametrize("case", UNUSUAL)
async def test_what_is_not_usual_is_left_to_websockets(served: Serving, case: str) -> None:
    differences, status = UNUSUAL[case]
    sent = request(**differences)
    assert usual_upgrade("GET", b"/graphql", fields_of(sent)) is None
    assert (await answer(served, sent)).split(b" ")[1] == status.encode()


def test_only_get_with_a_plain_target_is_usual() -> None:
    fields = fields_of(request())
    assert usual_upgrade("GET", b"/graphql", fields) is not None
    assert usual_upgrade("POST", b"/graphql", fields) is None
    assert usual_upgrade("GET", b"/graphql\xff", fields) is None
    assert usual_upgrade("GET", b"/" + b"x" * LONGEST, fields) is None
    assert usual_upgrade("GET", b"/graphql", [*fields, (b"x", b"a\x00b")]) is None


async def test_a_wrong_path_and_a_wrong_subprotocol_are_refused_as_before(served: Serving) -> None:
    for more in ((), ("X-One: 1", "X-One: 1")):
        assert (await answer(served, request("/nothing", *more))).startswith(b"HTTP/1.1 403 ")
        head = await answer(served, request("/graphql", *more, **{"Sec-WebSocket-Protocol": "soap"}))
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Protocol" not in head


async def test_frames_may_follow_the_upgrade_at_once(served: Serving, holder: TestAccount) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request())
    await reader.readuntil(b"\r\n\r\n")
    client = Raw(reader, writer)
    client.send(
        text({"type": "connection_init", "payload": {"apiKey": holder.key}}, fin=True), frame(PING, b"alive")
    )
    heard = {(await client.hear())[0] for _ in range(2)}
    assert heard == {TEXT, PONG}
    writer.close()
