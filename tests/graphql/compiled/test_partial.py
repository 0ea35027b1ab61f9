"""Fields with resolvers of their own inside compiled reads are executed alone, with the same response."""

import gc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from app.graphql.compiled.plan import Plan
from app.graphql.context import Context
from app.graphql.engine import Engine
from tests.accounts.state import reads
from tests.graphql.compiled.documents import DROPPED, Document
from tests.graphql.compiled.scene import Scene
from tests.graphql.compiled.test_compiled import WIDE, answer
from tests.support import World, the_schema

pytestmark = [pytest.mark.both_databases, pytest.mark.usefixtures("within_half_hour"), *DROPPED]

DAY = 'intervalData(lookback: "1d")'
BAD = 'intervalData(lookback: "2x") { total }'
WORSE = 'intervalData(lookback: "1d", from: "2020-01-01T00:00:00Z") { total }'
READINGS = f"{DAY} {{ total intervals {{ startAt consumption }} meter {{ number customer {{ name }} }} }}"


@pytest.fixture
def world(furnished_world: World) -> Iterator[World]:
    yield furnished_world
    # Dropped coroutines are collected here, not in another test.
    gc.collect()


async def response(world: World, scene: Scene, query: str, *, compiled: bool = True, **variables: Any) -> Any:
    """The response with its errors in their order, and the number of compiled root fields."""
    engine = Engine(the_schema(), WIDE, compiled=compiled)
    prepared = engine.prepare(query, None, authenticated=True)
    context = Context(world.services, scene.viewers["admin"])
    found = orjson.dumps(await engine.execute(prepared, variables, context)).decode()
    plans = [] if prepared.plan_cache is None else list(prepared.plan_cache.lru)
    return found, sum(isinstance(one, Plan) for one in plans)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (f"{{ meters(first: 5) {{ nodes {{ id customer {{ name }} {DAY} {{ total }} }} }} }}", 2),
        # Both lists of one kind are read at once.
        (f"{{ meters {{ edges {{ node {{ {DAY} {{ total }} }} }} nodes {{ {DAY} {{ total }} }} }} }}", 2),
        (f"{{ customers {{ nodes {{ name meters {{ nodes {{ number {DAY} {{ total }} }} }} }} }} }}", 3),
        # Selections below such a field are executed field by field: the customers take another statement.
        (f"{{ meters {{ nodes {{ {DAY} {{ total meter {{ number customer {{ name }} }} }} }} }} }}", 3),
        (
            f"{{ events {{ nodes {{ id ... on MeterCreatedEvent {{ meter {{ {DAY} {{ total }} }} }} }} }} }}",
            2,
        ),
        ("{ webhookEndpoints { nodes { url stats { succeeded } deliveries { nodes { id } } } } }", 3),
        ("{ deliveries { nodes { endpoint { url stats { succeeded lastSuccessAt } } } } }", 2),
    ],
)
async def test_only_what_has_a_resolver_reads_for_itself(
    world: World, scene: Scene, query: str, count: int
) -> None:
    engine = Engine(the_schema(), WIDE)
    with reads(world.database) as statements:
        found = await answer(world, engine, Document(query, {}), scene.viewers["admin"])
    assert "errors" not in orjson.loads(found)
    assert len(statements) == count


@pytest.mark.parametrize(
    "nested",
    [
        f"nodes {{ z: number ...Own id @skip(if: false) {DAY} {{ to }} a: __typename }}",
        "edges { cursor node { a: intervalData { total } number b: intervalData { from } } } pageInfo { endCursor }",
        f"nodes {{ id skipped: {DAY} @skip(if: $yes) {{ total }} shown: {DAY} @include(if: $yes) {{ to }} }}",
        "nodes { id intervalData(lookback: $period, granularity: $by) { granularity total } }",
        f"nodes {{ hostedConsent {{ status meters(first: 2) {{ nodes {{ number ...Own }} }} }} {READINGS} }}",
    ],
)
async def test_its_value_is_in_its_place(world: World, scene: Scene, nested: str) -> None:
    query = f"""query ($id: ID!, $yes: Boolean = true, $period: String = "1w", $by: Granularity! = DAY) {{
        meters {{ {nested} }}
        node(id: $id) @include(if: $yes) {{
            ... on Meter {{ id intervalData(lookback: $period, granularity: $by) {{ total }} ...Own }}
        }}
    }} fragment Own on Meter {{ own: {READINGS} }}"""
    identifier = scene.known.ids["Meter"][0]
    expected, _ = await response(world, scene, query, compiled=False, id=identifier)
    found, plans = await response(world, scene, query, id=identifier)
    assert found == expected
    assert "errors" not in orjson.loads(found)
    assert plans == 2


@pytest.mark.parametrize(
    ("query", "nulled", "paths"),
    [
        # No field above is nullable: all data is null.
        (f"{{ meters {{ nodes {{ id {BAD} }} }} }}", [], [["meters", "nodes", 0, "intervalData"]]),
        (
            f"{{ meters {{ edges {{ node {{ a: {WORSE} }} }} }} }}",
            [],
            [["meters", "edges", 0, "node", "a"]],
        ),
        # The nearest nullable field is null; its siblings stay.
        (
            f'{{ meter(id: "ID") {{ number {BAD} }} users {{ nodes {{ id }} }} }}',
            ["meter"],
            [["meter", "intervalData"]],
        ),
        (f'{{ node(id: "ID") {{ id ... on Meter {{ own: {BAD} }} }} }}', ["node"], [["node", "own"]]),
        # The first of two errors is reported, not one below a relation beside it.
        (
            f'{{ meter(id: "ID") {{ customer {{ meters(first: 1) {{ nodes {{ {BAD} }} }} }} {WORSE} }} }}',
            ["meter"],
            [["meter", "intervalData"]],
        ),
        (f'{{ meter(id: "ID") {{ a: {BAD} b: {WORSE} }} }}', ["meter"], [["meter", "a"]]),
    ],
)
async def test_its_errors_are_where_they_are_the_ordinary_way(
    world: World, scene: Scene, query: str, nulled: list[str], paths: list[list[Any]]
) -> None:
    query = query.replace("ID", scene.known.ids["Meter"][0])
    expected, _ = await response(world, scene, query, compiled=False)
    found, plans = await response(world, scene, query)
    assert found == expected
    assert plans > 0
    told = orjson.loads(found)
    assert [one["path"] for one in told["errors"]] == paths
    if nulled:
        assert [name for name, value in told["data"].items() if value is None] == nulled
    else:
        assert told["data"] is None


async def test_of_many_rows_it_takes_only_the_relation_that_may_be_null(world: World, scene: Scene) -> None:
    query = (
        f"{{ events(first: 100) {{ nodes {{ id ... on MeterCreatedEvent {{ meter {{ id {BAD} }} }} }} }} }}"
    )
    expected, _ = await response(world, scene, query, compiled=False)
    found, plans = await response(world, scene, query)
    assert found == expected
    assert plans == 1
    told = orjson.loads(found)
    at = [index for index, one in enumerate(told["data"]["events"]["nodes"]) if "meter" in one]
    failed = [one["path"][2] for one in told["errors"]]
    assert failed
    assert set(failed) < set(at)  # What was deleted since is null without an error.
    assert all(told["data"]["events"]["nodes"][index]["meter"] is None for index in at)


async def test_a_variable_that_is_wrong_is_told_as_ever(world: World, scene: Scene) -> None:
    query = "query ($by: Granularity = DAY) { meters { nodes { id intervalData(granularity: $by) { to } } } }"
    expected, _ = await response(world, scene, query, compiled=False, by=None)
    found, plans = await response(world, scene, query, by=None)
    assert found == expected
    assert plans == 1
    assert orjson.loads(found)["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_its_arguments_build_nothing_anew(world: World, scene: Scene) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = "query ($p: String) { meters { nodes { id intervalData(lookback: $p) { total } } } }"
    prepared = engine.prepare(query, None, authenticated=True)
    assert prepared.plan_cache is not None
    for period in ("1d", "1w", "3m"):
        found = await engine.execute(prepared, {"p": period}, Context(world.services, viewer))
        assert "errors" not in found
    assert sum(isinstance(one, Plan) for one in prepared.plan_cache.lru) == 1


async def test_all_of_a_document_sees_one_state(world: World, scene: Scene) -> None:
    """The field's session is opened before the list is read, and is the only one."""
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    prepared = engine.prepare(f"{{ meters {{ nodes {{ {DAY} {{ total }} }} }} }}", None, authenticated=True)
    sessions: list[int] = []
    pool: Any = world.database._readers.pool
    before = world.database.reads.on_statement
    world.database.reads.on_statement = lambda _: sessions.append(pool.checkedout())
    try:
        found = await engine.execute(prepared, None, Context(world.services, viewer))
    finally:
        world.database.reads.on_statement = before
    assert found["data"]["meters"]["nodes"]
    assert 0 not in sessions
