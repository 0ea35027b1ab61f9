"""Readers that go and come back, on whichever process, while events go on: exactly the rest, in order."""

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

import app.tables  # noqa: F401 - so that the log's own tables are all known
from app.db.database import Database
from app.events import log
from tests.services.postgres import Postgres
from tests.services.records import Records
from tests.services.valkey import Valkey
from tests.system.clients import EVENTS, Api, event_stream, socket
from tests.system.deployment import Account, Deployment, deployed
from tests.system.live.roaming import Crowd

ROUNDS = 6
MEANWHILE = 8
"""Events that happen between two connections, at least."""
CROWD = 500
"""Clients that come back at once, with `--all`."""
SMALL_CROWD = 100


@pytest.fixture(scope="module")
async def two_apis(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, valkey: Valkey
) -> AsyncIterator[Deployment]:
    folder: Path = tmp_path_factory.mktemp("resume")
    database_url = await postgres.create_database()
    async with deployed(["api", "api"], folder, database_url, valkey.url, rate_limit="100000") as running:
        yield running
    await postgres.drop_database(database_url)


@pytest.fixture(scope="module")
async def account(two_apis: Deployment) -> Account:
    return await two_apis.account()


@pytest.fixture
async def apis(two_apis: Deployment, account: Account) -> AsyncIterator[list[Api]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Api(one.url, account.key)) for one in two_apis.apis]


class Writers:
    """A writer on each process, making events one after the other until told to stop."""

    numbers = count()

    def __init__(self, apis: list[Api]) -> None:
        self.made: Records[str] = Records()
        self._stopping = False
        self._writing = [asyncio.create_task(self._write(api)) for api in apis]

    async def more(self, wanted: int = MEANWHILE) -> None:
        """Wait until `wanted` more events were made."""
        await self.made.wait_for(len(self.made) + wanted)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._writing)

    async def _write(self, api: Api) -> None:
        while not self._stopping:
            number = next(self.numbers)
            try:
                made = await api.mutate(
                    "createCustomer",
                    "customer { id }",
                    name=f"Customer {number}",
                    email=f"customer{number}@example.com",
                )
            except httpx.TransportError:
                # Its process was killed.
                return
            self.made.add(made["customer"]["id"])


@contextlib.asynccontextmanager
async def writing(apis: list[Api]) -> AsyncIterator[Writers]:
    writers = Writers(apis)
    try:
        yield writers
    finally:
        await writers.stop()


async def read_by_socket(
    two_apis: Deployment, account: Account, start: str, pause: Callable[[], Awaitable[object]], end: Any
) -> list[dict[str, Any]]:
    """The events of a reader that is cut off again and again and each time resumes on the other process."""
    events: list[dict[str, Any]] = []
    cursor = start
    for turn in count():
        async with socket(two_apis.apis[turn % 2].socket_url, account.key) as client:
            await client.subscribe(after=cursor)
            await client.events.wait_for(3 if turn < ROUNDS else await end() - len(events))
            # What has come by now counts as seen, even if more than was waited for.
            client.abort()
            await client.closed()
            events += client.events
        if turn == ROUNDS:
            return events
        cursor = events[-1]["cursor"]
        await pause()
    raise AssertionError


async def read_by_stream(
    apis: list[Api], start: str, pause: Callable[[], Awaitable[object]], end: Any
) -> list[dict[str, Any]]:
    """The same by Server-Sent Events, with what a browser sends when it reconnects; `after` stays as it was."""
    events: list[dict[str, Any]] = []
    last_id: str | None = None
    for turn in count():
        async with event_stream(apis[turn % 2], last_event_id=last_id, after=start) as stream:
            await stream.events.wait_for(3 if turn < ROUNDS else await end() - len(events))
            await stream.close()
            events += stream.events
            last_id = stream.last_id
        if turn == ROUNDS:
            return events
        await pause()
    raise AssertionError


async def test_readers_that_come_back_miss_nothing_and_see_nothing_twice(
    two_apis: Deployment, account: Account, apis: list[Api]
) -> None:
    start, before = await apis[0].latest_cursor(), await apis[0].last_sequence()
    both = asyncio.Barrier(2)
    async with writing(apis) as writers:

        async def end() -> int:
            """How many events there are to read, once both readers need no more to be made."""
            await both.wait()
            await writers.stop()
            return await apis[0].last_sequence() - before

        by_socket, by_stream = await asyncio.gather(
            read_by_socket(two_apis, account, start, writers.more, end),
            read_by_stream(apis, start, writers.more, end),
        )
    made = list(writers.made)
    assert len(made) >= ROUNDS * MEANWHILE
    assert [event["sequence"] for event in by_socket] == list(range(before + 1, before + len(made) + 1))
    assert by_stream == by_socket
    assert sorted(event["data"]["id"] for event in by_socket) == sorted(made)


async def test_a_reader_of_a_killed_process_goes_on_at_another(
    two_apis: Deployment, account: Account, apis: list[Api]
) -> None:
    """The killed process also leaves nothing behind that would hold up the others."""
    dying, other = two_apis.apis
    start, before = await apis[0].latest_cursor(), await apis[0].last_sequence()
    try:
        async with writing(apis) as writers:
            async with socket(dying.socket_url, account.key) as client:
                await client.subscribe(after=start)
                await client.events.wait_for(MEANWHILE)
                dying.kill()
                assert await client.closed() == (1006, "")
            seen = list(client.events)
            await writers.more()
            await writers.stop()
            async with socket(other.socket_url, account.key) as client:
                await client.subscribe(after=seen[-1]["cursor"])
                last = await apis[1].last_sequence()
                await client.events.wait_for(last - seen[-1]["sequence"])
                await client.settled()
                seen += client.events
    finally:
        await asyncio.to_thread(dying.start)
    assert [event["sequence"] for event in seen] == list(range(before + 1, last + 1))
    # What a mutation has answered is in the log; the one that was cut off may be there as well.
    assert set(writers.made) <= {event["data"]["id"] for event in seen}


async def test_a_crowd_of_clients_that_come_back_at_once(
    two_apis: Deployment, account: Account, apis: list[Api], thorough: bool
) -> None:
    """A deploy ends all connections of a process, then the other one dies; meanwhile events go on."""
    size = CROWD if thorough else SMALL_CROWD
    first, second = two_apis.apis
    before, start = await apis[0].last_sequence(), await apis[0].latest_cursor()
    for api in apis:
        async with writing([api]) as writers:
            await writers.more(20)
    listed = await apis[0].data(
        "query ($after: String) { events(after: $after, first: 30) { nodes { sequence cursor } } }",
        after=start,
    )
    places = [(before, start), *((one["sequence"], one["cursor"]) for one in listed["events"]["nodes"])]
    begins = [places[number % len(places)] for number in range(size)]
    crowd = Crowd(account.key, [cursor for _, cursor in begins], first)
    try:
        async with writing([apis[1]]) as writers:
            # Everyone is there, and has read more or less.
            await crowd.reached(before + 1)
            crowd.server = second
            assert await first.terminate() == 0
            await writers.more()
            await crowd.reached(await apis[1].last_sequence())
        await asyncio.to_thread(first.start)
        async with writing([apis[0]]) as writers:
            await writers.more()
            crowd.server = first
            second.kill()
            await writers.more()
        last = await apis[0].last_sequence()
        await crowd.reached(last)
    finally:
        await crowd.leave()
        for process in (first, second):
            await asyncio.to_thread(process.start)
    for (begin, _), roamer in zip(begins, crowd.roamers, strict=True):
        assert roamer.sequences == list(range(begin + 1, last + 1))
    # Each was told to come back by the process that could still say so.
    assert Counter(code for roamer in crowd.roamers for code in roamer.closes) == {1012: size, 1006: size}


async def test_a_cursor_past_retention_is_told_with_where_to_go_on(
    two_apis: Deployment, account: Account, apis: list[Api]
) -> None:
    old = (await apis[0].data("{ events(first: 1) { nodes { cursor } } }"))["events"]["nodes"][0]["cursor"]
    async with writing(apis) as writers:
        await writers.more()
    last = await apis[0].last_sequence()
    database = Database(two_apis.database_url)
    try:
        async with database.transaction() as session:
            assert await log.trim(session, account.id, timedelta(0), last - 3) == last - 3
    finally:
        await database.dispose()

    stream = (await apis[1].data("{ eventStream { oldestCursor latestCursor } }"))["eventStream"]
    oldest = stream["oldestCursor"]
    expired = {"code": "CURSOR_EXPIRED", "oldestCursor": oldest}
    async with socket(two_apis.apis[0].socket_url, account.key) as client:
        await client.subscribe("old", after=old)
        (refused,) = await client.others.wait_for(lambda message: message["type"] == "error")
        assert refused["id"] == "old"
        assert [error["extensions"] for error in refused["payload"]] == [expired]
        await client.subscribe("rest", after=oldest)
        await client.events.wait_for(3)
        await client.settled()
        assert client.sequences == [last - 2, last - 1, last]

    asked = {"query": EVENTS, "variables": {"after": stream["latestCursor"]}}
    as_stream = {"accept": "text/event-stream", "last-event-id": old}
    refusal = await apis[1].http.post("/graphql", json=asked, headers=as_stream)
    assert refusal.status_code == 200
    (told,) = re.findall(r"^event: next\ndata: (.*)$", refusal.text, re.MULTILINE)
    assert [error["extensions"] for error in json.loads(told)["errors"]] == [expired]
    async with event_stream(apis[1], last_event_id=oldest) as resumed:
        await resumed.events.wait_for(3)
        assert resumed.sequences == [last - 2, last - 1, last]

    page = await apis[0].ask(
        "query ($after: String) { events(after: $after) { nodes { id } } }", {"after": old}
    )
    assert [error["extensions"] for error in page["errors"]] == [expired]
