"""Deep pages: the last page of a long list beside its first, on the same server."""

from dataclasses import replace

import orjson

from scripts.benchmarks.harness.api import Api, mpan
from scripts.benchmarks.harness.copies import FIRST, Copies, copy, nth_id, some_ids
from scripts.benchmarks.harness.load import CONNECTIONS, load
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.harness.servers import Voltwire

PAGE = 100
# Meters of one customer.
SHARED = 10

QUERY = """query ($after: String) { meters(first: 100, after: $after) {
    nodes { id number type customer { id name email } } } }"""
LAST_PAGE = "{ meters(last: 100) { pageInfo { startCursor } } }"
BEFORE = "query ($before: String!) { meters(last: 1, before: $before) { pageInfo { endCursor } } }"


async def deep_pages(run: Run, database: str, product: Voltwire) -> None:
    """The figure's ratio is the last page's requests a second to the first page's: 1 where depth costs nothing."""
    target, after = await filled(run, product)
    last, first = await interleaved(
        run.sizes.rounds, lambda: rate(run, target, after), lambda: rate(run, target, None)
    )
    run.report.add(Figure("reads", name(run, database), "", "higher", last, "page 1 of them", first))


async def deep_pages_against(run: Run, database: str, new: Voltwire, old: Voltwire, beside: str) -> None:
    """The last page of both."""
    (ours, after), (theirs, other) = await filled(run, new), await filled(run, old)
    rounds = await interleaved(
        run.sizes.rounds, lambda: rate(run, ours, after), lambda: rate(run, theirs, other)
    )
    run.report.add(Figure("reads", name(run, database), "", "higher", rounds[0], beside, rounds[1]))


def name(run: Run, database: str) -> str:
    meters = run.sizes.paged
    return f"page {meters // PAGE:,} of {meters:,} meters, {database}, {CONNECTIONS[0]} connections"


async def rate(run: Run, target: Target, after: str | None) -> float:
    """Requests a second of the page after this cursor."""
    body = orjson.dumps({"query": QUERY, "variables": {"after": after}})
    return (await load(target, body, run.sizes.load_seconds, CONNECTIONS[0])).per_second


async def filled(run: Run, product: Voltwire) -> tuple[Target, str]:
    """An account with all the meters, and the cursor that its last page follows."""
    account_id, key = product.installation.account("Pages")
    target = Target(product.port, headers=(("x-api-key", key),))
    async with Api(replace(product, account_id=account_id, api_key=key)) as api:
        (customer,) = await api.customers(1)
        (meter,) = await api.meters([customer])
        await multiply(product.installation.database_url, customer, meter, run.sizes.paged - 1)
        start = (await api.run(LAST_PAGE))["meters"]["pageInfo"]["startCursor"]
        before = await api.run(BEFORE, {"before": start})
    return target, str(before["meters"]["pageInfo"]["endCursor"])


async def multiply(url: str, customer_id: str, meter_id: str, meters: int) -> None:
    """Writes more meters straight into the database, each ten of one more customer."""
    customers = some_ids("cus")
    stem = nth_id(customers, 0).removesuffix(str(FIRST))
    async with Copies(url) as copies:
        async with copies.engine.begin() as connection:
            changed = {
                "id": customers,
                "name": "'Customer ' || CAST(n AS TEXT)",
                "email": "'customer' || CAST(n AS TEXT) || '@pages.example.com'",
            }
            one = {"id": customer_id}
            await copy(connection, "customers", meters // SHARED + 1, changed, "copied.id = :id", one)
            changed = {
                "id": some_ids("mtr"),
                "customer_id": f"'{stem}' || CAST({FIRST} + n / {SHARED} AS TEXT)",
                # Only their length is like that of true ones.
                "number": f"CAST({int(mpan(0))} + n AS TEXT)",
            }
            await copy(connection, "meters", meters, changed, "copied.id = :id", {"id": meter_id})
        # As autovacuum would have done by the time a table is that long.
        await copies.analyze("customers, meters")
