"""Clients and audits that other people wrote in JavaScript, where node and their packages are there."""

import asyncio
import json
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest

from tests.system.clients import Api
from tests.system.deployment import Account, Deployment, deployed
from tests.system.node import node_script, require_node

SUBSCRIPTION = "subscription ($after: String) { events(after: $after) { sequence cursor name } }"
# Both make their next connections by themselves, with the variables as they are then.
FOLLOW = f"""
const variables = {{ after }};
for await (const {{ data }} of client.iterate({{ query: `{SUBSCRIPTION}`, variables }})) {{
  variables.after = data.events.cursor;
  console.log(JSON.stringify(data.events));
}}
"""
GRAPHQL_WS = f"""
import {{ createClient }} from "graphql-ws";

const [url, apiKey, after] = process.argv.slice(2);
// Without the last it gives up when it is refused, as it is while the only process restarts.
const client = createClient({{
  url: url.replace("http", "ws"), connectionParams: {{ apiKey }}, shouldRetry: () => true,
}});
{FOLLOW}
"""
GRAPHQL_SSE = f"""
import {{ createClient }} from "graphql-sse";

const [url, apiKey, after] = process.argv.slice(2);
const client = createClient({{ url, headers: {{ "x-api-key": apiKey }} }});
{FOLLOW}
"""
ASKS_BY_SSE = """
import { createClient } from "graphql-sse";

const [url, apiKey] = process.argv.slice(2);
const client = createClient({ url, headers: { "x-api-key": apiKey }, retryAttempts: 0 });
const answers = [];
for (const query of ["{ viewer { account { name } } }", "{ nothing }"])
  for await (const answer of client.iterate({ query })) answers.push(answer);
console.log(JSON.stringify(answers));
"""
AUDIT = """
import { auditServer } from "graphql-http";

const [url, apiKey] = process.argv.slice(2);
const headers = apiKey ? { "x-api-key": apiKey } : {};
const fetchFn = (to, options = {}) => fetch(to, { ...options, headers: { ...options.headers, ...headers } });
const audits = await auditServer({ url, fetchFn });
console.log(JSON.stringify(audits.map(({ id, name, status, reason }) => ({ id, name, status, reason }))));
"""


@pytest.fixture
def graphql_url(served: Deployment) -> str:
    return f"{served.apis[0].url}/graphql"


async def said(running: Process) -> Any:
    """The output of a script that ends by itself."""
    output, _ = await running.communicate()
    assert running.returncode == 0
    return json.loads(output)


async def line(running: Process) -> Any:
    """The next line that a script prints."""
    assert running.stdout is not None
    return json.loads(await running.stdout.readline())


async def make_customer(api: Api, number: int) -> None:
    await api.mutate("createCustomer", "customer { id }", name="Ada", email=f"ada{number}@example.com")


@pytest.mark.parametrize("package", ["graphql-ws", "graphql-sse"])
async def test_a_client_follows_through_a_deploy(package: str, tmp_path: Path) -> None:
    """Told to come back, it does, and goes on where it was: nothing is missed, and nothing comes twice."""
    script = {"graphql-ws": GRAPHQL_WS, "graphql-sse": GRAPHQL_SSE}[package]
    require_node(package)
    async with deployed(["serve"], tmp_path) as deployment:
        (process,) = deployment.processes
        account = await deployment.account()
        async with Api(process.url, account.key) as api:
            after = await api.latest_cursor()
            url = f"{process.url}/graphql"
            async with node_script(script, tmp_path, url, account.key, after, package=package) as client:
                for number in range(3):
                    await make_customer(api, number)
                heard = [await line(client) for _ in range(3)]
                assert await process.terminate() == 0
                await asyncio.to_thread(process.start)
                # Most likely the client is not back yet.
                for number in range(3, 6):
                    await make_customer(api, number)
                heard += [await line(client) for _ in range(3)]
    assert [event["sequence"] for event in heard] == [2, 3, 4, 5, 6, 7]
    assert {event["name"] for event in heard} == {"customer.created"}


async def test_graphql_sse_asks(graphql_url: str, account: Account, tmp_path: Path) -> None:
    async with node_script(ASKS_BY_SSE, tmp_path, graphql_url, account.key, package="graphql-sse") as running:
        answer, refusal = await said(running)
    assert answer == {"data": {"viewer": {"account": {"name": "Bright Energy"}}}}
    assert [error["message"] for error in refusal["errors"]] == [
        "Cannot query field 'nothing' on type 'Query'."
    ]


@pytest.mark.parametrize("as_whom", ["nobody", "a developer"])
async def test_every_audit_of_graphql_over_http_is_ok(
    graphql_url: str, account: Account, tmp_path: Path, as_whom: str
) -> None:
    key = account.key if as_whom == "a developer" else ""
    async with node_script(AUDIT, tmp_path, graphql_url, key, package="graphql-http") as running:
        audits = await said(running)
    assert [audit for audit in audits if audit["status"] != "ok"] == []
    # Fewer would mean that the suite has left some out.
    assert len(audits) == 61
