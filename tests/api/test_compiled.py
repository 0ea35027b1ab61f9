"""The compiled reads answer what the ordinary way answers, in every letter."""

import gc
import random
from typing import Any

import orjson
import pytest

from app.api.context import Context
from app.api.engine import Engine
from app.api.failures import RequestErrors
from app.api.limits import Limits
from app.auth.actor import Actor
from tests.accounts.state import reads
from tests.api.compiled_scene import Scene, random_account
from tests.api.documents import Document, Documents
from tests.support import World, the_schema

WIDE = Limits(tokens=100_000, depth=100, aliases=10_000, cost=10**9)
DOCUMENTS = 120

METERS = "id number type status validityState { missingConsent } customer { name } hostedConsent { status }"
EVENTS = """id cursor sequence data
    ... on MeterCreatedEvent { meter { number customer { email } } customer { id } }
    ... on MeterDataReceivedEvent { from meter { id hostedConsent { valid } } customer { name } }
    ... on HostedConsentApprovedEvent { hostedConsent { link customer { id } } }
    ... on UserCreatedEvent { user { role } }"""


@pytest.fixture
async def scene(world: World) -> Scene:
    return await random_account(world, random.Random(1))


async def answer(world: World, engine: Engine, document: Document, viewer: Actor) -> str:
    context = Context(world.services, viewer)
    try:
        prepared = engine.prepare(document.text, None, authenticated=True)
        response = await engine.execute(prepared, document.variables, context)
    except RequestErrors as error:
        response = {"errors": error.errors}
    # Errors are in the order in which fields happened to fail.
    if "errors" in response:
        response["errors"].sort(key=lambda error: orjson.dumps(error))
    return orjson.dumps(response, option=orjson.OPT_INDENT_2).decode()


# Where a field fails, graphql-core drops the coroutines of the fields beside it without awaiting them.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*was never awaited:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <coroutine:pytest.PytestUnraisableExceptionWarning")
async def test_random_documents_have_the_same_answer_as_the_ordinary_way(world: World) -> None:
    chance = random.Random(7)
    scene = await random_account(world, chance)
    compiled, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    documents = Documents(ordinary.schema, scene.known, chance)
    for _ in range(DOCUMENTS):
        document = documents.one()
        viewer = scene.viewers[chance.choice(["admin", "read", "bound", "bound", "consent"])]
        expected = await answer(world, ordinary, document, viewer)
        assert await answer(world, compiled, document, viewer) == expected, document
        # Once more, with everything at hand from the first time.
        assert await answer(world, compiled, document, viewer) == expected, document
    # What was dropped is collected here, not in another test.
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
        # Where the log begins and ends is read with it.
        (f"{{ events(first: 100) {{ nodes {{ {EVENTS} }} }} }}", 2),
        ("{ users { nodes { name role } } }", 1),
    ],
)
async def test_lists_are_two_statements_at_most(world: World, scene: Scene, query: str, count: int) -> None:
    engine = Engine(the_schema(), WIDE)
    with reads(world.database) as statements:
        found = await answer(world, engine, Document(query, {}), scene.viewers["admin"])
    assert "errors" not in orjson.loads(found)
    assert len(statements) == count


async def test_a_repeated_document_builds_nothing_anew(world: World, scene: Scene) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    query = "query ($n: Int, $all: Boolean!) { meters(first: $n) { nodes { id number @include(if: $all) } } }"
    prepared = engine.prepare(query, None, authenticated=True)

    async def kept(**variables: Any) -> tuple[int, int]:
        await engine.execute(prepared, variables, Context(world.services, viewer))
        plans = prepared.plans
        assert plans is not None
        return len(plans.kept), sum(len(plan.statements) for plan in plans.kept)

    assert await kept(n=1, all=True) == (1, 1)
    # The page's size is a parameter; what is included is another plan.
    assert await kept(n=2, all=True) == (1, 1)
    assert await kept(n=2, all=False) == (2, 2)
    assert await kept(n=1, all=True) == (2, 2)


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_field_that_fails_takes_nothing_from_the_others(
    world: World, scene: Scene, compiled: bool
) -> None:
    """Its siblings are cancelled while others of the answer wait for the same rows."""
    nested = (
        "nodes { hostedConsent { a: meters(first: 0) { nodes { id } } customer { id } } customer { name } }"
    )
    document = Document(f"{{ meters {{ {nested} }} users {{ nodes {{ id }} }} }}", {})
    engine = Engine(the_schema(), WIDE, compiled=compiled)
    response = orjson.loads(await answer(world, engine, document, scene.viewers["admin"]))
    assert {one["extensions"]["code"] for one in response["errors"]} == {"BAD_USER_INPUT"}
    assert len(response["data"]["users"]["nodes"]) == 4
    assert all(one["customer"] for one in response["data"]["meters"]["nodes"])
