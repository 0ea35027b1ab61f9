"""GraphQL over HTTP: methods, media types, statuses, and credentials before anything else."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Route
from structlog.testing import capture_logs

from app.accounts import actions as accounts
from app.graphql.http.rates import Rates
from app.graphql.http.view import GraphQLView
from tests.accounts.state import mutation, unchanged
from tests.readings.metered import RECORD, metered
from tests.support import World

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
TYPENAME = "{ __typename }"
CREATE = mutation("createCustomer", "customer { name }")
APPROVE = (
    'approveHostedConsent(input: {token: "x", consenteeFullName: "A", consenteeEmail: "a@example.com", '
    'consenteeJobTitle: "Owner"}) { userErrors { code } }'
)
ADA = {"input": {"name": "Ada", "email": "ada@example.com"}}


@asynccontextmanager
async def client(world: World, rate: float = 1000) -> AsyncIterator[httpx.AsyncClient]:
    """`rate` requests are allowed in all, because the clock of the limit stands still."""
    view = GraphQLView(
        world.services, world.engine, world.authenticator, Rates(rate, clock=lambda: 0.0), None
    )
    app = Starlette(routes=[Route("/graphql", view.__call__, methods=["GET", "POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as opened:
        yield opened


async def post(world: World, body: Any, key: str | None = None, accept: str = GRAPHQL) -> httpx.Response:
    headers = {"accept": accept, **({} if key is None else {"x-api-key": key})}
    async with client(world) as opened:
        if isinstance(body, dict | list):
            return await opened.post("/graphql", json=body, headers=headers)
        return await opened.post("/graphql", content=body, headers={**headers, "content-type": JSON})


async def get(
    world: World, key: str | None = None, accept: str = GRAPHQL, **parameters: str
) -> httpx.Response:
    headers = {"accept": accept, **({} if key is None else {"authorization": f"Bearer {key}"})}
    async with client(world) as opened:
        return await opened.get("/graphql", params=parameters, headers=headers)


def code(response: httpx.Response) -> str:
    """The code of the only error of a response without data."""
    assert list(response.json()) == ["errors"]
    [error] = response.json()["errors"]
    found: str = error["extensions"]["code"]
    return found


async def test_a_query_by_post_and_by_get(world: World) -> None:
    account = await world.account("Bright")
    query = (
        "query Who($no: Boolean! = false) { viewer { account { name } apiKey @include(if: $no) { id } } } "
        "query Other { __typename }"
    )
    expected = {"data": {"viewer": {"account": {"name": "Bright"}}}}
    variables = {"no": False}
    for response in (
        await post(world, {"query": query, "operationName": "Who", "variables": variables}, account.key),
        await get(
            world,
            account.key,
            query=query,
            operationName="Who",
            variables=json.dumps(variables),
            extensions="{}",
        ),
        await get(world, account.key, query=query, operationName="Who"),
        await post(
            world,
            {"query": query, "operationName": "Who", "variables": None, "extensions": None, "more": 1},
            account.key,
        ),
    ):
        assert (response.status_code, response.json()) == (200, expected)
        assert response.headers["content-type"] == f"{GRAPHQL}; charset=utf-8"


async def test_mutations_only_by_post(world: World) -> None:
    account = await world.account()
    async with unchanged(world):
        for accept in (GRAPHQL, JSON):
            response = await get(world, account.key, accept, query=CREATE, variables=json.dumps(ADA))
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
            assert code(response) == "BAD_USER_INPUT"
    response = await post(world, {"query": CREATE, "variables": ADA}, account.key)
    assert response.json()["data"]["createCustomer"]["customer"] == {"name": "Ada"}


async def test_other_methods_are_refused(world: World) -> None:
    async with client(world) as opened:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            response = await opened.request(method, "/graphql")
            assert response.status_code == 405
            assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;q=0"])
async def test_what_is_not_offered_is_not_acceptable(world: World, accept: str) -> None:
    response = await post(world, {"query": TYPENAME}, accept=accept)
    assert response.status_code == 406
    assert GRAPHQL in response.text


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (GRAPHQL, GRAPHQL),
        (JSON, JSON),
        ("*/*", JSON),
        (f"{GRAPHQL}, {JSON};q=0.9", GRAPHQL),
        (f"{GRAPHQL};q=0.1, {JSON};q=0.9", JSON),
    ],
)
async def test_the_answer_has_the_media_type_that_is_preferred(world: World, accept: str, media: str) -> None:
    response = await post(world, {"query": TYPENAME}, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, f"{media}; charset=utf-8")
    assert response.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{ nothing }"},
        {"query": "{"},
        {"query": "query ($a: Int!) { __typename @include(if: true) }"},
        {"query": TYPENAME, "operationName": "Missing"},
        {"query": "query ($t: String!) { hostedConsentByToken(token: $t) { id } }", "variables": {"t": 1}},
        {"query": "{ " + "__typename " * 2000 + "}"},
    ],
)
async def test_a_refused_document_is_400_or_well_formed_200_for_legacy_clients(
    world: World, body: dict[str, Any]
) -> None:
    for accept, status in ((GRAPHQL, 400), (JSON, 200)):
        response = await post(world, body, accept=accept)
        assert (response.status_code, "data" in response.json()) == (status, False)
        assert response.json()["errors"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"query": NaN}',
        b'{"query": "{ __typename }"',
        b"[" * 30_000,
        {},
        [{"query": TYPENAME}],
        {"query": ""},
        {"query": None},
        {"query": 1},
        {"query": [TYPENAME]},
        {"query": TYPENAME, "operationName": 1},
        {"query": TYPENAME, "variables": "{}"},
        {"query": TYPENAME, "variables": []},
        {"query": TYPENAME, "extensions": "{}"},
        {"query": TYPENAME, "extensions": []},
    ],
)
async def test_what_is_no_request_is_400(world: World, body: Any) -> None:
    for accept in (GRAPHQL, JSON):
        response = await post(world, body, accept=accept)
        assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"query": ""},
        {"query": TYPENAME, "variables": "{"},
        {"query": TYPENAME, "variables": "[]"},
        {"query": TYPENAME, "extensions": "no"},
    ],
)
async def test_what_is_no_request_by_get_is_400(world: World, parameters: dict[str, str]) -> None:
    response = await get(world, **parameters)
    assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")


@pytest.mark.parametrize(
    "media",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        f"{JSON}; charset=latin1",
    ],
)
async def test_a_body_that_is_not_json_in_utf8_is_415(world: World, media: str) -> None:
    async with client(world) as opened:
        content = json.dumps({"query": TYPENAME}).encode()
        response = await opened.post("/graphql", content=content, headers={"content-type": media})
    assert (response.status_code, code(response)) == (415, "BAD_USER_INPUT")


@pytest.mark.parametrize(
    "media", [JSON, "Application/JSON", f"{JSON};charset=UTF-8", f'{JSON}; charset="utf-8"']
)
async def test_json_in_utf8_is_taken_in_any_spelling(world: World, media: str) -> None:
    async with client(world) as opened:
        content = json.dumps({"query": TYPENAME}).encode()
        response = await opened.post("/graphql", content=content, headers={"content-type": media})
    assert response.json() == {"data": {"__typename": "Query"}}


async def test_a_body_too_large_is_413(world: World) -> None:
    account = await world.account()
    limit = world.services.settings.max_body
    padded = json.dumps({"query": TYPENAME}).encode().ljust(limit)
    assert (await post(world, padded, account.key)).status_code == 200

    async def streamed() -> AsyncIterator[bytes]:
        yield padded
        yield b" "

    for content in (padded + b" ", streamed()):
        response = await post(world, content, account.key)
        assert (response.status_code, code(response)) == (413, "BAD_USER_INPUT")


async def test_a_wrong_key_is_refused_before_anything_is_parsed(world: World) -> None:
    account = await world.account()
    for key in ("vw_live_" + "x" * 43, "vw_stream_x.y", "nonsense", ""):
        for body in ({"query": TYPENAME}, {"query": "{ nothing }"}, b"{ broken", b"\xff"):
            for accept in (GRAPHQL, JSON):
                response = await post(world, body, key, accept)
                assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")
                assert response.headers["www-authenticate"] == 'Bearer realm="voltwire"'
    async with client(world) as opened:
        headers = {"x-api-key": account.key, "authorization": "Bearer vw_live_other"}
        response = await opened.post(
            "/graphql", content=b"{ broken", headers={**headers, "content-type": "text/html"}
        )
    assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")


async def test_without_a_key_only_the_open_fields_are_answered(world: World) -> None:
    for query in (
        TYPENAME,
        '{ __schema { queryType { name } } __type(name: "Meter") { kind } }',
        "{ eventTypes { name } ... on Query { __typename } ...F } fragment F on Query { eventTypes { type } }",
        '{ hostedConsentByToken(token: "x") { id } }',
        f"mutation {{ {APPROVE} }}",
        'mutation { declineHostedConsent(input: {token: "x"}) { userErrors { code } } }',
    ):
        response = await post(world, {"query": query})
        assert (response.status_code, "errors" in response.json()) == (200, False), response.text


async def test_without_a_key_nothing_else_runs(world: World) -> None:
    async with unchanged(world):
        for query in (
            "{ viewer { scopes } }",
            "{ __typename customers { nodes { id } } }",
            "{ ...F } fragment F on Query { ... { node(id: 1) { id } } }",
            'mutation { updateAccount(input: {name: "Mine"}) { account { id } } }',
            f'mutation {{ {APPROVE} deleteUser(input: {{userId: "x"}}) {{ deletedId }} }}',
            "{ a: eventStream { latestCursor } }",
            "{ viewer @skip(if: true) { scopes } }",
            "subscription { events { id } }",
        ):
            for accept in (GRAPHQL, JSON):
                response = await post(world, {"query": query}, accept=accept)
                assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED"), query
                assert response.headers["www-authenticate"] == 'Bearer realm="voltwire"'
    # Errors of the document come first.
    assert (await post(world, {"query": "{ viewer { nothing } }"})).status_code == 400
    # The document's other operation does not matter.
    both = {"query": "query A { __typename } query B { viewer { scopes } }"}
    assert (await post(world, {**both, "operationName": "A"})).status_code == 200
    assert (await post(world, {**both, "operationName": "B"})).status_code == 401


async def test_a_key_counts_in_either_header_and_a_stream_token_as_well(world: World) -> None:
    account = await world.account()
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        token, _ = await accounts.create_stream_token(session, admin, world.services.keyring)
    async with client(world) as opened:
        for headers in (
            {"x-api-key": account.key},
            {"authorization": f"Bearer {account.key}"},
            {"authorization": f"bearer {account.key}", "x-api-key": account.key},
            {"authorization": f"Bearer {token}"},
            {"x-api-key": token},
        ):
            response = await opened.post(
                "/graphql", json={"query": "{ viewer { account { id } } }"}, headers=headers
            )
            assert response.json() == {"data": {"viewer": {"account": {"id": account.id}}}}


async def test_a_subscription_needs_a_stream(world: World) -> None:
    account = await world.account()
    response = await post(world, {"query": "subscription { events { id } }"}, account.key)
    assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")
    assert "text/event-stream" in response.json()["errors"][0]["message"]


async def test_an_error_of_a_field_comes_with_its_data(world: World) -> None:
    account = await world.account()
    query = '{ viewer { account { id } } event(id: "x") { id } intervalData { unit } }'
    for accept in (GRAPHQL, JSON):
        response = await post(world, {"query": query}, account.key, accept)
        assert response.status_code == 200
        assert response.json()["data"] == {
            "viewer": {"account": {"id": account.id}},
            "event": None,
            "intervalData": None,
        }
        [error] = response.json()["errors"]
        assert (error["path"], error["extensions"]) == (
            ["intervalData"],
            {"code": "BAD_USER_INPUT", "field": ["meterId"]},
        )


async def test_over_the_rate_it_is_429_for_each_account_alone(world: World) -> None:
    first, second = await world.account(), await world.account()
    body = {"query": "{ viewer { scopes } }"}
    async with client(world, rate=1) as opened:
        async with unchanged(world):
            for key, status in ((first.key, 200), (first.key, 429), (second.key, 200), (second.key, 429)):
                response = await opened.post(
                    "/graphql", json=body, headers={"x-api-key": key, "accept": JSON}
                )
                assert response.status_code == status
                if status == 429:
                    assert (code(response), response.headers["retry-after"]) == ("RATE_LIMITED", "1")
        # Strangers of one address share a rate of their own.
        statuses = [
            (await opened.post("/graphql", content=b"{", headers={"content-type": JSON})).status_code
            for _ in range(2)
        ]
        assert statuses == [400, 429]


async def test_a_fault_outside_of_any_field_is_masked_and_logged(world: World) -> None:
    account = await world.account()
    async with world.database.transaction() as session:
        await session.execute(text("ALTER TABLE api_keys RENAME COLUMN secret_hash TO hash"))
    world.authenticator.forget()
    for accept in (GRAPHQL, "text/event-stream"):
        with capture_logs() as logs:
            response = await post(world, {"query": TYPENAME}, account.key, accept)
        assert (response.status_code, code(response)) == (500, "INTERNAL")
        identifier = response.json()["errors"][0]["extensions"]["id"]
        assert identifier in {one.get("error_id") for one in logs}


async def test_the_digits_of_a_json_number_survive(world: World) -> None:
    meter = await metered(world)
    body = json.dumps(
        {"query": RECORD, "variables": {"input": {"meterId": meter.meter_id, "readings": "HERE"}}}
    )
    readings = '[{"startAt": "2024-05-01T00:00:00Z", "consumption": 123456789012.123456}]'
    response = await post(world, body.replace('"HERE"', readings).encode(), meter.account.key)
    assert response.json()["data"]["recordReadings"]["changed"] == 1
    assert (await meter.intervals())["total"] == "123456789012.123456"
