"""Readings: how many half-hours a second go in, what files of them cost others, and their bytes at rest."""

import csv
import gzip
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.harness.api import Api, csv_gzip, record_body
from scripts.benchmarks.harness.databases import async_url
from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Revision, Run, interleaved
from scripts.benchmarks.harness.servers import Product, uvicorn, voltwire
from scripts.benchmarks.reads.at_rest import run_at_rest
from scripts.benchmarks.reads.beside_uploads import beside_uploads

IDIOMATIC = "idiomatic Strawberry + SQLModel"
LOOP = "csv.DictReader + Decimal, nothing stored"
APP = "scripts.benchmarks.baselines.readings_app:app"
BARS, LOOP_BAR = (8.0, 20.0), 0.4


async def run_readings(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        await on_database(run, "SQLite", None, f"sqlite+aiosqlite:///{Path(folder) / 'baseline.db'}")
    if await run.on_postgres():
        ours, theirs = await run.databases.create(), await run.databases.create()
        await on_database(run, "PostgreSQL", ours, async_url(theirs))
    await run_at_rest(run)
    sizes = run.sizes
    run.report.print_table(
        "readings", f"readings · requests of {sizes.readings:,} readings, files of {sizes.rows:,} rows"
    )


async def readings_against(run: Run, other: Revision) -> None:
    await on_database_against(run, other, "SQLite", [None, None])
    if await run.on_postgres():
        await on_database_against(run, other, "PostgreSQL", [await run.databases.create() for _ in range(2)])


class Stretches:
    """Sends readings of one account, each request and file a stretch of half-hours that is new."""

    def __init__(self, run: Run, api: Api, meters: list[str]) -> None:
        sizes = run.sizes
        self.api = api
        self.meters = meters
        self.readings = sizes.readings
        self.rows_each = sizes.rows // len(meters)
        # One after the other: a stretch for the mutations, one behind it for the files.
        self.by_request = count(0, sizes.readings)
        self.by_rows = count(10 * sizes.readings, self.rows_each)

    @classmethod
    async def over(cls, run: Run, api: Api) -> "Stretches":
        return cls(run, api, await api.metered_customer(run.sizes.row_meters))

    async def by_mutation(self) -> float:
        body = record_body(self.meters[0], next(self.by_request), self.readings)
        return await rate(self.readings, lambda: self.api.record(body))

    async def by_file(self) -> float:
        file = self.next_file()
        return await rate(self.rows_each * len(self.meters), lambda: self.api.upload(file))

    async def by_loop(self) -> float:
        """Rows a second of the plainest loop over such a file, in this process."""
        text = gzip.decompress(self.next_file()).decode()
        started = time.perf_counter()
        done = sum(1 for row in csv.DictReader(io.StringIO(text)) if Decimal(row["consumption"]))
        return done / (time.perf_counter() - started)

    def next_file(self) -> bytes:
        return csv_gzip(self.meters, next(self.by_rows), self.rows_each)


async def on_database(run: Run, database: str, database_url: str | None, baseline_url: str) -> None:
    sizes = run.sizes
    async with (
        voltwire(run.checkout, run.cores, database_url) as product,
        uvicorn(APP, run.cores, {"BENCH_DATABASE_URL": baseline_url}) as server,
        Api(product) as api,
        Api(Product(server.port, "", "")) as plain,
    ):
        ours = await Stretches.over(run, api)
        run.report.progress(f"{len(ours.meters):,} meters on {database}")
        theirs = count(0, sizes.baseline_readings)

        async def by_baseline() -> float:
            body = record_body("mtr_1", next(theirs), sizes.baseline_readings)
            return await rate(sizes.baseline_readings, lambda: plain.record(body))

        by_mutation, by_file, base, by_loop = await interleaved(
            sizes.rounds, ours.by_mutation, ours.by_file, by_baseline, ours.by_loop
        )
        report(run, database, IDIOMATIC, (by_mutation, base), (by_file, base), bars=BARS)
        title = f"readings a second by POST /readings, {database}"
        run.report.add(Figure("readings", title, "", "higher", by_file, LOOP, by_loop, bar=LOOP_BAR))
        await beside_uploads(run, database, product, ours.next_file, api.upload)


async def on_database_against(
    run: Run, other: Revision, database: str, database_urls: Sequence[str | None]
) -> None:
    async with (
        voltwire(run.checkout, run.cores, database_urls[0]) as new,
        voltwire(other.checkout, run.cores, database_urls[1]) as old,
        Api(new) as one,
        Api(old) as two,
    ):
        ours, theirs = await Stretches.over(run, one), await Stretches.over(run, two)
        by_mutation = await interleaved(run.sizes.rounds, ours.by_mutation, theirs.by_mutation)
        by_file = await interleaved(run.sizes.rounds, ours.by_file, theirs.by_file)
    report(run, database, other.name, by_mutation, by_file)


def report(
    run: Run,
    database: str,
    beside: str,
    *sides: Sequence[list[float]],
    bars: Sequence[float | None] = (None, None),
) -> None:
    names = ("recordReadings", "POST /readings")
    for name, (ours, theirs), bar in zip(names, sides, bars, strict=True):
        title = f"readings a second by {name}, {database}"
        run.report.add(Figure("readings", title, "", "higher", ours, beside, theirs, bar=bar))


async def rate(expected: int, send: Callable[[], Awaitable[int]]) -> float:
    """Readings a second of one request, which must change all of them."""
    started = time.perf_counter()
    changed = await send()
    seconds = time.perf_counter() - started
    if changed != expected:
        raise BenchError(f"{changed:,} of {expected:,} readings were recorded")
    return expected / seconds
