"""What an engine keeps of documents between requests: how much, and whose."""

import gc
import random
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Select

from app.api import engine as engines
from app.api.compiled import reads
from app.api.compiled.selection import Plan
from app.api.context import Context
from app.api.engine import Engine, Prepared
from app.api.kept import Kept
from app.auth.actor import Actor
from tests.api.compiled_scene import random_account
from tests.api.test_compiled import WIDE
from tests.support import World, the_schema

METER = "id number type description address metadata dataSource status createdAt updatedAt"
NESTED = f"customers {{ nodes {{ id meters {{ nodes {{ {METER} hostedConsent {{ id status }} }} }} }} }}"
DOCUMENTS = (
    "query Q%d { meters { nodes { id } } }",
    f"query Q%d {{ meters {{ nodes {{ {METER} customer {{ id name }} }} pageInfo {{ endCursor }} }} }}",
    f"query Q%d {{ {NESTED} }}",
    "query Q%d { meters(filter: {statuses: [ACTIVE]}) { nodes { id } } }",
    f"query Q%d {{ meters {{ nodes {{ {' '.join([METER] * 100)} }} }} }}",
)
LONG = "#" + "x" * engines.CACHED_LENGTH


async def run(
    world: World, engine: Engine, prepared: Prepared, viewer: Actor, **variables: Any
) -> dict[str, Any]:
    return await engine.execute(prepared, variables, Context(world.services, viewer))


def plans_of(prepared: Prepared) -> Kept[Any, Any]:
    assert prepared.plans is not None
    return prepared.plans.kept


async def test_a_document_too_long_to_be_kept_leaves_nothing_behind(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    prepared = engine.prepare(f"{{ {NESTED} }} {LONG}", None, authenticated=True)
    for _ in range(2):
        assert "errors" not in await run(small_world, engine, prepared, owner)
        # As long as it is used, as a subscription is, what was compiled of it is not built anew.
        assert sum(isinstance(one, Plan) for one in plans_of(prepared)) == 1
    assert len(engine._kept) == len(engine._plans) == 0
    document = weakref.ref(prepared)
    del prepared
    gc.collect()
    assert document() is None


async def test_plans_do_not_keep_a_document_that_is_gone(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    prepared = engine.prepare(DOCUMENTS[0] % 0, None, authenticated=True)
    await run(small_world, engine, prepared, owner)
    document = weakref.ref(prepared)
    del prepared
    for number in range(engines.CACHED_DOCUMENTS):
        engine.prepare(f"{{ a{number}: __typename }}", None, authenticated=True)
    gc.collect()
    assert document() is None


async def test_long_values_are_not_kept(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    query = "query ($c: String) { customers { nodes { meters(after: $c) { nodes { id } } } } }"
    prepared = engine.prepare(query, None, authenticated=True)
    for cursor in ("x" * reads.LONGEST_VALUES, "x" * (reads.LONGEST_VALUES + 1), "x" * 100_000):
        assert await run(small_world, engine, prepared, owner, c=cursor) == {
            "data": {"customers": {"nodes": []}}
        }
    assert len(engine._plans) == 1
    assert engine._plans.weight < 10 * reads.LONGEST_VALUES


def test_documents_are_bounded_by_their_bytes() -> None:
    engine = Engine(the_schema(), WIDE)
    # Comments are not counted as tokens of a document, but lie in memory as these do.
    comments = "#\n" * (engines.CACHED_LENGTH // 2 - 20)
    for number in range(10):
        engine.prepare(f"{{ a{number}: __typename }} {comments}", None, authenticated=True)
    assert 0 < len(engine._kept) < 10
    assert engines.CACHED_BYTES * 0.7 < engine._kept.weight <= engines.CACHED_BYTES


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def used() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("query", DOCUMENTS)
async def test_what_things_weigh_is_about_what_they_take(small_world: World, query: str) -> None:
    viewer = (await random_account(small_world, random.Random(3))).viewers["admin"]
    engine = Engine(the_schema(), WIDE)
    # What is made once for all documents is not theirs.
    await run(small_world, engine, engine.prepare(query % 0, None, authenticated=True), viewer)
    documents, plans = engine._kept.weight, engine._plans.weight
    with traced():
        before = used()
        some = [engine.prepare(query % number, None, authenticated=True) for number in range(1, 5)]
        prepared = used()
        for one in some:
            await run(small_world, engine, one, viewer)
        executed = used()
    assert any(isinstance(one, Select) for one in engine._plans)
    for taken, weighed in (
        (prepared - before, engine._kept.weight - documents),
        (executed - prepared, engine._plans.weight - plans),
    ):
        assert taken * 0.7 < weighed < taken * 3
