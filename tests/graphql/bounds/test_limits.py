"""Limits of one document: tokens, depth, aliases, cost."""

from typing import Any

import pytest
from graphql import get_introspection_query

from app.graphql.bounds.costs import MAX_COST
from tests.graphql.http.test_view import post
from tests.graphql.serving import serving
from tests.meters.asking import make_customer
from tests.support import World, world

NESTED = "{ customers(first: 1) { nodes { meters(first: 1) { nodes { customer { %s } } } } } }"

OF_METERS = "fragment F on Customer { meters { nodes { id } } }"


async def refused(given: World, query: str, key: str, **variables: Any) -> dict[str, Any]:
    """The extensions of the only error of a request that is too complex."""
    response = await given.ask(query, variables, key=key)
    assert "data" not in response
    [error] = response["errors"]
    extensions: dict[str, Any] = error["extensions"]
    assert extensions.pop("code") == "QUERY_TOO_COMPLEX"
    return extensions


@pytest.fixture
async def small(migrated_url: str) -> Any:
    async with world(migrated_url, max_tokens=80, max_depth=6, max_aliases=3, max_cost=100) as opened:
        yield opened


async def test_depth(small: World) -> None:
    account = await small.account()
    await small.data(NESTED % "name", key=account.key)
    assert await refused(small, NESTED % "meters(first: 1) { nodes { id } }", key=account.key) == {
        "depth": 8,
        "limit": 6,
    }
    # Fragments count where they are spread, in any order.
    spread = (
        "fragment B on Customer { meters(first: 1) { nodes { customer { id } } } } "
        "{ customers(first: 1) { nodes { ...A } } } "
        "fragment A on Customer { ... on Customer { meters(first: 1) { nodes { customer { ...B } } } } }"
    )
    assert await refused(small, spread, key=account.key) == {"depth": 9, "limit": 6}


async def test_aliases(small: World) -> None:
    account = await small.account()
    three = "a: __typename b: __typename "
    query = f"{{ {three} ...F }} fragment F on Query {{ c: __typename %s }}"
    assert len(await small.data(query % "", key=account.key)) == 3
    assert await refused(small, query % "d: __typename", key=account.key) == {"aliases": 4, "limit": 3}


async def test_tokens(small: World) -> None:
    account = await small.account()
    # Braces count as well.
    await small.data("{ " + "__typename " * 78 + "}", key=account.key)
    assert await refused(small, "{ " + "__typename " * 79 + "}", key=account.key) == {"limit": 80}


@pytest.mark.parametrize(
    ("query", "variables", "cost"),
    [
        ("{ customers(first: 100) { nodes { id } } }", {}, 100),
        ("{ customers(first: 50) { nodes { id } } events(last: 51) { nodes { id } } }", {}, 101),
        ("{ customers { nodes { id } edges { node { name } } } }", {}, 20),
        ("query ($n: Int) { customers(first: $n) { nodes { id } } }", {"n": 100}, 100),
        ("query ($n: Int = 99) { customers(first: $n) { nodes { id } } }", {}, 99),
        ("query ($n: Int) { customers(first: $n) { nodes { id } } }", {"n": None}, 20),
        ("{ customers(first: 10) { nodes { meters(first: 9) { nodes { id } } } } }", {}, 100),
        ("{ customers(first: 10) { nodes { meters(first: 10) { nodes { id } } } } }", {}, 110),
        ("{ a: customers(first: 60) { nodes { id } } b: customers(first: 60) { nodes { id } } }", {}, 120),
        ("{ apiKeys { name } eventTypes { name } }", {}, 110),
        ("{ node(id: 1) { ... on Customer { meters(first: 100) { nodes { id } } } } }", {}, 100),
        ('{ intervalData(meterId: "x") { total intervals { consumption } } }', {}, 20),
        # Selections below interval data count beside it.
        ('{ intervalData(meterId: "x") { meter { customer { meters(first: 51) { nodes { id } } } } } }', {}, 71),
        ("query ($no: Boolean!) { customers(first: 100) @skip(if: $no) { nodes { id } } }", {"no": True}, 0),
        ("query ($a: Boolean!) { customers { nodes { ...F @include(if: $a) } } } " + OF_METERS, {"a": True}, 420),
        ("query ($a: Boolean!) { customers { nodes { ...F @include(if: $a) } } } " + OF_METERS, {"a": False}, 20),
        ("{ customers { nodes { id ... @include(if: false) { meters { nodes { id } } } } } }", {}, 20),
        ("{ ...F ...F } fragment F on Query { customers(first: 100) { nodes { id } } }", {}, 100),
        # Wrong values are refused later, each with its own error.
        ("{ customers(first: 0) { nodes { id } } events(last: 2147483647) { nodes { id } } }", {}, 100),
    ],
)  # fmt: skip
async def test_cost(small: World, query: str, variables: dict[str, Any], cost: int) -> None:
    account = await small.account()
    if cost > 100:
        assert await refused(small, query, key=account.key, **variables) == {"cost": cost, "limit": 100}
    else:
        response = await small.ask(query, variables, key=account.key)
        codes = {one["extensions"]["code"] for one in response.get("errors", [])}
        assert codes <= {"BAD_USER_INPUT"}


async def test_a_costly_mutation_changes_nothing(small: World) -> None:
    account = await small.account()
    query = (
        'mutation { createCustomer(input: {name: "A", email: "a@example.com"}) { customer { '
        "meters(first: 100) { nodes { id } } hostedConsents(first: 1) { nodes { id } } } } }"
    )
    assert await refused(small, query, account.key) == {"cost": 101, "limit": 100}
    assert (await small.data("{ customers { nodes { id } } }", key=account.key))["customers"]["nodes"] == []


async def test_the_standard_introspection_passes(world: World) -> None:
    query = get_introspection_query(specified_by_url=True, input_value_deprecation=True)
    data = await world.data(query)
    assert data["__schema"]["queryType"] == {"name": "Query", "kind": "OBJECT"}


async def test_a_page_of_a_hundred_meters_with_their_customers_passes(world: World) -> None:
    account = await world.account()
    await make_customer(world, account)
    query = "{ meters(first: 100) { nodes { id number status customer { id name } hostedConsent { id } } } }"
    assert await world.data(query, key=account.key) == {"meters": {"nodes": []}}


@pytest.mark.parametrize(
    ("selection", "parent", "leaf"),
    [("{ ...F0 }", "Query", "__typename"), ("{ customers { nodes { ...F0 } } }", "Customer", "id")],
)
async def test_fragments_that_double_180_times_come_to_an_end(
    world: World, selection: str, parent: str, leaf: str
) -> None:
    account = await world.account()
    fragments = [f"fragment F{at} on {parent} {{ ...F{at + 1} ...F{at + 1} }}" for at in range(180)]
    query = " ".join([selection, *fragments, f"fragment F180 on {parent} {{ {leaf} }}"])
    response = await world.ask(query, key=account.key)
    codes = {one["extensions"]["code"] for one in response.get("errors", [])}
    assert codes <= {"QUERY_TOO_COMPLEX"}


def pages_in_pages(deep: int) -> str:
    """Each level has a hundred times as many rows as the one above."""
    below = "id"
    for _ in range(deep):
        below = f"customer {{ meters(first: 100) {{ nodes {{ {below} }} }} }}"
    return f'{{ meter(id: "mtr_1") {{ {below} }} }}'


async def test_a_cost_beyond_all_numbers_is_too_complex_over_http_and_sockets(migrated_url: str) -> None:
    query = pages_in_pages(12)
    async with world(migrated_url, max_depth=40) as opened:
        key = (await opened.account()).key
        response = await post(opened, {"query": query}, key)
        assert response.status_code == 400
        [error] = response.json()["errors"]
        assert error["extensions"] == {"code": "QUERY_TOO_COMPLEX", "cost": MAX_COST, "limit": 5000}
        async with serving(opened) as served, served.connect(key) as socket:
            await socket.subscribe(query)
            assert await socket.hear() == {"id": "1", "type": "error", "payload": [error]}


@pytest.mark.parametrize(
    "query",
    [
        "{ " + "customers { nodes " * 900 + "}",
        "{ customer(id: " + "[" * 900 + "]" * 900 + ") { id } }",
        "{ " + "__typename " * 1990 + "}",
        "{ customers { nodes { " + "id name " * 990 + "} } }",
    ],
)
async def test_what_would_take_too_long_to_check_is_too_complex(world: World, query: str) -> None:
    account = await world.account()
    await refused(world, query, account.key)


async def test_a_cycle_of_fragments_is_refused(world: World) -> None:
    account = await world.account()
    query = "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"
    response = await world.ask(query, key=account.key)
    assert {one["extensions"]["code"] for one in response["errors"]} == {"BAD_USER_INPUT"}
