"""Deep pages: the last page of a long list beside its first, on the same server."""

from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import insert, text

import app.tables  # noqa: F401 - tables refer to each other
from app import clock
from app.api.pagination import id_cursor
from app.customers.models import Customer
from app.database import Database
from app.ids import new_id
from app.meters.models import Meter
from tests.bench.api import mpan
from tests.bench.load import CONNECTIONS, load
from tests.bench.posting import Target
from tests.bench.report import Figure
from tests.bench.run import Run, interleaved
from tests.bench.servers import Voltwire

PAGE = 100
# So many meters belong to one customer.
SHARED = 10
CHUNK = 5000

QUERY = """query ($after: String) { meters(first: 100, after: $after) {
    nodes { id number type customer { id name email } } } }"""


async def deep_pages(run: Run, database: str, product: Voltwire) -> None:
    """The figure's ratio is the last page's requests a second to the first page's: 1 where depth costs nothing."""
    account_id, key = product.installation.account("Pages")
    ids = await fill(product.installation.database_url, account_id, run.sizes.paged)
    target = Target(product.port, headers=(("x-api-key", key),))
    bodies = [
        orjson.dumps({"query": QUERY, "variables": {"after": after}})
        for after in (id_cursor(ids[-PAGE - 1]), None)
    ]

    async def once(body: bytes) -> float:
        return (await load(target, body, run.sizes.load_seconds, CONNECTIONS[0])).per_second

    last, first = await interleaved(run.sizes.rounds, lambda: once(bodies[0]), lambda: once(bodies[1]))
    name = f"page {len(ids) // PAGE:,} of {len(ids):,} meters, {database}, {CONNECTIONS[0]} connections"
    run.report.add(Figure("reads", name, "", "higher", last, "page 1 of them", first))


async def fill(url: str, account_id: str, count: int) -> list[str]:
    """Ids of new meters in their order, written straight into the database."""
    customers = [new_id("cus") for _ in range(count // SHARED)]
    meters = [new_id("mtr") for _ in range(count)]
    database = Database(url)
    try:
        for model, rows in (
            (Customer, _customers(account_id, customers)),
            (Meter, _meters(account_id, customers, meters)),
        ):
            while part := [row for _, row in zip(range(CHUNK), rows, strict=False)]:
                async with database.transaction() as session:
                    await session.execute(insert(model), part)
        if not database.is_sqlite:
            # As autovacuum would have done by the time a table is that long.
            async with database.transaction() as session:
                await session.execute(text("ANALYZE customers, meters"))
    finally:
        await database.dispose()
    return meters


def _customers(account_id: str, ids: list[str]) -> Iterator[dict[str, Any]]:
    for n, one in enumerate(ids):
        yield _row(account_id, one) | {
            "name": f"Customer {n:05d}",
            "email": f"customer{n:05d}@example.com",
            "logo_url": None,
        }


def _meters(account_id: str, customers: list[str], ids: list[str]) -> Iterator[dict[str, Any]]:
    for n, one in enumerate(ids):
        yield _row(account_id, one) | {
            "customer_id": customers[n // SHARED],
            "number": mpan(n),
            "type": "ELECTRICITY",
            "description": None,
            "data_source": "API",
            "is_disabled": False,
            "has_invalid_number": False,
        }


def _row(account_id: str, identifier: str) -> dict[str, Any]:
    now = clock.now()
    return {
        "id": identifier,
        "account_id": account_id,
        "address": None,
        "labels": {},
        "created_at": now,
        "updated_at": now,
    }
