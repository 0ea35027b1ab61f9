"""A minute with a real process and its real time limits: a client that keeps up is served, any other told why not."""

import asyncio
import json
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live.ws.raw_socket import CLOSE, PING, PONG, TEXT, Raw, frame, raw, text
from tests.services.patience import PATIENCE
from tests.services.records import Records
from tests.system.clients import EVENTS, Api, event_stream, eventually, socket
from tests.system.deployment import Account, Process, deployed

# About 6 KiB an event.
WIDE = (
    "subscription ($after: String) { events(after: $after) { sequence cursor "
    + " ".join(f"d{number}: data" for number in range(30))
    + " } }"
)
OTHERS = 100
"""Clients that keep up, with `--all`."""
SOME_OTHERS = 10
HAPPENING = 200
"""Events."""
SUBSCRIPTIONS = 50
"""Of the client that reads nothing: 60 MiB, were all kept for it."""
SLOW_SUBSCRIPTIONS = 8
MOST = 40 * 1024 * 1024
"""Bytes that the server may take meanwhile."""


@dataclass
class Scene:
    process: Process
    account: Account
    api: Api
    begin: str
    others: list[Records[dict[str, Any]]]
    """The events of each client that keeps up."""

    @property
    def memory(self) -> int:
        assert self.process.process is not None
        return int(psutil.Process(self.process.process.pid).memory_info().rss)

    async def closes(self, code: int) -> float:
        """How many sockets were closed with this code so far."""
        name = f'voltwire_socket_closes_total{{code="{code}"}} '
        lines = (await self.api.http.get("/metrics")).text.splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.fixture
async def scene(tmp_path: Path, thorough: bool) -> AsyncIterator[Scene]:
    async with (
        deployed(["api"], tmp_path, rate_limit="100000") as deployment,
        AsyncExitStack() as stack,
    ):
        (process,) = deployment.processes
        account = await deployment.account()
        api = await stack.enter_async_context(Api(process.url, account.key))
        begin = await api.latest_cursor()
        others = []
        for _ in range(OTHERS if thorough else SOME_OTHERS):
            other = await stack.enter_async_context(socket(process.socket_url, account.key))
            await other.subscribe(query=WIDE, after=begin)
            others.append(other.events)
        yield Scene(process, account, api, begin, others)


async def test_a_client_that_reads_nothing_costs_no_memory_and_holds_up_nobody(scene: Scene) -> None:
    async with raw(scene.process.port, scene.account.key) as silent:
        before = scene.memory
        await much_for(silent, scene)
        assert scene.memory - before < MOST


@pytest.mark.long
async def test_a_minute(scene: Scene) -> None:
    async with asyncio.TaskGroup() as minute:
        minute.create_task(a_client_that_reads_nothing(scene))
        minute.create_task(a_client_that_reads_slowly(scene))
        minute.create_task(a_peer_that_answers_no_ping(scene))
        minute.create_task(a_client_that_does_not_say_who_it_is(scene))
        minute.create_task(a_token_that_expires(scene))
        minute.create_task(idle_subscriptions(scene))


async def a_client_that_reads_nothing(scene: Scene) -> None:
    """It costs nobody anything, is closed, and can go on later where it was."""
    async with raw(scene.process.port, scene.account.key) as silent:
        before = scene.memory
        await much_for(silent, scene)
        most = scene.memory
        reads_on = asyncio.get_running_loop().time() + 60

        async def is_closed() -> bool:
            nonlocal most
            most = max(most, scene.memory)
            return await scene.closes(1013) >= 1

        await eventually(is_closed, PATIENCE)
        assert most - before < MOST
        await asyncio.sleep(reads_on - asyncio.get_running_loop().time())
        # At last it reads: what was on its way, in order for each subscription, and then why there is no more.
        seen, code = await all_that_came(silent)
        assert code == 1013
    expected = list(range(2, HAPPENING + 2))
    for got in seen.values():
        assert [event["sequence"] for event in got] == expected[: len(got)]
    assert sum(map(len, seen.values())) < SUBSCRIPTIONS * HAPPENING / 2

    cursor = seen["0"][-1]["cursor"] if seen["0"] else scene.begin
    async with socket(scene.process.socket_url, scene.account.key) as resumed:
        await resumed.subscribe(query=WIDE, after=cursor)
        await resumed.events.wait_for(HAPPENING - len(seen["0"]))
        await make_customer(scene.api, HAPPENING)
        await resumed.events.wait_for(HAPPENING + 1 - len(seen["0"]))
        assert [event["sequence"] for event in [*seen["0"], *resumed.events]] == [*expected, HAPPENING + 2]
    for others in scene.others:
        await others.wait_for(HAPPENING + 1)
        assert [event["sequence"] for event in others] == [*expected, HAPPENING + 2]


async def much_for(silent: Raw, scene: Scene) -> None:
    """All events happen, and reach the clients that keep up."""
    for number in range(SUBSCRIPTIONS):
        silent.send(subscribe(f"{number}", scene.begin))
    for number in range(HAPPENING):
        await make_customer(scene.api, number)
    for events in scene.others:
        await events.wait_for(HAPPENING, PATIENCE)


async def a_client_that_reads_slowly(scene: Scene) -> None:
    """20 KB a second, with ten megabytes waiting: that is slow, but it keeps up, and nobody gives it up."""
    loop = asyncio.get_running_loop()
    async with raw(scene.process.port, scene.account.key) as slow:
        for number in range(SLOW_SUBSCRIPTIONS):
            slow.send(subscribe(f"{number}", scene.begin))
        for events in scene.others:
            await events.wait_for(HAPPENING, PATIENCE)
        hurries_at = loop.time() + 60
        seen: dict[str, list[int]] = defaultdict(list)
        # Of each, not in all: the other clients make one more event, which may come to some before all have the last.
        while len(seen) < SLOW_SUBSCRIPTIONS or any(
            len(sequences) < HAPPENING for sequences in seen.values()
        ):
            opcode, payload = await slow.hear()
            assert opcode != CLOSE, payload
            if opcode == PING:
                slow.send(frame(PONG, payload))
            elif (message := json.loads(payload))["type"] == "next":
                sequences = seen[message["id"]]
                sequences.append(message["payload"]["data"]["events"]["sequence"])
                assert sequences[-1] == len(sequences) + 1, sequences
            if loop.time() < hurries_at:
                await asyncio.sleep(len(payload) / 20_000)


async def all_that_came(client: Raw) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The events of each subscription that were sent before the close, and its code."""
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    while True:
        opcode, payload = await client.hear()
        if opcode == CLOSE:
            return seen, struct.unpack("!H", payload[:2])[0]
        if opcode == TEXT:
            message = json.loads(payload)
            assert message["type"] == "next"
            seen[message["id"]].append(message["payload"]["data"]["events"])


def subscribe(identifier: str, after: str) -> bytes:
    asked = {"query": WIDE, "variables": {"after": after}}
    return text({"id": identifier, "type": "subscribe", "payload": asked})


async def a_peer_that_answers_no_ping(scene: Scene) -> None:
    async with raw(scene.process.port, scene.account.key) as client:
        opcode, _ = await client.hear()
        assert opcode == PING
        assert await client.closed() == 1013


async def a_client_that_does_not_say_who_it_is(scene: Scene) -> None:
    async with raw(scene.process.port) as client:
        assert await client.closed() == 4408


async def a_token_that_expires(scene: Scene) -> None:
    """In the middle of a stream, which ends; the key that made it goes on."""
    made = await scene.api.mutate("createStreamToken", "token", expiresInSeconds=30)
    async with (
        Api(scene.process.url, made["token"]) as reader,
        socket(scene.process.socket_url, made["token"]) as client,
        event_stream(reader, after=scene.begin) as stream,
    ):
        await client.subscribe(after=scene.begin)
        assert await client.closed() == (4403, "The credential has expired or was revoked")
        await stream.ended()
        assert (stream.errors, stream.completed) == (["UNAUTHENTICATED"], True)
        for sequences in (client.sequences, stream.sequences):
            assert sequences == list(range(2, len(sequences) + 2))


async def idle_subscriptions(scene: Scene) -> None:
    """They are told how far they have read, though nothing is for them."""
    nothing: dict[str, Any] = {"types": []}
    async with (
        socket(scene.process.socket_url, scene.account.key) as client,
        event_stream(scene.api, query=EVENTS, filter=nothing) as stream,
    ):
        await client.subscribe("idle", filter=nothing)
        for events in scene.others:
            await events.wait_for(HAPPENING, PATIENCE)
        latest = await scene.api.latest_cursor()
        await client.pings.wait_for(lambda ping: ping["payload"]["cursors"] == {"idle": latest}, PATIENCE)
        await stream.ids.wait_for(lambda cursor: cursor == latest, PATIENCE)
        assert list(client.events) == list(stream.events) == []


async def make_customer(api: Api, number: int) -> None:
    await api.mutate("createCustomer", "customer { id }", name="Ada", email=f"ada{number}@example.com")
