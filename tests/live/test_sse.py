"""GraphQL over Server-Sent Events, distinct connections."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.accounts import actions as accounts
from app.auth.actor import Actor
from app.auth.authenticate import REFUSED
from app.live.registry import Timing
from app.live.sse import HEADERS
from tests.events.broadcasters import becomes
from tests.graphql.serving import EVENTS, Serving, serving
from tests.live.event_streams import CREDENTIAL_ENDED, Reader, stream
from tests.services.patience import PATIENCE
from tests.support import TestAccount, World
from tests.support import world as open_world


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
    await becomes(lambda: len(served.connections) == 0)


async def test_head_tells_how_a_stream_begins_and_opens_none(served: Serving, holder: TestAccount) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

    async def head(query: str) -> list[str]:
        lines = (
            f"HEAD /graphql?query={quote(query)} HTTP/1.1",
            "host: x",
            "accept: text/event-stream",
            f"x-api-key: {holder.key}",
        )
        writer.write("\r\n".join((*lines, "\r\n")).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        return answer.decode().lower().split("\r\n")

    async with stream(served, holder.key, method="GET") as opened:
        expected = {name: opened.response.headers[name] for name in HEADERS}
    await served.subscriptions(0)
    # All go over one connection, which a stream would block.
    for _ in range(2):
        status, *headers = await head(EVENTS)
        assert status == "http/1.1 200 ok"
        assert {f"{name}: {value}".lower() for name, value in expected.items()} <= set(headers)
        assert not any(one.startswith("content-length") for one in headers)
    assert (await head("subscription { events { nothing } }"))[0] == "http/1.1 200 ok"
    status, *headers = await head("{ __typename }")
    assert status == "http/1.1 200 ok"
    assert served.connections.hub.subscriptions == len(served.connections) == 0
    writer.close()
    await writer.wait_closed()


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


async def refused(reader: Reader) -> Any:
    """The error of a request that is refused in the stream."""
    assert reader.response.status_code == 200
    assert reader.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    block = await reader.block()
    assert block is not None
    assert set(block) == {"event", "data"}
    assert block["event"] == "next"
    (error,) = json.loads(block["data"])["errors"]
    assert [await reader.block(), await reader.block()] == [{"event": "complete", "data": ""}, None]
    return error


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_refused_request_is_told_in_the_stream(
    served: Serving, holder: TestAccount, method: str
) -> None:
    wrong = {
        "{ nothing }": None,
        "subscription {": None,
        "subscription { events { nothing } }": None,
        "subscription ($after: String!) { events(after: $after) { sequence } }": None,
        EVENTS: {"after": "wrong"},
    }
    for query, variables in wrong.items():
        async with stream(served, holder.key, query, variables, method) as reader:
            assert (await refused(reader))["extensions"]["code"] == "BAD_USER_INPUT"
    many = {"filter": {"customerIds": [f"cus_{number}" for number in range(1001)]}}
    async with stream(served, holder.key, variables=many) as reader:
        extensions = (await refused(reader))["extensions"]
        assert extensions == {"code": "BAD_USER_INPUT", "field": ["filter", "customerIds"]}
    async with stream(served, "vw_live_" + "x" * 43, "{ nothing }", method=method) as reader:
        assert reader.response.status_code == 401
    assert len(served.connections) == 0
    assert served.connections.hub.subscriptions == 0


async def test_a_body_that_is_no_request_is_told_in_the_stream(served: Serving, holder: TestAccount) -> None:
    headers = {"accept": "text/event-stream", "x-api-key": holder.key, "content-type": "application/json"}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", served.http_url, headers=headers, content=b"{") as response,
    ):
        assert (await refused(Reader(response)))["message"] == "The body is not valid JSON."


async def test_a_mutation_by_get_stays_an_http_error(served: Serving, holder: TestAccount) -> None:
    async with stream(served, holder.key, "mutation { __typename }", method="GET") as reader:
        assert reader.response.status_code == 405


async def test_a_browser_may_put_a_stream_token_into_the_address(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    made = await served.world.data("mutation { createStreamToken(input: {}) { token } }", key=holder.key)
    token = made["createStreamToken"]["token"]

    async def opened(method: str = "GET", accept: str = "text/event-stream", **sent: Any) -> httpx.Response:
        """The head of a response, and the body of an error."""
        headers = {"accept": accept, **sent.pop("headers", {})}
        given = {"query": EVENTS} | sent.pop("params", {"access_token": token})
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            request = client.build_request(method, served.http_url, params=given, headers=headers, **sent)
            response = await client.send(request, stream=True)
            if response.status_code != 200:
                await response.aread()
            await response.aclose()
            return response

    for headers in ({}, {"x-api-key": token}, {"authorization": f"Bearer {token}"}):
        response = await opened(headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
    await becomes(lambda: len(served.connections) == 0)

    refusals = {
        "access_token takes a stream token only; never put a key into an address.": [
            await opened(params={"access_token": holder.key}),
            await opened(params={"access_token": ""}),
            await opened(params={"access_token": [token, "vw_consent_x"]}),
        ],
        "access_token counts for event streams by GET only; send the credential in a header.": [
            await opened(accept="application/json"),
            await opened("POST", json={"query": EVENTS}),
        ],
        "Send one credential: x-api-key, Authorization and access_token differ.": [
            await opened(headers={"x-api-key": holder.key}),
            await opened(params={"access_token": [token, token + "x"]}),
        ],
        REFUSED: [await opened(params={"access_token": token[:-3] + "xxx"})],
    }
    for sentence, responses in refusals.items():
        for response in responses:
            assert response.status_code == 401
            assert response.headers["cache-control"] == "no-store"
            assert [error["message"] for error in response.json()["errors"]] == [sentence]
    assert len(served.connections) == 0


async def test_streams_count_as_sockets(tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path / 'few.db'}"
    async with open_world(database, max_sockets=1) as world, serving(world) as served:
        account = await world.account()
        async with stream(served, account.key) as first, stream(served, account.key) as second:
            assert first.response.status_code == 200
            assert second.response.status_code == 429
        await becomes(lambda: len(served.connections) == 0)
        async with stream(served, account.key) as third:
            assert third.response.status_code == 200


async def test_subscriptions_by_known_documents_are_free_and_all_else_counts_as_requests(
    tmp_path: Path,
) -> None:
    database = f"sqlite:///{tmp_path / 'rate.db'}"
    async with (
        open_world(database, rate_limit=1) as world,
        serving(world) as served,
        AsyncExitStack() as stack,
    ):
        account = await world.account()

        async def refused(query: str) -> bool:
            """Whether the rate refuses it now."""
            async with stream(served, account.key, query) as reader:
                response = reader.response
                return response.status_code == 429 and response.headers["retry-after"] == "1"

        reader = await stack.enter_async_context(stream(served, account.key))
        assert reader.response.status_code == 200
        # A document that has to be parsed counts, whatever it is.
        assert await refused(f"{EVENTS} # new")
        for query in ("{ viewer { scopes } }", "{ nothing }", "subscription {", "mutation { nothing }"):
            while not await refused(query):
                pass
            # After a deploy all clients come back at once, and would not try again.
            for method in ("GET", "POST"):
                reader = await stack.enter_async_context(stream(served, account.key, method=method))
                assert reader.response.status_code == 200
        await served.subscriptions(9)
        # Strangers may not subscribe, and each of their requests counts.
        async with httpx.AsyncClient(headers={"accept": "text/event-stream"}, timeout=PATIENCE) as stranger:
            statuses = set()
            while 429 not in statuses:
                statuses.add((await stranger.post(served.http_url, json={"query": EVENTS})).status_code)
            assert statuses == {401, 429}


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


async def test_a_revoked_key_ends_a_stream_with_an_error_and_a_deploy_without_a_word(
    served: Serving, holder: TestAccount, owner: Actor, small_world: World
) -> None:
    async with small_world.database.transaction() as session:
        key, secret = await accounts.create_api_key(session, owner, name="second")
    async with stream(served, secret) as revoked, stream(served, holder.key) as other:
        await served.subscriptions(2)
        async with small_world.database.transaction() as session:
            await accounts.revoke_api_key(session, owner, key.id)
        assert await revoked.block() == {"": ""}
        assert await revoked.refused() == CREDENTIAL_ENDED
        await served.connections.close()
        assert [await other.block(), await other.block()] == [{"": ""}, None]


async def test_an_expired_reader_gets_the_error_and_complete(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    await served.hub.customer(owner)
    async with stream(served, holder.key) as reader:
        await served.subscriptions(1)
        (feed,) = served.connections.hub._feeds.values()
        # The database was replaced by a restored backup.
        feed.head.epoch = "another1"
        served.connections.hub.poll_soon()
        assert await reader.block() == {"": ""}
        block = await reader.block()
        assert block is not None
        assert block["event"] == "next"
        (error,) = json.loads(block["data"])["errors"]
        assert error["extensions"]["code"] == "CURSOR_EXPIRED"
        assert await reader.block() == {"event": "complete", "data": ""}
        assert await reader.block() is None
