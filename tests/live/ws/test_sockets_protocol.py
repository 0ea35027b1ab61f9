"""graphql-transport-ws message by message: the answer to each, and the close code for each wrong one."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import websockets
from structlog.testing import capture_logs

from app.accounts import actions as accounts
from app.auth.actor import Actor
from app.graphql.bounds.limits import STRANGERS_BODY
from app.live.registry import Timing
from tests.graphql.serving import EVENTS, Serving, serving
from tests.support import TestAccount, World
from tests.support import world as open_world

GOOD: dict[str, Any] = {"id": "1", "type": "subscribe", "payload": {"query": "{ __typename }"}}

WRONG: dict[str, tuple[Any, str]] = {
    "not JSON": ("hello", "A message must be JSON"),
    "empty": ("", "A message must be JSON"),
    "half JSON": ('{"type": "ping"', "A message must be JSON"),
    "JSON and more": ('{"type":"ping"} {}', "A message must be JSON"),
    "NaN": ('{"type":"ping","payload":{"a":NaN}}', "A message must be JSON"),
    "deeply nested": ("[" * 100_000, "A message must be JSON"),
    "a list": ([], "A message must be a JSON object"),
    "a list of messages": ([{"type": "ping"}], "A message must be a JSON object"),
    "a number": (3, "A message must be a JSON object"),
    "null": (None, "A message must be a JSON object"),
    "a string": ("ping", "A message must be JSON"),
    "no type": ({}, "A message needs a type that is a string"),
    "type null": ({"type": None}, "A message needs a type that is a string"),
    "type is a number": ({"type": 1}, "A message needs a type that is a string"),
    "unknown type": ({"type": "start", "id": "1"}, "There is no message type 'start'"),
    "legacy terminate": ({"type": "connection_terminate"}, "There is no message type 'connection_terminate'"),
    "the server's ack": ({"type": "connection_ack"}, "Only servers send connection_ack"),
    "the server's next": ({"type": "next", "id": "1", "payload": {}}, "Only servers send next"),
    "the server's error": ({"type": "error", "id": "1", "payload": []}, "Only servers send error"),
    "ping payload": ({"type": "ping", "payload": "x"}, "The payload of ping must be a JSON object"),
    "ping with a vast number": (
        '{"type":"ping","payload":{"a":1e999}}',
        "A number in the payload is too large",
    ),
    "pong payload": ({"type": "pong", "payload": [1]}, "The payload of pong must be a JSON object"),
    "no id": (
        {"type": "subscribe", "payload": GOOD["payload"]},
        "A subscribe message needs an id that is a non-empty string",
    ),
    "empty id": (GOOD | {"id": ""}, "A subscribe message needs an id that is a non-empty string"),
    "id is a number": (GOOD | {"id": 1}, "A subscribe message needs an id that is a non-empty string"),
    "id null": (GOOD | {"id": None}, "A subscribe message needs an id that is a non-empty string"),
    "long id": (GOOD | {"id": "x" * 256}, "An id has at most 255 characters"),
    "no payload": ({"id": "1", "type": "subscribe"}, "The payload of subscribe must be a JSON object"),
    "payload null": (GOOD | {"payload": None}, "The payload of subscribe must be a JSON object"),
    "payload is a text": (GOOD | {"payload": "{ a }"}, "The payload of subscribe must be a JSON object"),
    "no query": (GOOD | {"payload": {}}, "The payload of subscribe needs a query that is a string"),
    "query null": (
        GOOD | {"payload": {"query": None}},
        "The payload of subscribe needs a query that is a string",
    ),
    "query empty": (
        GOOD | {"payload": {"query": ""}},
        "The payload of subscribe needs a query that is a string",
    ),
    "no query and other extensions": (
        GOOD | {"payload": {"query": "", "extensions": {"persistedQuery": None, "cost": True}}},
        "The payload of subscribe needs a query that is a string",
    ),
    "operationName": (
        GOOD | {"payload": {"query": "{ a }", "operationName": 1}},
        "operationName must be a string",
    ),
    "variables": (
        GOOD | {"payload": {"query": "{ a }", "variables": []}},
        "The variables of subscribe must be a JSON object",
    ),
    "extensions": (
        GOOD | {"payload": {"query": "{ a }", "extensions": "x"}},
        "The extensions of subscribe must be a JSON object",
    ),
    "complete without id": (
        {"type": "complete"},
        "A complete message needs an id that is a non-empty string",
    ),
    "complete with number": (
        {"type": "complete", "id": 7},
        "A complete message needs an id that is a non-empty string",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_message_closes_4400(served: Serving, holder: TestAccount, name: str) -> None:
    message, reason = WRONG[name]
    async with served.connect(holder.key) as client:
        await client.connection.send(message if isinstance(message, str) else json.dumps(message))
        assert await client.closed() == (4400, reason)
    assert served.connections.closes[4400] == 1


@pytest.mark.parametrize("payload", ["x", 1, [], True])
async def test_init_with_a_wrong_payload_closes_4400(served: Serving, payload: Any) -> None:
    async with served.open() as client:
        await client.say(type="connection_init", payload=payload)
        assert await client.closed() == (4400, "The payload of connection_init must be a JSON object")


async def test_a_binary_message_closes_4400(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        await client.connection.send(b'{"type":"ping"}')
        assert await client.closed() == (4400, "Send messages as text")


async def test_a_message_that_is_too_long_closes_1009(served: Serving, holder: TestAccount) -> None:
    limit = served.world.services.settings.max_message
    async with served.connect(holder.key) as client:
        await client.say(type="ping", payload={"x": "é" * (limit // 12)})
        assert (await client.hear())["type"] == "pong"
        for size in (limit, 2 * limit):
            async with served.connect(holder.key) as other:
                await other.say(type="ping", payload={"x": "x" * size})
                code, _ = await other.closed()
                assert code == 1009
        await client.settled()


async def test_a_long_message_before_authentication_closes_4400_unread(
    served: Serving, holder: TestAccount
) -> None:
    async with served.open() as client:
        payload = {"apiKey": holder.key, "x": "x" * STRANGERS_BODY}
        await client.say(type="connection_init", payload=payload)
        assert await client.closed() == (4400, "Before connection_ack a message may have 32768 characters")
    assert len(served.connections) == 0


async def test_only_so_many_messages_may_come_before_authentication(served: Serving) -> None:
    async with served.open() as client:
        for _ in range(20):
            await client.settled()
        await client.say(type="ping")
        assert await client.closed() == (4400, "At most 20 messages may come before connection_ack")


async def test_refused_and_new_documents_count_as_requests(tmp_path: Path) -> None:
    async with (
        open_world(f"sqlite:///{tmp_path / 'rate.db'}", rate_limit=1) as world,
        serving(world) as served,
    ):
        account = await world.account()

        async def code(query: str, identifier: str) -> str:
            await client.subscribe(query, identifier)
            error: str = (await client.hear())["payload"][0]["extensions"]["code"]
            return error

        async with served.connect(account.key) as client:
            await client.subscribe(EVENTS, "known")
            await served.subscriptions(1)
            numbers = itertools.count()
            while await code("{ nothing }", f"refused {next(numbers)}") != "RATE_LIMITED":
                pass
            assert await code(f"{EVENTS} # new", "new") == "RATE_LIMITED"
            # A known one is free.
            await client.subscribe(EVENTS, "again")
            await served.subscriptions(2)


async def test_a_wrong_variable_is_no_fault_of_the_server(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        with capture_logs() as logged:
            await client.subscribe(
                "query ($n: Int) { customers(first: $n) { nodes { id } } }", variables={"n": "x"}
            )
            error = await client.hear()
            await client.settled()
        assert error["type"] == "error"
        assert error["payload"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert logged == []


@pytest.mark.parametrize("offered", [None, ["graphql-ws"], ["graphql-ws", "mqtt"]])
async def test_another_subprotocol_closes_4406(served: Serving, offered: list[str] | None) -> None:
    async with served.open(subprotocols=offered) as client:
        assert client.connection.subprotocol is None
        assert await client.closed() == (4406, "Speak the subprotocol graphql-transport-ws")


async def test_ours_is_chosen_of_several_subprotocols(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key, subprotocols=["graphql-ws", "graphql-transport-ws"]) as client:
        assert client.connection.subprotocol == "graphql-transport-ws"


@pytest.mark.parametrize(
    "payload",
    [None, {}, {"apiKey": None}, {"authorization": "Basic eA=="}, {"other": 1}],
)
async def test_init_without_a_credential_closes_4403(served: Serving, payload: dict[str, Any] | None) -> None:
    async with served.open() as client:
        await client.say(type="connection_init", payload=payload)
        code, _ = await client.closed()
        assert code == 4403


@pytest.mark.parametrize(
    "payload",
    [{"apiKey": "vw_live_wrong"}, {"apiKey": 1}, {"authorization": "Bearer x"}, {"apiKey": ""}],
)
async def test_init_with_a_wrong_credential_closes_4403(served: Serving, payload: dict[str, Any]) -> None:
    async with served.open() as client:
        await client.say(type="connection_init", payload=payload)
        code, _ = await client.closed()
        assert code == 4403


async def test_a_wrong_credential_in_the_headers_closes_4403(served: Serving, holder: TestAccount) -> None:
    async with served.open(additional_headers={"authorization": "Bearer vw_live_x"}) as client:
        code, _ = await client.closed()
        assert code == 4403


async def test_credentials_in_the_headers_count(served: Serving, holder: TestAccount) -> None:
    headers = {"Authorization": f"Bearer {holder.key}"}
    for init in ({}, {"payload": None}, {"payload": {}}):
        async with served.open(additional_headers=headers) as client:
            await client.say(type="connection_init", **init)
            assert await client.hear() == {"type": "connection_ack"}


async def test_subscribe_before_the_acknowledgement_closes_4401(served: Serving, holder: TestAccount) -> None:
    for headers in ({}, {"x-api-key": holder.key}):
        async with served.open(additional_headers=headers) as client:
            await client.subscribe()
            assert await client.closed() == (4401, "Unauthorized")


async def test_a_second_init_closes_4429(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        await client.say(type="connection_init", payload={"apiKey": holder.key})
        assert await client.closed() == (4429, "Too many initialisation requests")


async def test_init_that_does_not_come_closes_4408(small_world: World) -> None:
    async with serving(small_world, timing=Timing(init=0.05)) as served, served.open() as client:
        assert await client.closed() == (4408, "connection_init did not come in time")


async def test_an_id_in_use_closes_4409(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        await client.subscribe(identifier="twice")
        await client.subscribe(identifier="twice")
        assert await client.closed() == (4409, "Subscriber for twice already exists")
    async with served.connect(holder.key) as client:
        await client.subscribe(identifier="\ud800" * 200)
        await client.subscribe(identifier="\ud800" * 200)
        code, reason = await client.closed()
        assert (code, reason) == (4409, "Subscriber for " + "?" * 108)


async def test_ping_is_answered_at_any_time(served: Serving, holder: TestAccount) -> None:
    async with served.open() as client:
        await client.settled()
        await client.say(type="ping", payload=None)
        assert await client.hear() == {"type": "pong"}
        payload = {"n": 1, "f": 0.5, "text": "😀 é \ud800", "list": [None, True]}
        await client.say(type="ping", payload=payload)
        assert await client.hear() == {"type": "pong", "payload": payload}
        await client.say(type="pong")
        await client.say(type="pong", payload={"x": 1})
        await client.say(type="complete", id="nothing")
        await client.init(holder.key)
        await client.settled()


async def test_any_text_is_an_id(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        for identifier in ('"', "\\", "é", "\ud800", "</script>", "x" * 255):
            await client.subscribe("{ __typename }", identifier)
            assert await client.hear() == {
                "id": identifier,
                "type": "next",
                "payload": {"data": {"__typename": "Query"}},
            }
            assert await client.hear() == {"id": identifier, "type": "complete"}


async def test_members_of_the_payload_may_be_null(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client:
        payload = {"query": "{ __typename }", "operationName": None, "variables": None, "extensions": None}
        await client.say(id="1", type="subscribe", payload=payload, more="is ignored")
        assert (await client.hear())["type"] == "next"


async def test_the_cost_is_told_when_it_is_asked_for(
    served: Serving, holder: TestAccount, owner: Actor
) -> None:
    query = "query ($n: Int!) { customers(first: $n) { nodes { id } } }"
    async with served.connect(holder.key) as client:
        await client.subscribe(query, variables={"n": 7}, extensions={"cost": True})
        answer = {"data": {"customers": {"nodes": []}}, "extensions": {"cost": 7}}
        assert await client.hear() == {"id": "1", "type": "next", "payload": answer}
        assert (await client.hear())["type"] == "complete"
        for extensions in (None, {}, {"cost": False}, {"cost": 1}):
            await client.subscribe(query, variables={"n": 7}, extensions=extensions)
            assert list((await client.hear())["payload"]) == ["data"]
            assert (await client.hear())["type"] == "complete"
        # Equal subscriptions share their responses.
        await client.subscribe(identifier="all", extensions={"cost": True})
        await served.subscriptions(1)
        await served.hub.customer(owner)
        assert list((await client.hear())["payload"]) == ["data"]


async def test_a_revoked_key_ends_its_sockets(
    served: Serving, holder: TestAccount, owner: Actor, small_world: World
) -> None:
    async with small_world.database.transaction() as session:
        key, secret = await accounts.create_api_key(session, owner, name="second")
    async with served.connect(secret) as client, served.connect(holder.key) as other:
        await client.subscribe()
        async with small_world.database.transaction() as session:
            await accounts.revoke_api_key(session, owner, key.id)
        assert await client.closed() == (4403, "The credential has expired or was revoked")
        await other.settled()


async def test_a_key_that_another_process_revoked_ends_its_sockets(
    holder: TestAccount, owner: Actor, small_world: World, tmp_path: Any
) -> None:
    from tests.support import world as open_world

    async with (
        open_world(f"sqlite:///{tmp_path / 'voltwire.db'}") as elsewhere,
        serving(small_world, timing=Timing(check=0.05)) as served,
    ):
        async with elsewhere.database.transaction() as session:
            key, secret = await accounts.create_api_key(session, owner, name="second")
        async with served.connect(secret) as client:
            async with elsewhere.database.transaction() as session:
                await accounts.revoke_api_key(session, owner, key.id)
            assert (await client.closed())[0] == 4403


async def test_an_idle_subscription_is_told_how_far_it_has_read(
    holder: TestAccount, owner: Actor, small_world: World
) -> None:
    timing = Timing(check=0.05, rounds=1, idle=0.1)
    async with serving(small_world, timing=timing) as served, served.connect(holder.key) as client:
        await client.subscribe(identifier="all")
        await client.subscribe(identifier="none", variables={"filter": {"types": []}})
        await served.subscriptions(2)
        await served.hub.customer(owner)
        # Pings may come first.
        while (event := await client.hear())["type"] != "next":
            assert event["type"] == "ping"
        cursor = event["payload"]["data"]["events"]["cursor"]
        told: dict[str, str] = {}
        while told != {"all": cursor, "none": cursor}:
            message = await client.hear()
            assert message["type"] == "ping"
            told |= message["payload"]["cursors"]
        await client.say(id="none", type="complete")
        await client.subscribe(EVENTS, "resumed", {"after": told["none"]})
        await served.hub.customer(owner)
        heard = []
        while len(heard) < 2:
            message = await client.hear()
            if message["type"] == "next":
                heard.append((message["id"], message["payload"]["data"]["events"]["sequence"]))
        assert sorted(heard) == [("all", 3), ("resumed", 3)]


async def test_a_deploy_closes_1012(served: Serving, holder: TestAccount) -> None:
    async with served.connect(holder.key) as client, served.open() as silent:
        await client.subscribe()
        await served.subscriptions(1)
        await served.connections.close()
        assert await client.closed() == (1012, "The server is restarting")
        assert await silent.closed() == (1012, "The server is restarting")
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with served.open():
                pass
        assert refused.value.response.status_code == 503
