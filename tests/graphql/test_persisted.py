"""Persisted documents: hashes in place of documents, and a list of allowed documents."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.auth.actor import Actor
from app.core.errors import CommandError
from app.core.settings import Settings
from app.graphql import persisted
from app.graphql.bounds.limits import limits_of
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.persisted import PersistedDocuments, hash_of, read_operations
from app.server.process import Process
from tests.graphql.http.test_view import GRAPHQL, JSON, client
from tests.graphql.serving import EVENTS, Client, Serving, serving
from tests.support import SECRET, TestAccount, World, the_schema

FORM = "must be a JSON object of documents by the SHA-256 of each, in hexadecimal"
SCOPES = "{ viewer { scopes } }"
CALLED = "query Mine($id: ID!) { customer(id: $id) { name } }"


def named(document: str, **more: Any) -> dict[str, Any]:
    return {"persistedQuery": {"version": 1, "sha256Hash": sha256(document.encode()).hexdigest()}, **more}


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with client(world) as opened:
        yield opened


async def ask(
    http: httpx.AsyncClient, account: TestAccount, body: dict[str, Any], accept: str = GRAPHQL
) -> tuple[int, Any]:
    headers = {"accept": accept, "x-api-key": account.key}
    response = await http.post("/graphql", json=body, headers=headers)
    return response.status_code, response.json()


def not_found(answer: Any) -> bool:
    expected = {
        "message": "PersistedQueryNotFound",
        "extensions": {"code": "PERSISTED_QUERY_NOT_FOUND"},
    }
    return bool(answer == {"errors": [expected]})


async def test_a_document_is_sent_once_and_then_named(world: World, http: httpx.AsyncClient) -> None:
    account = await world.account()
    status, answer = await ask(http, account, {"extensions": named(SCOPES)})
    assert status == 400
    assert not_found(answer)
    # Legacy clients read the error only with 200.
    status, answer = await ask(http, account, {"extensions": named(SCOPES)}, JSON)
    assert status == 200
    assert not_found(answer)
    expected = (200, {"data": {"viewer": {"scopes": ["READ", "WRITE", "ADMIN"]}}})
    assert await ask(http, account, {"query": SCOPES, "extensions": named(SCOPES)}) == expected
    assert await ask(http, account, {"extensions": named(SCOPES)}) == expected
    assert await ask(http, account, {"query": None, "extensions": named(SCOPES)}) == expected
    # Some clients always send a query, and leave it empty.
    assert await ask(http, account, {"query": "", "extensions": named(SCOPES)}) == expected
    for more in ({}, {"query": ""}):
        parameters = {"extensions": json.dumps(named(SCOPES)), **more}
        response = await http.get("/graphql", params=parameters, headers={"x-api-key": account.key})
        assert (response.status_code, response.json()) == expected
    status, answer = await ask(http, account, {"query": "", "extensions": named("{ __typename }")})
    assert status == 400
    assert not_found(answer)
    for no_text in (0, False, [], {}):
        status, answer = await ask(http, account, {"query": no_text, "extensions": named(SCOPES)})
        assert (status, answer["errors"][0]["extensions"]["code"]) == (400, "BAD_USER_INPUT")


async def test_operation_name_and_variables_go_with_a_hash(world: World, http: httpx.AsyncClient) -> None:
    account = await world.account()
    both = f"{CALLED} query Other {SCOPES}"
    asked: dict[str, Any] = {"extensions": named(both), "operationName": "Mine", "variables": {"id": "x"}}
    assert await ask(http, account, {"query": both, **asked}) == (200, {"data": {"customer": None}})
    assert await ask(http, account, asked) == (200, {"data": {"customer": None}})


@pytest.mark.parametrize(
    "extensions",
    [
        named("{ __typename }"),
        {"persistedQuery": {"version": 2, "sha256Hash": hash_of(SCOPES)}},
        {"persistedQuery": {"version": True, "sha256Hash": hash_of(SCOPES)}},
        {"persistedQuery": {"version": "1", "sha256Hash": hash_of(SCOPES)}},
        {"persistedQuery": {"sha256Hash": hash_of(SCOPES)}},
        {"persistedQuery": {"version": 1}},
        {"persistedQuery": {"version": 1, "sha256Hash": hash_of(SCOPES).upper()}},
        {"persistedQuery": {"version": 1, "sha256Hash": 7}},
        {"persistedQuery": "x"},
    ],
)
async def test_what_does_not_fit_is_refused(
    world: World, http: httpx.AsyncClient, extensions: dict[str, Any]
) -> None:
    account = await world.account()
    status, answer = await ask(http, account, {"query": SCOPES, "extensions": extensions})
    assert status == 400
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_what_is_refused_is_not_learned(world: World, http: httpx.AsyncClient) -> None:
    account = await world.account()
    invalid = "{ viewer { nothing } }"
    body = {"query": invalid, "extensions": named(invalid)}
    assert (await ask(http, account, body))[0] == 400
    assert not_found((await ask(http, account, {"extensions": named(invalid)}))[1])
    # Nor refused documents of strangers, so that strangers push nothing out of the cache.
    body = {"query": SCOPES, "extensions": named(SCOPES)}
    assert (await http.post("/graphql", json=body)).status_code == 401
    assert not_found((await ask(http, account, {"extensions": named(SCOPES)}))[1])


def test_the_latest_documents_are_kept() -> None:
    documents = PersistedDocuments(None, 100, 1_000_000)
    every = [f"{{ a{number}: __typename }}" for number in range(101)]
    for one in every[:-1]:
        documents.learn(one, hash_of(one))
    documents.learn(every[0], hash_of(every[0]))
    documents.learn(every[-1], hash_of(every[-1]))
    assert documents.text_of(None, hash_of(every[0])) == every[0]
    with pytest.raises(RequestErrors):
        documents.text_of(None, hash_of(every[1]))
    long = "{ __typename }" + " " * persisted.LONGEST
    documents.learn(long, hash_of(long))
    with pytest.raises(RequestErrors):
        documents.text_of(None, hash_of(long))


@pytest.fixture
def listed(world: World) -> World:
    """The world with an engine that runs two documents only."""
    operations = {hash_of(one): one for one in (SCOPES, CALLED)}
    world.engine = Engine(the_schema(), limits_of(world.services.settings), operations)
    return world


async def test_only_documents_of_the_list_run(listed: World) -> None:
    account = await listed.account()
    async with client(listed) as http:
        expected = (200, {"data": {"viewer": {"scopes": ["READ", "WRITE", "ADMIN"]}}})
        assert await ask(http, account, {"query": SCOPES}) == expected
        assert await ask(http, account, {"extensions": named(SCOPES)}) == expected
        for other in (f"{SCOPES} ", "{ __typename }", "{ __schema { queryType { name } } }", "{ broken"):
            status, answer = await ask(http, account, {"query": other})
            [error] = answer["errors"]
            assert (status, error["extensions"]) == (400, {"code": "OPERATION_NOT_ALLOWED"}), other
            # Sending it with its hash does not make it known.
            assert (await ask(http, account, {"query": other, "extensions": named(other)}))[0] == 400
            assert not_found((await ask(http, account, {"extensions": named(other)}))[1])


async def test_the_list_holds_over_sockets_as_well(listed: World) -> None:
    account = await listed.account()
    async with serving(listed) as served, served.connect(account.key) as socket:
        await socket.subscribe(SCOPES, "1")
        assert (await socket.hear())["payload"]["data"] == {"viewer": {"scopes": ["READ", "WRITE", "ADMIN"]}}
        assert (await socket.hear())["type"] == "complete"
        await socket.subscribe("{ __typename }", "2")
        refused = await socket.hear()
        assert refused["type"] == "error"
        assert refused["payload"][0]["extensions"] == {"code": "OPERATION_NOT_ALLOWED"}
        await socket.subscribe("", "3", extensions=named(SCOPES))
        assert (await socket.hear())["type"] == "next"


async def test_a_document_is_named_over_sockets_as_well(
    served: Serving, small_world: World, holder: TestAccount
) -> None:
    expected = {"data": {"viewer": {"scopes": ["READ", "WRITE", "ADMIN"]}}}

    async def refused(socket: Client, payload: dict[str, Any]) -> Any:
        await socket.say(id="1", type="subscribe", payload=payload)
        message = await socket.hear()
        assert (message["id"], message["type"]) == ("1", "error")
        return {"errors": message["payload"]}

    async def answered(socket: Client, payload: dict[str, Any]) -> Any:
        await socket.say(id="1", type="subscribe", payload=payload)
        message = await socket.hear()
        assert await socket.hear() == {"id": "1", "type": "complete"}
        return message["payload"]

    async with served.connect(holder.key) as socket:
        for more in ({}, {"query": ""}, {"query": None}):
            assert not_found(await refused(socket, {"extensions": named(SCOPES), **more}))
        for other in ("{ __typename }", "{ broken"):
            errors = await refused(socket, {"query": SCOPES, "extensions": named(other)})
            assert errors["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        errors = await refused(socket, {"extensions": {"persistedQuery": {"version": 2}}})
        assert errors["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert await answered(socket, {"query": SCOPES, "extensions": named(SCOPES)}) == expected
        for more in ({}, {"query": ""}, {"query": None}):
            assert await answered(socket, {"extensions": named(SCOPES), **more}) == expected
        # All transports share the hashes.
        async with client(small_world) as http:
            assert await ask(http, holder, {"extensions": named(SCOPES)}) == (200, expected)
        # A hash stands for nothing but a document.
        await socket.say(id="1", type="subscribe", payload={"query": 1, "extensions": named(SCOPES)})
        assert await socket.closed() == (4400, "The payload of subscribe needs a query that is a string")


async def test_a_subscription_may_be_named(served: Serving, holder: TestAccount, owner: Actor) -> None:
    async with served.connect(holder.key) as socket:
        await socket.subscribe(EVENTS, "1", extensions=named(EVENTS))
        await served.subscriptions(1)
        await socket.subscribe("", "2", extensions=named(EVENTS))
        await served.subscriptions(2)
        await served.hub.customer(owner)
        first, second = await socket.hear(), await socket.hear()
        assert {first["id"], second["id"]} == {"1", "2"}
        assert first["payload"] == second["payload"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[]", FORM),
        (b'{"a": 1}', FORM),
        (
            b'{"abc": "{ __typename }"}',
            f"{FORM}; what stands at 'abc' has the hash {hash_of('{ __typename }')}",
        ),
    ],
)
def test_a_wrong_list_is_told_in_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "operations.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_operations(path)
    assert str(caught.value) == sentence


def test_a_list_that_is_not_json_is_told_where(tmp_path: Path) -> None:
    path = tmp_path / "operations.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"operations\.json is not JSON: .* line 1 column 2"):
        read_operations(path)


def test_a_process_starts_only_with_documents_that_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "operations.json"
    settings = Settings(operations_file=path, secret_key=SECRET, data_dir=tmp_path)
    both = f"{CALLED} query Other {SCOPES}"
    path.write_text(json.dumps({hash_of(one): one for one in (SCOPES, both)}))
    process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
    assert process.engine.prepare(both, "Other", authenticated=True).operation_name == "Other"
    wrong = "{ viewer { nothing } }"
    path.write_text(json.dumps({hash_of(one): one for one in (SCOPES, wrong)}))
    with pytest.raises(CommandError) as caught:
        Process(settings, public_url="http://127.0.0.1:8000", with_worker=False)
    assert str(caught.value) == (
        f"VOLTWIRE_OPERATIONS_FILE: the document {hash_of(wrong)} is refused: "
        "Cannot query field 'nothing' on type 'Viewer'."
    )
