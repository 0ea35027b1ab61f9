"""A socket from the upgrade to its events, with whole frames and on plain ASGI."""

import asyncio
import json
from pathlib import Path

import pytest
import websockets

from app.auth.actor import Actor
from app.graphql.http.origins import REFUSAL
from tests.graphql.serving import Serving, serving
from tests.support import TestAccount
from tests.support import world as open_world


async def test_events_arrive_in_order(served: Serving, holder: TestAccount, owner: Actor) -> None:
    async with served.connect(holder.key) as client:
        await client.subscribe(identifier="mine")
        await served.subscriptions(1)
        for _ in range(20):
            await served.hub.customer(owner)
        first = await client.hear()
        assert first["id"] == "mine"
        assert first["type"] == "next"
        assert first["payload"]["data"]["events"]["sequence"] == 2
        assert await client.events(19) == list(range(3, 22))
        cursor = first["payload"]["data"]["events"]["cursor"]
        await client.subscribe(identifier="again", variables={"after": cursor})
        assert await client.events(19) == list(range(3, 22))


async def test_hundred_sockets_get_the_same(served: Serving, holder: TestAccount, owner: Actor) -> None:
    async def listen() -> list[int]:
        async with served.connect(holder.key) as client:
            await client.subscribe()
            return await client.events(10)

    listeners = [asyncio.create_task(listen()) for _ in range(100)]
    await served.subscriptions(100)
    for _ in range(10):
        await served.hub.customer(owner)
    for heard in await asyncio.gather(*listeners):
        assert heard == list(range(2, 12))
    assert served.connections.hub.stats.executions == 10
    assert served.connections.hub.stats.deliveries == 10 * 100


async def test_queries_and_mutations_work_too(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        await client.subscribe("{ viewer { account { id } } }", "q")
        assert await client.hear() == {
            "id": "q",
            "type": "next",
            "payload": {"data": {"viewer": {"account": {"id": holder.id}}}},
        }
        assert await client.hear() == {"id": "q", "type": "complete"}
        mutation = (
            "mutation($input: CreateCustomerInput!) { createCustomer(input: $input) { customer { name } } }"
        )
        await client.subscribe(mutation, "m", {"input": {"name": "Ada", "email": "ada@example.com"}})
        answer = await client.hear()
        assert answer["payload"] == {"data": {"createCustomer": {"customer": {"name": "Ada"}}}}
        assert await client.hear() == {"id": "m", "type": "complete"}
        # A completed id can be used again.
        await client.subscribe("{ __typename }", "q")
        assert (await client.hear())["payload"] == {"data": {"__typename": "Query"}}


async def test_errors_before_execution_end_the_operation_only(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        wrong = {
            "syntax": "{ viewer",
            "validation": "{ nothing }",
            "cursor": 'subscription { events(after: "x") { id } }',
            "several": "query A { __typename } query B { __typename }",
        }
        for identifier, query in wrong.items():
            await client.subscribe(query, identifier)
            answer = await client.hear()
            assert (answer["id"], answer["type"]) == (identifier, "error")
            assert answer["payload"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        await client.subscribe("query A { __typename } query B { b: __typename }", operationName="B")
        assert (await client.hear())["payload"] == {"data": {"b": "Query"}}


async def test_a_filter_names_no_more_than_that_of_a_query(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    async with served.connect(holder.key) as client:
        for name in ("meterIds", "customerIds", "types"):
            one = "USER_CREATED" if name == "types" else "x"
            await client.subscribe(variables={"filter": {name: [one] * 1001}})
            answer = await client.hear()
            assert (answer["id"], answer["type"]) == ("1", "error")
            (error,) = answer["payload"]
            asked = {"filter": {name: [one] * 1001}}
            query = "query($filter: EventFilter) { events(filter: $filter) { nodes { id } } }"
            await client.subscribe(query, variables=asked)
            (same,) = (await client.hear())["payload"]["errors"]
            assert (error["message"], error["extensions"]) == (same["message"], same["extensions"])
            assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": ["filter", name]}
            assert (await client.hear())["type"] == "complete"
        written = json.dumps([f"mtr_{number}" for number in range(1001)])
        await client.subscribe(f"subscription {{ events(filter: {{meterIds: {written}}}) {{ id }} }}")
        assert (await client.hear())["payload"][0]["extensions"]["field"] == ["filter", "meterIds"]
        assert served.connections.hub.subscriptions == 0
        customer = await served.hub.customer(owner)
        just = [*(f"cus_{number}" for number in range(999)), customer.id]
        after = (await served.world.data("{ eventStream { oldestCursor } }", key=holder.key))["eventStream"]
        await client.subscribe(variables={"after": after["oldestCursor"], "filter": {"customerIds": just}})
        assert await client.events(1) == [2]


async def test_complete_ends_a_subscription(served: Serving, holder: TestAccount, owner: Actor) -> None:
    async with served.connect(holder.key) as client:
        await client.subscribe(identifier="a")
        await client.subscribe(identifier="b")
        await served.subscriptions(2)
        await client.say(id="a", type="complete")
        await client.say(id="unknown", type="complete")
        await served.subscriptions(1)
        await served.hub.customer(owner)
        assert (await client.hear())["id"] == "b"
        await client.settled()
    await served.subscriptions(0)
    assert len(served.connections) == 0


async def test_a_socket_has_so_many_operations(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'few.db'}"
    async with open_world(database, max_subscriptions=2) as world, serving(world) as served:
        account = await world.account()
        async with served.connect(account.key) as client:
            for identifier in ("1", "2", "3"):
                await client.subscribe(identifier=identifier)
            refused = await client.hear()
            assert (refused["id"], refused["type"]) == ("3", "error")
            assert refused["payload"][0]["extensions"] == {"code": "RATE_LIMITED"}
            await client.say(id="1", type="complete")
            await client.subscribe(identifier="3")
            await client.settled()
            await served.subscriptions(2)


async def test_an_account_has_so_many_sockets(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'few.db'}"
    async with open_world(database, max_sockets=2) as world, serving(world) as served:
        account, other = await world.account(), await world.account()
        headers = {"x-api-key": account.key}
        async with served.connect(account.key), served.open(additional_headers=headers) as second:
            await second.say(type="connection_init")
            assert await second.hear() == {"type": "connection_ack"}
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with served.open(additional_headers=headers):
                    pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "30"
            async with served.open() as third:
                await third.say(type="connection_init", payload={"apiKey": account.key})
                assert await third.closed() == (1013, "The account has too many open sockets")
            async with served.connect(other.key):
                pass
        async with served.connect(account.key), served.connect(account.key):
            pass


async def test_only_known_origins_may_connect(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'origins.db'}"
    allowed = ["https://app.example.com"]
    async with open_world(database, allowed_origins=allowed) as world, serving(world) as served:
        for origin in ("https://app.example.com", f"http://127.0.0.1:{served.port}"):
            async with served.open(origin=origin):
                pass
        for origin in ("https://evil.example.com", "null", "http://127.0.0.1:1"):
            # A browser shows the page the reason of a close, but nothing of a refused upgrade.
            async with served.open(origin=origin) as refused:
                assert await refused.closed() == (1008, REFUSAL)
