"""Compiled reads have the same responses as execution field by field, byte by byte."""

import gc
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from sqlalchemy import Select

from app.core.ids import new_id
from app.db.raw_statements import RebuiltStatement
from app.graphql.bounds.limits import Limits
from app.graphql.compiled.plan import Plan
from app.graphql.context import Context
from app.graphql.engine import Engine
from app.graphql.pagination import id_cursor
from app.graphql.prepared_operation import PreparedOperation
from tests.accounts.state import reads
from tests.graphql.compiled.answers import answer, is_another_fault
from tests.graphql.compiled.documents import Document, Documents, dropping
from tests.graphql.compiled.scene import Scene
from tests.support import World, the_schema

pytestmark = [pytest.mark.both_databases, pytest.mark.usefixtures("within_half_hour")]

WIDE = Limits(tokens=100_000, depth=100, aliases=10_000, cost=10**9, comparisons=500_000)
DOCUMENTS = 120
"""For each turn, with `--all`."""
SOME_DOCUMENTS = 50

METERS = "id number type status validityState { missingConsent } customer { name } hostedConsent { status }"
EVENTS = """id cursor sequence data
    ... on MeterCreatedEvent { meter { number customer { email } } customer { id } }
    ... on MeterDataReceivedEvent { from meter { id hostedConsent { valid } } customer { name } }
    ... on HostedConsentApprovedEvent { hostedConsent { link customer { id } } }
    ... on UserCreatedEvent { user { role } }"""
DELIVERIES = f"""id status createdAt nextAttemptAt endpoint {{ url headers }} emailSubscription {{ email }}
    attempts {{ number outcome error requestHeaders }} event {{ {EVENTS} }}"""
NODES = """__typename id
    ... on Delivery { attempts { number } event { name cursor ... on MeterCreatedEvent { meter { number } } } }
    ... on Event { cursor sequence data ... on MeterCreatedEvent { meter { number } } }
    ... on Meter { number customer { name } hostedConsent { valid } }
    ... on Customer { meters { nodes { number } } }
    ... on HostedConsentEvidence { url of: hostedConsent { id } }"""
# Each kind of node, with the number of its statements.
KINDS = {
    "Delivery": 2,
    "Event": 1,
    "Meter": 1,
    "Customer": 2,
    "HostedConsent": 1,
    "Evidence": 1,
    "User": 1,
    "Account": 1,
    "ApiKey": 1,
    "WebhookEndpoint": 1,
    "EmailSubscription": 1,
}


@pytest.fixture
def world(furnished_world: World) -> World:
    return furnished_world


@dropping
@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(20))
async def test_random_documents_have_the_same_answer_as_the_ordinary_way(
    world: World, scene: Scene, turn: int, seed: str, thorough: bool
) -> None:
    chance = random.Random(seed)
    compiled, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    documents = Documents(ordinary.schema, scene.known, chance)
    for _ in range(DOCUMENTS if thorough else SOME_DOCUMENTS):
        document = documents.one()
        viewer = scene.viewers[chance.choice(["admin", "read", "bound", "bound", "consent"])]
        expected = await answer(world, ordinary, document, viewer)
        # The second time, everything is cached.
        for _ in range(2):
            given = await answer(world, compiled, document, viewer)
            if given != expected and not await is_another_fault(
                world, ordinary, document, viewer, given, expected
            ):
                assert given == expected, document
    # Dropped coroutines are collected here, not in another test.
    gc.collect()


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("{ meters(first: 100) { nodes { id number type customer { id name email } } } }", 1),
        (f"{{ meters(last: 3) {{ edges {{ cursor node {{ {METERS} }} }} pageInfo {{ endCursor }} }} }}", 1),
        (f"{{ meters(filter: {{statuses: [ACTIVE]}}) {{ nodes {{ {METERS} }} }} }}", 1),
        (
            f"{{ customers(first: 20) {{ nodes {{ name meters(first: 10) {{ nodes {{ {METERS} }} }} }} }} }}",
            2,
        ),
        ("{ hostedConsents { nodes { status customer { name } meters { nodes { number } } } } }", 2),
        ("{ deliveries(first: 100) { nodes { status nextAttemptAt endpoint { url } } } }", 1),
        (f"{{ deliveries {{ edges {{ node {{ {DELIVERIES} }} }} pageInfo {{ endCursor }} }} }}", 2),
        (f"{{ deliveries(last: 3, filter: {{statuses: [FAILED]}}) {{ nodes {{ {DELIVERIES} }} }} }}", 2),
        ("{ webhookEndpoints { nodes { url filter { metadata } deliveries { nodes { status } } } } }", 2),
        ("{ emailSubscriptions { nodes { email digest filter { meterIds } } } }", 1),
        (f"{{ events(first: 100) {{ nodes {{ {EVENTS} }} }} }}", 1),
        (f"{{ events(last: 3) {{ edges {{ cursor node {{ {EVENTS} }} }} pageInfo {{ startCursor }} }} }}", 1),
        ("{ users { nodes { name role } } }", 1),
    ],
)
async def test_lists_are_two_statements_at_most(world: World, scene: Scene, query: str, count: int) -> None:
    engine = Engine(the_schema(), WIDE)
    with reads(world.database) as statements:
        found = await answer(world, engine, Document(query, {}), scene.viewers["admin"])
    assert "errors" not in orjson.loads(found)
    assert len(statements) == count


async def test_a_page_of_the_log_after_a_cursor_is_two_statements(world: World, scene: Scene) -> None:
    """The ends of the log are read first: the cursor's validity depends on them."""
    engine, cursor = Engine(the_schema(), WIDE), scene.known.cursors["Event"][3]
    query = (
        f"query ($at: String) {{ events(first: 2, after: $at) {{ edges {{ cursor node {{ {EVENTS} }} }} }} }}"
    )
    with reads(world.database) as statements:
        found = await answer(world, engine, Document(query, {"at": cursor}), scene.viewers["admin"])
    edges = orjson.loads(found)["data"]["events"]["edges"]
    assert [one["node"]["sequence"] for one in edges] == [4, 5]
    assert [one["cursor"] for one in edges] == scene.known.cursors["Event"][4:6]
    assert len(statements) == 2


def counted(prepared: PreparedOperation) -> tuple[int, int]:
    """The numbers of cached plans and statements."""
    assert prepared.plan_cache is not None
    kept = list(prepared.plan_cache.lru)
    return tuple(sum(isinstance(one, kind) for one in kept) for kind in (Plan, RebuiltStatement))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("roots", "are_kept"),
    [
        ("a: meters(first: 2) { nodes { id customer { name } } }", False),
        ("a: meters { nodes { id } } b: users { nodes { id } }", True),
    ],
    ids=["one root field", "two"],
)
async def test_documents_are_cached_without_the_objects_of_their_sql(
    world: World, scene: Scene, roots: str, are_kept: bool
) -> None:
    """SQLAlchemy executes several root fields on PostgreSQL, and there alone needs the objects again."""
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    before: int | None = None
    for number in range(12):
        prepared = engine.prepare(f"query Q{number} {{ {roots} }}", None, authenticated=True)
        await engine.execute(prepared, {}, Context(world.services, viewer))
        gc.collect()
        if number == 1:
            before = selects()
    assert before is not None
    assert (selects() > before) == (are_kept and not world.database.is_sqlite)


def selects() -> int:
    return sum(isinstance(one, Select) for one in gc.get_objects())


async def test_a_repeated_document_builds_nothing_anew(world: World, scene: Scene) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = "query ($n: Int, $all: Boolean!) { meters(first: $n) { nodes { id number @include(if: $all) } } }"
    prepared = engine.prepare(query, None, authenticated=True)

    async def kept(**variables: Any) -> tuple[int, int]:
        await engine.execute(prepared, variables, Context(world.services, viewer))
        return counted(prepared)

    assert await kept(n=1, all=True) == (1, 1)
    # The page's size is a parameter; a directive makes another plan.
    assert await kept(n=2, all=True) == (1, 1)
    assert await kept(n=2, all=False) == (2, 2)
    assert await kept(n=1, all=True) == (2, 2)


@pytest.mark.parametrize(
    ("selection", "statements"),
    [
        ("{ meters(first: 2, after: $c) { nodes { id } } }", 1),
        ("{ ...P } fragment P on Query { meters(after: $c) { nodes { id } } }", 1),
        ("{ ... { a: meters(before: $c) { nodes { id } } } }", 1),
        ("{ customers { nodes { meters(after: $c) { nodes { id } } } } }", 2),
        ("{ meters { nodes { hostedConsent { meters(last: 2, before: $c) { nodes { number } } } } } }", 2),
        ("{ customers { nodes { hostedConsents { nodes { meters(after: $c) { nodes { id } } } } } } }", 3),
    ],
)
async def test_a_hundred_cursors_share_what_the_first_one_built(
    world: World, scene: Scene, selection: str, statements: int
) -> None:
    engine, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    query = f"query ($c: String) {selection}"
    prepared, viewer = engine.prepare(query, None, authenticated=True), scene.viewers["admin"]
    cursors = [*scene.known.cursors["Meter"], *(id_cursor(new_id("mtr")) for _ in range(100))]
    for cursor in cursors:
        document = Document(query, {"c": cursor})
        found = await answer(world, engine, document, viewer)
        if cursor in scene.known.cursors["Meter"][:5]:
            assert found == await answer(world, ordinary, document, viewer)
        assert "errors" not in orjson.loads(found)
    assert counted(prepared) == (1, statements)


async def test_a_page_that_cannot_be_is_refused_whatever_came_before(world: World, scene: Scene) -> None:
    """Later pages are compiled all the same."""
    engine, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    query = "query ($n: Int, $c: String) { customers { nodes { meters(first: $n, after: $c) { nodes { id } } } } }"
    own, others = scene.known.cursors["Meter"][0], scene.known.cursors["Customer"][0]
    for variables in (
        {"n": 0},
        {"n": 1},
        {"n": 1, "c": own},
        {"n": 101, "c": own},
        {"n": 2, "c": others},
        {"n": 2, "c": None},
        {"c": "nonsense"},
        {},
    ):
        document = Document(query, variables)
        expected = await answer(world, ordinary, document, scene.viewers["admin"])
        with reads(world.database) as statements:
            assert await answer(world, engine, document, scene.viewers["admin"]) == expected
        if "errors" not in orjson.loads(expected):
            assert len(statements) == 2
    # Nested pages with a cursor have another statement than those without.
    assert counted(engine.prepare(query, None, authenticated=True)) == (1, 3)


async def test_a_repeated_filter_builds_nothing_anew(world: World, scene: Scene) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = "query ($f: MeterFilter) { meters(filter: $f) { nodes { id status } } }"
    prepared = engine.prepare(query, None, authenticated=True)
    found = []
    for filter, statements in (
        ({"statuses": ["ACTIVE"]}, 1),
        ({"statuses": ["INACTIVE"]}, 2),
        ({"statuses": ["ACTIVE"]}, 2),
        # A statement for so many values is not cached.
        ({"statuses": ["ACTIVE"], "customerIds": ["cus_1"] * 200}, 2),
        ({"statuses": ["ACTIVE"]}, 2),
    ):
        response = await engine.execute(prepared, {"f": filter}, Context(world.services, viewer))
        found.append({one["status"] for one in response["data"]["meters"]["nodes"]})
        assert counted(prepared) == (1, statements)
    assert found == [{"ACTIVE"}, {"INACTIVE"}, {"ACTIVE"}, set(), {"ACTIVE"}]


@pytest.mark.parametrize(
    ("field", "kind", "value"),
    [
        ("meters", "Meter", lambda n: {"numbers": [f"{n:010d}"] * (n % 4 + 1)}),
        ("meters", "Meter", lambda n: {"customerIds": [f"cus_{n}"], "statuses": ["ACTIVE"]}),
        ("meters", "Meter", lambda n: {"metadata": {f"site {n}": f"a {n}", "b": f"{n}"}, "numbers": []}),
        ("customers", "Customer", lambda n: {"emails": [f"c{n}@example.com"], "metadata": {"site": f"{n}"}}),
        ("hostedConsents", "HostedConsent", lambda n: {"customerIds": [f"cus_{n}"], "valid": True}),
        ("events", "Event", lambda n: {"meterIds": [f"mtr_{n}"], "customerIds": [f"c{n}"], "types": []}),
        ("deliveries", "Delivery", lambda n: {"webhookEndpointId": f"whe_{n}", "eventId": f"evt_{n}"}),
        ("deliveries", "Delivery", lambda n: {"createdFrom": f"20{n:02d}-01-01T00:00:00Z", "statuses": []}),
    ],
)
async def test_a_hundred_values_of_a_filter_share_one_statement(
    world: World, scene: Scene, field: str, kind: str, value: Callable[[int], Any]
) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = f"query ($f: {kind}Filter) {{ {field}(filter: $f) {{ nodes {{ id }} }} }}"
    prepared = engine.prepare(query, None, authenticated=True)
    for number in range(100):
        response = await engine.execute(prepared, {"f": value(number)}, Context(world.services, viewer))
        assert "errors" not in response
    assert counted(prepared) == (1, 1)


async def test_filters_of_one_form_take_what_each_asks_for(world: World, scene: Scene) -> None:
    """Lists have several lengths, repeated values and none."""
    engine, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    ids, numbers = scene.known.ids, scene.known.numbers
    chosen: list[tuple[str, str, list[Any]]] = [
        ("meters", "Meter", [{"numbers": numbers[:n]} for n in (1, 0, 2, 3, 5, 70)]),
        ("meters", "Meter", [{"metadata": one} for one in ({"site": "b"}, {"site": "a"}, {'x"y': "1"}, {})]),
        ("meters", "Meter", [{"customerIds": ids["Customer"][n : n + 2]} for n in range(3)]),
        ("customers", "Customer", [{"emails": [f"C{n}@Example.com", "c1@example.com"]} for n in range(3)]),
        ("customers", "Customer", [{"metadata": {"site": one}} for one in "ab"]),
        ("hostedConsents", "HostedConsent", [{"customerIds": [one]} for one in ids["Customer"]]),
        ("events", "Event", [{"meterIds": [one] * 3} for one in ids["Meter"][:4]]),
        ("events", "Event", [{"types": [one]} for one in ("METER_CREATED", "CUSTOMER_CREATED")]),
        ("deliveries", "Delivery", [{"webhookEndpointId": one} for one in ids["WebhookEndpoint"]]),
        ("deliveries", "Delivery", [{"emailSubscriptionId": one} for one in ids["WebhookEndpoint"]]),
        ("deliveries", "Delivery", [{"createdTo": f"2{n}20-01-01T00:00:00.5Z"} for n in (0, 1)]),
    ]
    found = set()
    for field, kind, filters in chosen:
        query = f"query ($f: {kind}Filter) {{ {field}(first: 100, filter: $f) {{ nodes {{ id }} }} }}"
        for one in filters:
            document = Document(query, {"f": one})
            expected = await answer(world, ordinary, document, scene.viewers["admin"])
            assert await answer(world, engine, document, scene.viewers["admin"]) == expected, document
            found.add(expected)
    assert len(found) > 20


async def test_lists_of_many_values_are_refused(world: World, scene: Scene) -> None:
    for compiled in (True, False):
        engine = Engine(the_schema(), WIDE, compiled=compiled)
        query = "query ($f: MeterFilter) { meters(filter: $f) { nodes { id } } }"
        for name, value in (("customerIds", "cus_1"), ("statuses", "ACTIVE")):
            document = Document(query, {"f": {name: [value] * 1001}})
            response = orjson.loads(await answer(world, engine, document, scene.viewers["admin"]))
            assert response["errors"][0]["extensions"]["field"] == ["filter", name]


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_field_that_fails_takes_nothing_from_the_others(
    world: World, scene: Scene, compiled: bool
) -> None:
    """Its siblings are cancelled while other fields wait for the same rows."""
    nested = (
        "nodes { hostedConsent { a: meters(first: 0) { nodes { id } } customer { id } } customer { name } }"
    )
    document = Document(f"{{ meters {{ {nested} }} users {{ nodes {{ id }} }} }}", {})
    engine = Engine(the_schema(), WIDE, compiled=compiled)
    response = orjson.loads(await answer(world, engine, document, scene.viewers["admin"]))
    assert {one["extensions"]["code"] for one in response["errors"]} == {"BAD_USER_INPUT"}
    assert len(response["data"]["users"]["nodes"]) == 4
    assert all(one["customer"] for one in response["data"]["meters"]["nodes"])


async def test_a_node_of_each_kind_is_compiled(world: World, scene: Scene) -> None:
    engine, admin = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = f"query ($id: ID!) {{ node(id: $id) {{ {NODES} }} }}"
    for kind, count in KINDS.items():
        identifier = scene.known.ids[kind][0]
        with reads(world.database) as statements:
            found = await answer(world, engine, Document(query, {"id": identifier}), admin)
        assert orjson.loads(found)["data"]["node"]["id"] == identifier
        assert len(statements) == count, kind
    assert counted(engine.prepare(query, None, authenticated=True))[0] == len(KINDS)


async def test_fields_of_one_path_in_several_types_are_not_taken_for_each_other(
    world: World, scene: Scene
) -> None:
    intervals = 'meter { intervalData(granularity: DAY, lookback: "1w") { intervals { %s } } }'
    query = f"""{{ events(first: 100) {{ nodes {{ id
        ... on MeterCreatedEvent {{ {intervals % "startAt"} }}
        ... on MeterDataReceivedEvent {{ {intervals % "quality missingCount"} }} }} }} }}"""
    ways = [Engine(the_schema(), WIDE, compiled=compiled) for compiled in (True, False)]
    compiled, ordinary = [
        await answer(world, one, Document(query, {}), scene.viewers["admin"]) for one in ways
    ]
    assert "startAt" in compiled
    assert "missingCount" in compiled
    assert compiled == ordinary
