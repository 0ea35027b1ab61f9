"""Nested reads under load: a hundred meters, each with its customer; lists within lists; long answers; deep pages."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.databases import async_url
from scripts.benchmarks.harness.load import side_by_side
from scripts.benchmarks.harness.peers import reads_peers
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.run import Revision, Run
from scripts.benchmarks.harness.servers import Voltwire, uvicorn, voltwire
from scripts.benchmarks.reads.nested import nested_reads, nested_reads_against
from scripts.benchmarks.reads.pages import deep_pages, deep_pages_against

IDIOMATIC = "idiomatic Strawberry + SQLModel"
QUERY = "{ meters(first: 100) { nodes { id number type customer { id name email } } } }"


async def run_reads(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        files = [f"sqlite+aiosqlite:///{Path(folder) / name}" for name in ("meters.db", "nested.db")]
        await beside_idiomatic(run, "SQLite", None, *files)
    if await run.on_postgres():
        ours, *theirs = [await run.databases.create() for _ in range(3)]
        await beside_idiomatic(run, "PostgreSQL", ours, *map(async_url, theirs))
    run.report.print_table(
        "reads", "reads · requests a second, of 100 meters with their customers unless said"
    )


async def reads_against(run: Run, other: Revision) -> None:
    await on_database_against(run, other, "SQLite", [None, None])
    if await run.on_postgres():
        urls = [await run.databases.create() for _ in range(2)]
        await on_database_against(run, other, "PostgreSQL", urls)


async def on_database_against(
    run: Run, other: Revision, database: str, database_urls: Sequence[str | None]
) -> None:
    async with (
        voltwire(run.checkout, run.cores, database_urls[0]) as new,
        voltwire(other.checkout, run.cores, database_urls[1]) as old,
    ):
        for product in (new, old):
            await fill(run, product)
        run.report.progress(f"{run.sizes.meters:,} meters on {database}")
        await side_by_side(run, database, new.target, QUERY, other.name, old.target, QUERY)
        await nested_reads_against(run, database, new, old, other.name)
        await deep_pages_against(run, database, new, old, other.name)


async def fill(run: Run, product: Voltwire) -> None:
    async with Api(product) as api:
        await api.meters(await api.customers(run.sizes.meters))


@asynccontextmanager
async def baseline(run: Run, database_url: str) -> AsyncIterator[Target]:
    env = {"BENCH_DATABASE_URL": database_url, "BENCH_METERS": str(run.sizes.meters)}
    async with uvicorn("scripts.benchmarks.baselines.reads_app:app", run.cores, env) as server:
        yield Target(server.port)


async def beside_idiomatic(
    run: Run, database: str, database_url: str | None, baseline_url: str, nested_url: str
) -> None:
    """Requests a second of both sides; with peers also beside those, on PostgreSQL."""
    async with voltwire(run.checkout, run.cores, database_url) as product:
        await fill(run, product)
        run.report.progress(f"{run.sizes.meters:,} meters on {database}")
        async with baseline(run, baseline_url) as plain:
            await side_by_side(run, database, product.target, QUERY, IDIOMATIC, plain, QUERY)
        if run.peers and database_url:
            await reads_peers(run, product, QUERY)
        await nested_reads(run, database, product, nested_url)
        await deep_pages(run, database, product)
