"""Imports of files: half-hours a second, from a file with a row per day and from one with a row per reading,
the memory of the server meanwhile, and the lag of live streams.
"""

from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.harness.api import Api, record_body
from scripts.benchmarks.harness.databases import async_url
from scripts.benchmarks.harness.machine import resident_kib
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Product, uvicorn, voltwire
from scripts.benchmarks.reads.readings import APP, IDIOMATIC, rate
from scripts.benchmarks.writes.beside_imports import beside_imports
from scripts.benchmarks.writes.import_files import content_of, imported, rows, wide

METERS = 1000
BARS = {"wide": 60.0, "rows": 20.0}


async def run_imports(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        await on_database(run, "SQLite", None, f"sqlite+aiosqlite:///{Path(folder) / 'baseline.db'}")
    if await run.on_postgres():
        ours, theirs = await run.databases.create(), await run.databases.create()
        await on_database(run, "PostgreSQL", ours, async_url(theirs))
    sizes = run.sizes
    run.report.print_table(
        "imports",
        f"imports · {sizes.wide_half_hours:,} half-hours by the day, {sizes.import_rows:,} rows of one half-hour",
    )


async def on_database(run: Run, database: str, database_url: str | None, baseline_url: str) -> None:
    sizes = run.sizes
    async with (
        voltwire(run.checkout, run.cores, database_url) as product,
        uvicorn(APP, run.cores, {"BENCH_DATABASE_URL": baseline_url}) as server,
        Api(product) as api,
        Api(Product(server.port, "", "")) as plain,
    ):
        meters = await api.metered_customer(METERS)
        theirs = count(0, sizes.baseline_readings)

        async def by_baseline() -> float:
            body = record_body("mtr_1", next(theirs), sizes.baseline_readings)
            return await rate(sizes.baseline_readings, lambda: plain.record(body))

        for kind, lines, expected, query in (
            ("wide", wide(meters, sizes.wide_half_hours), sizes.wide_half_hours, "profile=days&timezone=utc"),
            ("rows", rows(meters, sizes.import_rows), sizes.import_rows, "profile=voltwire"),
        ):
            run.report.progress(f"{expected:,} half-hours, {kind}, on {database}")
            base = [await by_baseline() for _ in range(sizes.rounds)]
            content = content_of(lines)
            before = resident_kib([one.pid for one in product.servers])
            ours, most = await imported(api, product, content, query, expected)
            title = f"half-hours a second, {kind}, {database}"
            run.report.add(Figure("imports", title, "", "higher", [ours], IDIOMATIC, base, bar=BARS[kind]))
            memory = [(most - before) / 1024]
            run.report.add(
                Figure("imports", f"MiB above idle, {kind}, {database}", "MiB", "lower", memory, "", [])
            )
        await beside_imports(run, database, api, product)
