"""The cost of a nested page does not depend on the number of its parent's rows."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from sqlalchemy import Select, insert, text

from app.auth.actor import Actor
from app.consents import actions as consents
from app.consents.models import ConsentFlowType
from app.core import clock
from app.core.ids import new_id
from app.db.database import Database
from app.db.raw_statements import CompiledStatement, RebuiltStatement
from app.graphql.compiled import statements
from app.graphql.context import Context
from app.graphql.pagination import PageRequest, id_cursor, page_request
from app.meters.models import Meter
from tests.meters.asking import make_customer
from tests.support import TestAccount, World, world

pytestmark = pytest.mark.both_databases

FEW, MANY = 20, 3000
PAGES: list[tuple[str, Callable[[list[str]], Any]]] = [
    ("first: 5", lambda meters: None),
    ("last: 5", lambda meters: None),
    ("first: 5, after: $c", lambda meters: id_cursor(meters[8])),
    ("first: 5, after: $c", lambda meters: id_cursor(meters[-8])),
    ("last: 5, before: $c", lambda meters: id_cursor(meters[8])),
    ("last: 5, before: $c", lambda meters: id_cursor(meters[-8])),
]


async def customer_with(
    world: World, account: TestAccount, admin: Actor, count: int
) -> tuple[str, str, list[str]]:
    """Makes a customer with `count` meters, all covered by a consent; returns the ids."""
    customer = await make_customer(world, account, email=f"c{count}@example.com")
    ids = sorted(new_id("mtr") for _ in range(count))
    now = clock.now()
    common = {"account_id": account.id, "customer_id": customer, "type": "GAS", "labels": {}}
    common |= {"data_source": "API", "is_disabled": False, "has_invalid_number": False}
    common |= {"created_at": now, "updated_at": now}
    rows = [{"id": one, "number": f"{count}{at:06d}", **common} for at, one in enumerate(ids)]
    async with world.database.transaction() as session:
        await session.execute(insert(Meter), rows)
        consent = await consents.create(
            session,
            admin,
            world.services.keyring,
            customer_id=customer,
            flow_type=ConsentFlowType.GB_COMMERCIAL_BLANKET,
            expiry=clock.uk_date(now) + timedelta(days=10),
            redirect_url="https://example.com/back",
            meter_numbers=[],
        )
        return customer, consent.id, ids


async def work(url: str, database: Database, statement: Select[Any], given: dict[str, Any]) -> int:
    """The work of a statement: its steps on SQLite, the rows and blocks that it reads on PostgreSQL."""
    prepared = CompiledStatement(statement, given, database.engine.dialect, converts=False)
    if not database.is_sqlite:
        connection = await asyncpg.connect(url)
        try:
            explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {prepared.text}"
            [plan] = orjson.loads(await connection.fetchval(explained, *prepared.arguments(given)))
        finally:
            await connection.close()
        return (
            come_across(plan["Plan"]) + plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        )
    steps: list[None] = []
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as opened:
        opened.set_progress_handler(lambda: steps.append(None), 1)
        opened.execute(prepared.text, prepared.arguments(given)).fetchall()
    return len(steps)


def come_across(plan: dict[str, Any]) -> int:
    of_each = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return int(of_each * plan["Actual Loops"]) + sum(map(come_across, plan.get("PlanCache", ())))


@pytest.mark.parametrize(("field", "of_consent"), [("customer", False), ("hostedConsent", True)])
async def test_a_page_costs_the_same_however_many_rows_its_parent_has(
    migrated_url: str, field: str, of_consent: bool
) -> None:
    async with world(migrated_url) as opened:
        account = await opened.account()
        admin = (await opened.authenticator.authenticate(account.key)).actor
        few = await customer_with(opened, account, admin, FEW)
        many = await customer_with(opened, account, admin, MANY)
        # Other parents' rows must not be read either.
        between = await customer_with(opened, account, admin, FEW + 1)
        if not opened.database.is_sqlite:
            async with opened.database.transaction() as session:
                await session.execute(text("ANALYZE"))
        for arguments, cursor in PAGES:
            nodes = f"{field}(id: $id) {{ meters({arguments}) {{ nodes {{ id }} }} }}"
            variables = "$id: ID!, $c: String" if "$c" in arguments else "$id: ID!"
            query = f"query ({variables}) {{ {nodes} }}"
            prepared = opened.engine.prepare(query, None, authenticated=True)
            assert prepared.plan_cache is not None
            found = {}
            for customer, consent, meters in (few, many, between):
                given = {"id": consent if of_consent else customer, "c": cursor(meters)}
                response = await opened.engine.execute(prepared, given, Context(opened.services, admin))
                shown = [one["id"] for one in response["data"][field]["meters"]["nodes"]]
                assert shown == expected(arguments, meters, given["c"])
                # All documents share the cache, whose end was used last.
                [*_, statement] = [
                    one
                    for one in prepared.plan_cache.lru
                    if isinstance(one, RebuiltStatement) and statements.PARENTS in str(one.build())
                ]
                asked = requested(arguments, given["c"])
                parameters = statements.parameters(admin, clock.now()) | statements.page_parameters(asked)
                parameters[statements.PARENTS] = [given["id"]]
                found[len(meters)] = await work(migrated_url, opened.database, statement.build(), parameters)
            assert max(found.values()) <= 3 * min(found.values()), (arguments, found)


def requested(arguments: str, cursor: str | None) -> PageRequest:
    backwards = arguments.startswith("last")
    first, last = (None, 5) if backwards else (5, None)
    after, before = (None, cursor) if backwards else (cursor, None)
    return page_request(first, after, last, before)


def expected(arguments: str, meters: list[str], cursor: str | None) -> list[str]:
    ids = list(map(id_cursor, meters))
    if arguments.startswith("last"):
        end = len(ids) if cursor is None else ids.index(cursor)
        return meters[end - 5 : end]
    start = 0 if cursor is None else ids.index(cursor) + 1
    return meters[start : start + 5]
