"""The document cache is bounded, and apart for strangers."""

import gc
import random
import weakref
from typing import Any

import pytest
from sqlalchemy import Dialect, bindparam, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlmodel import col

from app.auth.actor import Actor
from app.core.lru import WeightedLru
from app.db.raw_statements import CompiledStatement, RebuiltStatement
from app.graphql import document_cache
from app.graphql.compiled.plan import Plan
from app.graphql.context import Context
from app.graphql.document_cache import DocumentCache
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.persisted import hash_of
from app.graphql.prepared_operation import PreparedOperation
from app.meters.models import Meter
from tests.graphql.compiled.scene import random_account
from tests.graphql.compiled.test_compiled import WIDE
from tests.memory import traced, used
from tests.support import World, the_schema

METER = "id number type description address metadata dataSource status createdAt updatedAt"
NESTED = f"customers {{ nodes {{ id meters {{ nodes {{ {METER} hostedConsent {{ id status }} }} }} }} }}"
DOCUMENTS = (
    "query Q%d { meters { nodes { id } } }",
    f"query Q%d {{ meters {{ nodes {{ {METER} customer {{ id name }} }} pageInfo {{ endCursor }} }} }}",
    f"query Q%d {{ {NESTED} }}",
    "query Q%d { meters(filter: {statuses: [ACTIVE]}) { nodes { id } } }",
    f"query Q%d {{ meters {{ nodes {{ {' '.join([METER] * 30)} }} }} }}",
)
LONG = "#" + "x" * document_cache.LONGEST


async def run(
    world: World, engine: Engine, prepared: PreparedOperation, viewer: Actor, **variables: Any
) -> dict[str, Any]:
    return await engine.execute(prepared, variables, Context(world.services, viewer))


def plans_of(prepared: PreparedOperation) -> WeightedLru[Any, Any]:
    assert prepared.plan_cache is not None
    return prepared.plan_cache.lru


async def test_a_document_too_long_to_be_kept_leaves_nothing_behind(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    prepared = engine.prepare(f"{{ {NESTED} }} {LONG}", None, authenticated=True)
    for _ in range(2):
        assert "errors" not in await run(small_world, engine, prepared, owner)
        # While it is used, as by a subscription, its plans are cached with it.
        assert sum(isinstance(one, Plan) for one in plans_of(prepared)) == 1
    assert len(engine._cache.operations) == len(engine._cache.plans) == 0
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
    for number in range(document_cache.ACCOUNTS_BOUNDS.operations[0]):
        engine.prepare(f"{{ a{number}: __typename }}", None, authenticated=True)
    gc.collect()
    assert document() is None


async def test_long_values_are_not_kept(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    query = "query ($c: String) { customers { nodes { meters(after: $c) { nodes { id } } } } }"
    prepared = engine.prepare(query, None, authenticated=True)
    kept = []
    for cursor in ("x", "x" * 1_000, "x" * 100_000):
        assert await run(small_world, engine, prepared, owner, c=cursor) == {
            "data": {"customers": {"nodes": []}}
        }
        kept.append((len(engine._cache.plans), engine._cache.plans.weight))
    assert len(set(kept)) == 1


def test_documents_are_bounded_by_their_bytes() -> None:
    engine = Engine(the_schema(), WIDE)
    # Comments do not count as tokens of a document, but take memory as tokens do.
    comments = "#\n" * (document_cache.LONGEST // 2 - 20)
    for number in range(10):
        engine.prepare(f"{{ a{number}: __typename }} {comments}", None, authenticated=True)
    assert 0 < len(engine._cache.operations) < 10
    limit = document_cache.ACCOUNTS_BOUNDS.operations[1]
    assert limit * 0.7 < engine._cache.operations.weight <= limit


def kept(cache: DocumentCache) -> tuple[int, int, int]:
    """The numbers of operations, of plans with statements, and of hashes."""
    return len(cache.operations), len(cache.plans), len(cache.persisted._learned)


async def test_strangers_leave_the_memory_of_accounts_as_it_is(small_world: World, owner: Actor) -> None:
    engine = Engine(the_schema(), WIDE)
    known = [DOCUMENTS[0] % number for number in range(3)]
    for query in known:
        prepared = engine.prepare(query, None, authenticated=True, document_hash=hash_of(query))
        await run(small_world, engine, prepared, owner)
    before, order = kept(engine._cache), list(engine._cache.operations)
    assert before == (3, 6, 3)
    for query in (*known, "{ viewer { scopes } }", "subscription { events { id } }"):
        for named in (None, hash_of(query)):
            with pytest.raises(RequestErrors) as refused:
                engine.prepare(query, None, authenticated=False, document_hash=named)
            assert refused.value.status == 401
    assert kept(engine._stranger_cache) == (0, 0, 0)
    for number in range(150):
        query = f"{{ eventTypes {{ a{number}: name }} }}"
        prepared = engine.prepare(query, None, authenticated=False, document_hash=hash_of(query))
        context = Context(small_world.services, None)
        assert "errors" not in await engine.execute(prepared, None, context)
    assert kept(engine._stranger_cache) == (100, 0, 100)
    # Allowed documents of strangers are prepared once as well.
    assert engine.prepare(query, None, authenticated=False) is prepared
    assert kept(engine._cache) == before
    assert list(engine._cache.operations) == order
    with pytest.raises(RequestErrors):
        engine.prepare(None, None, authenticated=False, document_hash=hash_of(known[0]))
    assert engine.prepare(None, None, authenticated=True, document_hash=hash_of(known[0])) is order[0]


@pytest.mark.parametrize("dialect", [sqlite.dialect(paramstyle="qmark"), asyncpg.dialect()])
def test_a_statement_for_a_long_list_takes_little_more_than_its_text(dialect: Dialect) -> None:
    parents = bindparam("parents", expanding=True)
    statement = select(Meter.id).where(col(Meter.customer_id).in_(parents))
    given = {"parents": ["x"] * 4096}
    # The getters of list values are made with the first statement.
    first = CompiledStatement(statement, given, dialect, converts=True)
    with traced():
        before = used()
        second = CompiledStatement(statement, given, dialect, converts=True)
        taken = used() - before
    assert taken < 2 * len(second.text) + 100_000
    assert first.arguments(given) == second.arguments(given) == given["parents"]


@pytest.mark.parametrize("query", DOCUMENTS)
async def test_what_things_weigh_is_about_what_they_take(small_world: World, query: str) -> None:
    viewer = (await random_account(small_world, random.Random(3))).viewers["admin"]
    engine = Engine(the_schema(), WIDE)
    # Objects that all documents share do not count.
    await run(small_world, engine, engine.prepare(query % 0, None, authenticated=True), viewer)
    documents, plans = engine._cache.operations.weight, engine._cache.plans.weight
    with traced():
        before = used()
        some = [engine.prepare(query % number, None, authenticated=True) for number in range(1, 9)]
        prepared = used()
        for one in some:
            await run(small_world, engine, one, viewer)
        executed = used()
    assert any(isinstance(one, RebuiltStatement) for one in engine._cache.plans)
    for taken, weighed in (
        (prepared - before, engine._cache.operations.weight - documents),
        (executed - prepared, engine._cache.plans.weight - plans),
    ):
        assert taken * 0.7 < weighed < taken * 3


@pytest.mark.parametrize("query", DOCUMENTS)
def test_what_templates_weigh_is_about_what_they_take(query: str) -> None:
    engine = Engine(the_schema(), WIDE)
    form = query.replace("nodes {", "nodes { %s: id", 1).replace("{", '{ a: meter(id: "%s") { id }', 1)

    def prepare(first: int, last: int) -> None:
        for number in range(first, last):
            for value in range(3):
                engine.prepare(form % (number, f"x{value}", f"a{number}"), None, authenticated=True)

    prepare(0, 5)
    weight = engine._cache.templates.weight
    with traced():
        before = used()
        prepare(10, 20)
        # The first document of each form is cached by itself.
        engine._cache.operations = WeightedLru(*document_cache.ACCOUNTS_BOUNDS.operations)
        taken = used() - before
    assert taken * 0.7 < engine._cache.templates.weight - weight < taken * 3
    assert sum(isinstance(one, document_cache.OperationTemplate) for one in engine._cache.templates) == 15
