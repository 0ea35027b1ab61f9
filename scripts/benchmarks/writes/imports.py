"""Imports of files: half-hours a second, from a file with a row per day and from one with a row per reading,
and the memory of the server meanwhile.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.harness.api import Api, half_hour, record_body
from scripts.benchmarks.harness.databases import async_url
from scripts.benchmarks.harness.machine import BenchError, resident_kib
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Product, Voltwire, uvicorn, voltwire
from scripts.benchmarks.reads.readings import APP, IDIOMATIC, rate

METERS = 1000
SLOTS = 48
BARS = {"wide": 60.0, "rows": 20.0}
LABELS = ",".join(f"{at // 2:02}:{at % 2 * 30:02}" for at in range(SLOTS))


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
            content = "\n".join(lines).encode() + b"\n"
            before = resident_kib([one.pid for one in product.servers])
            ours, most = await imported(api, product, content, query, expected)
            title = f"half-hours a second, {kind}, {database}"
            run.report.add(Figure("imports", title, "", "higher", [ours], IDIOMATIC, base, bar=BARS[kind]))
            memory = [(most - before) / 1024]
            run.report.add(
                Figure("imports", f"MiB above idle, {kind}, {database}", "MiB", "lower", memory, "", [])
            )


async def imported(
    api: Api, product: Voltwire, content: bytes, query: str, expected: int
) -> tuple[float, float]:
    """Half-hours a second of one import, and the most memory of the server meanwhile."""
    pids, most = [one.pid for one in product.servers], 0.0
    started = time.perf_counter()
    sent = await api.client.post(
        f"/imports?{query}", content=content, headers={"content-type": "text/csv"}, timeout=600
    )
    if sent.status_code != 202:
        raise BenchError(f"POST /imports answered {sent.status_code}: {sent.text[:500]}")
    while True:
        report = (await api.client.get(sent.headers["location"])).json()
        most = max(most, resident_kib(pids))
        if report["status"] != "RUNNING":
            break
        await asyncio.sleep(0.2)
    seconds = time.perf_counter() - started
    if report["readingsChanged"] != expected:
        raise BenchError(f"the import ended so: {report}")
    return expected / seconds, most


def wide(meters: list[str], half_hours: int) -> Iterator[str]:
    """A row per day, the days of each meter together."""
    yield f"meter_id,date,{LABELS}"
    days = half_hours // SLOTS // len(meters)
    for number, meter in enumerate(meters):
        for day in range(days):
            at = date(2022, 1, 1) + timedelta(days=day)
            values = ",".join([f"0.{(number * 7 + day * 13 + slot * 31) % 1000:03}" for slot in range(SLOTS)])
            yield f"{meter},{at:%d/%m/%Y},{values}"


def rows(meters: list[str], half_hours: int) -> Iterator[str]:
    """A row per half-hour, the half-hours of each meter together, from 2001 on."""
    yield "meter_id,start_at,consumption"
    each = half_hours // len(meters)
    for number, meter in enumerate(meters):
        for at in range(each):
            yield f"{meter},{half_hour(at)},0.{(number * 7 + at * 31) % 1000:03}"
