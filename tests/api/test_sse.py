"""GraphQL over Server-Sent Events, distinct connections."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.accounts import actions as accounts
from app.api.live import Timing
from app.auth.actor import Actor
from tests.api.serving import EVENTS, Serving, serving
from tests.events.broadcasters import becomes
from tests.support import TestAccount, World
from tests.support import world as open_world

Block = dict[str, str]


class Reader:
    """Reads an event stream block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def block(self) -> Block | None:
        """The next block's fields, a comment under the name ""; None at the end of the stream."""
        fields: Block = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        return None

    async def event(self) -> tuple[str, Any]:
        """The next event's cursor and response."""
        while True:
            block = await self.block()
            assert block is not None
            if "event" in block:
                assert block["event"] == "next"
                return block["id"], json.loads(block["data"])


@asynccontextmanager
async def stream(
    served: Serving,
    key: str,
    query: str = EVENTS,
    variables: dict[str, Any] | None = None,
    method: str = "POST",
    **headers: str,
) -> AsyncIterator[Reader]:
    sent = {"accept": "text/event-stream", "x-api-key": key}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"query": query, "variables": variables}
    options: dict[str, Any] = {"json": asked}
    if method == "GET":
        options = {"params": {"query": query, "variables": json.dumps(variables)}}
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream(method, served.http_url, headers=sent, **options) as response,
    ):
        yield Reader(response)


async def test_a_subscription_streams_events_with_their_cursors(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    for method in ("POST", "GET"):
        async with stream(served, holder.key, method=method) as reader:
            assert reader.response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert reader.response.headers["cache-control"] == "no-store"
            assert await reader.block() == {"": ""}
            await served.subscriptions(1)
            for _ in range(5):
                await served.hub.customer(owner)
            heard = [await reader.event() for _ in range(5)]
            sequences = [response["data"]["events"]["sequence"] for _, response in heard]
            assert sequences == list(range(sequences[0], sequences[0] + 5))
            assert all(cursor == response["data"]["events"]["cursor"] for cursor, response in heard)
        await served.subscriptions(0)
    await becomes(lambda: len(served.live) == 0)


async def test_last_event_id_beats_after(served: Serving, holder: TestAccount, owner: Actor) -> None:
    await served.hub.customers(owner, 5)
    async with stream(served, holder.key, variables={"after": None}) as reader:
        await served.subscriptions(1)
        await served.hub.customer(owner)
        cursor, _ = await reader.event()
    await served.hub.customers(owner, 2)
    begin = await served.world.data("{ eventStream { oldestCursor } }", key=holder.key)
    after = {"after": begin["eventStream"]["oldestCursor"]}
    async with stream(served, holder.key, variables=after, last_event_id=cursor) as reader:
        heard = [await reader.event() for _ in range(2)]
        assert [response["data"]["events"]["sequence"] for _, response in heard] == [8, 9]
    async with stream(served, holder.key, variables=after) as reader:
        heard = [await reader.event() for _ in range(9)]
        assert [response["data"]["events"]["sequence"] for _, response in heard] == list(range(1, 10))


async def test_queries_and_mutations_give_one_result(served: Serving, holder: TestAccount) -> None:
    async with stream(served, holder.key, "{ viewer { account { id } } }") as reader:
        assert await reader.block() == {
            "event": "next",
            "data": json.dumps({"data": {"viewer": {"account": {"id": holder.id}}}}, separators=(",", ":")),
        }
        assert await reader.block() == {"event": "complete", "data": ""}
        assert await reader.block() is None


async def test_a_refused_request_is_no_stream(served: Serving, holder: TestAccount) -> None:
    wrong = {"{ nothing }": None, "subscription { events { nothing } }": None, EVENTS: {"after": "wrong"}}
    for query, variables in wrong.items():
        async with stream(served, holder.key, query, variables) as reader:
            assert reader.response.status_code == 400
            body = json.loads(await reader.response.aread())
            assert body["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert len(served.live) == 0
    assert served.live.hub.subscriptions == 0


async def test_streams_count_as_sockets(tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path / 'few.db'}"
    async with open_world(database, max_sockets=1) as world, serving(world) as served:
        account = await world.account()
        async with stream(served, account.key) as first, stream(served, account.key) as second:
            assert first.response.status_code == 200
            assert second.response.status_code == 429
        await becomes(lambda: len(served.live) == 0)
        async with stream(served, account.key) as third:
            assert third.response.status_code == 200


async def test_an_idle_stream_is_told_how_far_it_has_read(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=0.05, rounds=1, idle=0.1)
    async with serving(small_world, timing=timing) as served:
        variables = {"filter": {"types": ["METER_CREATED"]}}
        async with stream(served, holder.key, variables=variables) as reader:
            assert await reader.block() == {"": ""}
            first = await reader.block()
            await served.hub.customer(owner)
            block = first
            while block == first:
                block = await reader.block()
        latest = await small_world.data("{ eventStream { latestCursor } }", key=holder.key)
        assert block == {"": "", "id": latest["eventStream"]["latestCursor"]}


async def test_a_revoked_key_and_a_deploy_end_streams_without_complete(
    served: Serving, holder: TestAccount, owner: Actor, small_world: World
) -> None:
    async with small_world.database.transaction() as session:
        key, secret = await accounts.create_api_key(session, owner, name="second")
    async with stream(served, secret) as revoked, stream(served, holder.key) as other:
        await served.subscriptions(2)
        async with small_world.database.transaction() as session:
            await accounts.revoke_api_key(session, owner, key.id)
        assert [await revoked.block(), await revoked.block()] == [{"": ""}, None]
        await served.live.close()
        assert [await other.block(), await other.block()] == [{"": ""}, None]


async def test_an_expired_reader_gets_the_error_and_complete(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    await served.hub.customer(owner)
    async with stream(served, holder.key) as reader:
        await served.subscriptions(1)
        (feed,) = served.live.hub._feeds.values()
        # The database was replaced by a restored backup.
        feed.epoch = "another1"
        served.live.hub.look_soon()
        assert await reader.block() == {"": ""}
        block = await reader.block()
        assert block is not None
        assert block["event"] == "next"
        (error,) = json.loads(block["data"])["errors"]
        assert error["extensions"]["code"] == "CURSOR_EXPIRED"
        assert await reader.block() == {"event": "complete", "data": ""}
        assert await reader.block() is None
