"""Clients that other people wrote: `gql` for Python, over HTTP and two WebSocket libraries, and `graphql-ws`."""

import json
from itertools import count
from pathlib import Path

import pytest
import websockets
from gql import Client, gql
from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport
from gql.transport.async_transport import AsyncTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport

from tests.system.clients import Api
from tests.system.deployment import Account, Deployment
from tests.system.node import node_script

SUBSCRIPTION = """
subscription ($after: String) {
  events(after: $after) { sequence cursor ... on CustomerCreatedEvent { customer { name } } }
}
"""
GRAPHQL_WS = f"""
import {{ createClient }} from "graphql-ws";

const [url, apiKey, after, wanted] = process.argv.slice(2);
const client = createClient({{ url, connectionParams: {{ apiKey }}, retryAttempts: 0 }});
const events = [];
for await (const {{ data }} of client.iterate({{ query: `{SUBSCRIPTION}`, variables: {{ after }} }})) {{
  events.push(data.events);
  if (events.length === Number(wanted)) break;
}}
await client.dispose();
console.log(JSON.stringify(events));
"""
numbers = count()


async def make_customers(api: Api, wanted: int) -> list[str]:
    """Names of new customers."""
    names = [f"Client {next(numbers)}" for _ in range(wanted)]
    for name in names:
        await api.mutate(
            "createCustomer", "customer { id }", name=name, email=f"{name.replace(' ', '.')}@example.com"
        )
    return names


async def test_gql_reads_the_schema_and_queries(served: Deployment, account: Account) -> None:
    transport = HTTPXAsyncTransport(
        f"{served.apis[0].url}/graphql", headers={"x-api-key": account.key}, trust_env=False
    )
    async with Client(transport=transport, fetch_schema_from_transport=True) as session:
        found = await session.execute(gql("{ viewer { account { id name } scopes } }"))
        assert found["viewer"]["account"] == {"id": account.id, "name": "Bright Energy"}
        with pytest.raises(TransportQueryError) as refused:
            await session.execute(gql('{ customers(after: "nonsense") { nodes { id } } }'))
    assert [error["extensions"]["code"] for error in refused.value.errors or []] == ["BAD_USER_INPUT"]


@pytest.mark.parametrize("over", ["websockets", "aiohttp"])
async def test_gql_subscribes(served: Deployment, account: Account, api: Api, over: str) -> None:
    after = await api.latest_cursor()
    url, init = served.apis[0].socket_url, {"apiKey": account.key}
    transport: AsyncTransport
    if over == "websockets":
        transport = WebsocketsTransport(url, init_payload=init, ping_interval=5, connect_args={"proxy": None})
    else:
        transport = AIOHTTPWebsocketsTransport(url, init_payload=init, ping_interval=5)
    subscription = gql(SUBSCRIPTION)
    subscription.variable_values = {"after": after}
    async with Client(transport=transport) as session:
        events = session.subscribe(subscription)
        made = await make_customers(api, 3)
        got = [(await anext(events))["events"] for _ in made]
        await events.aclose()
        # The same connection goes on with queries, as the protocol allows.
        stream = await session.execute(gql("{ eventStream { latestCursor } }"))
    assert [event["customer"]["name"] for event in got] == made
    assert [event["sequence"] - got[0]["sequence"] for event in got] == [0, 1, 2]
    assert got[-1]["cursor"] == stream["eventStream"]["latestCursor"]


async def test_gql_with_a_wrong_key_is_told_so(served: Deployment) -> None:
    transport = WebsocketsTransport(
        served.apis[0].socket_url, init_payload={"apiKey": "vw_live_wrong"}, connect_args={"proxy": None}
    )
    with pytest.raises(TransportConnectionFailed) as refused:
        async with Client(transport=transport):
            pass
    closed = refused.value.__cause__
    assert isinstance(closed, websockets.ConnectionClosed)
    assert closed.rcvd is not None
    assert closed.rcvd.code == 4403


async def test_graphql_ws_subscribes(served: Deployment, account: Account, api: Api, tmp_path: Path) -> None:
    after = await api.latest_cursor()
    made = await make_customers(api, 3)
    async with node_script(
        GRAPHQL_WS, tmp_path, served.apis[0].socket_url, account.key, after, "3"
    ) as running:
        output, _ = await running.communicate()
        assert running.returncode == 0
    assert [event["customer"]["name"] for event in json.loads(output)] == made
