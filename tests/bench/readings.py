"""Readings: how many half-hours a second go in, by mutation and by file."""

import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.api import Api, csv_gzip, record_body
from tests.bench.databases import async_url
from tests.bench.machine import BenchError
from tests.bench.report import Figure
from tests.bench.run import Run, interleaved
from tests.bench.servers import Product, uvicorn, voltwire

IDIOMATIC = "idiomatic Strawberry + SQLModel"
APP = "tests.bench.baselines.readings_app:app"


async def run_readings(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        await on_database(run, "SQLite", None, f"sqlite+aiosqlite:///{Path(folder) / 'baseline.db'}")
    if await run.on_postgres():
        ours, theirs = await run.databases.create(), await run.databases.create()
        await on_database(run, "PostgreSQL", ours, async_url(theirs))
    sizes = run.sizes
    run.report.print_table(
        "readings", f"readings · requests of {sizes.readings:,} readings, files of {sizes.rows:,} rows"
    )


async def on_database(run: Run, database: str, database_url: str | None, baseline_url: str) -> None:
    sizes = run.sizes
    async with (
        voltwire(run.program, run.cores, database_url) as product,
        uvicorn(APP, run.cores, {"BENCH_DATABASE_URL": baseline_url}) as server,
        Api(product) as api,
        Api(Product(server.port, "", "")) as plain,
    ):
        meters = await api.metered_customer(sizes.row_meters)
        run.report.progress(f"{len(meters):,} meters on {database}")
        rows_each = sizes.rows // len(meters)
        # One after the other: a stretch of half-hours for the mutations, one behind it for the files.
        ours, theirs, files = (
            count(0, sizes.readings),
            count(0, sizes.baseline_readings),
            count(20 * sizes.readings, rows_each),
        )

        async def by_mutation() -> float:
            body = record_body(meters[0], next(ours), sizes.readings)
            return await rate(sizes.readings, lambda: api.record(body))

        async def by_file() -> float:
            file = csv_gzip(meters, next(files), rows_each)
            return await rate(rows_each * len(meters), lambda: api.upload(file))

        async def by_baseline() -> float:
            body = record_body("mtr_1", next(theirs), sizes.baseline_readings)
            return await rate(sizes.baseline_readings, lambda: plain.record(body))

        values = await interleaved(sizes.rounds, by_mutation, by_file, by_baseline)
    for name, measured in (("recordReadings", values[0]), ("POST /readings", values[1])):
        title = f"readings a second by {name}, {database}"
        run.report.add(Figure("readings", title, "", "higher", measured, IDIOMATIC, values[2]))


async def rate(expected: int, send: Callable[[], Awaitable[int]]) -> float:
    """Readings a second of one request, which must change all of them."""
    started = time.perf_counter()
    changed = await send()
    seconds = time.perf_counter() - started
    if changed != expected:
        raise BenchError(f"{changed:,} of {expected:,} readings were recorded")
    return expected / seconds
