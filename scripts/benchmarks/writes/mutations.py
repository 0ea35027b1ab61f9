"""Mutations with variables, each of a new row: how many a second, one after the other and sixteen at once."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from scripts.benchmarks.harness.api import Api, mpan, mutation_text, readings
from scripts.benchmarks.harness.databases import async_url
from scripts.benchmarks.harness.load import load_each, request_of
from scripts.benchmarks.harness.machine import cpu_seconds
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Revision, Run, interleaved
from scripts.benchmarks.harness.servers import Checkout, uvicorn, voltwire

# Short, so that a figure takes one line; the title says what it is made of.
IDIOMATIC = "idiomatic app"
APP = "scripts.benchmarks.baselines.writes_app:app"
API_KEY = "the key of the baseline"
BARS = {"SQLite": 3.0, "PostgreSQL": 2.5}
CONNECTIONS = (1, 16)
# Behind the numbers of the meters that are there before.
FIRST = 1_000_000


@dataclass(frozen=True)
class Side:
    """A server of a comparison with customers, and with meters that take readings."""

    name: str
    pid: int
    target: Target
    customers: Sequence[str]
    meters: Sequence[str]
    numbers: "count[int]" = field(default_factory=lambda: count(FIRST))


@dataclass(frozen=True)
class Mutation:
    """A mutation, the fields of its result, and its n-th input."""

    name: str
    result: str
    input: Callable[[Side, int], dict[str, Any]]


@dataclass(frozen=True)
class Rate:
    per_second: float
    requests: int
    cpu_seconds: float


def new_meter(side: Side, n: int) -> dict[str, Any]:
    return {"customerId": side.customers[n % len(side.customers)], "number": mpan(n)}


def new_customer(side: Side, n: int) -> dict[str, Any]:
    return {"name": f"Customer {n:09d}", "email": f"customer{n:09d}@example.com"}


def new_description(side: Side, n: int) -> dict[str, Any]:
    return {"meterId": side.meters[n % len(side.meters)], "description": f"Meter {n:09d}"}


def new_reading(side: Side, n: int) -> dict[str, Any]:
    meters = side.meters
    return {"meterId": meters[n % len(meters)], "readings": readings((n - FIRST) // len(meters), 1)}


MUTATIONS = (
    Mutation("createMeter", "meter { id number type }", new_meter),
    Mutation("createCustomer", "customer { id name email }", new_customer),
    Mutation("updateMeter", "meter { id number description }", new_description),
    Mutation("recordReadings", "changed", new_reading),
)


async def run_writes(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        await beside_idiomatic(run, "SQLite", None, f"sqlite+aiosqlite:///{Path(folder) / 'writes.db'}")
    if await run.on_postgres():
        ours, theirs = await run.databases.create(), await run.databases.create()
        await beside_idiomatic(run, "PostgreSQL", ours, async_url(theirs))
    run.report.print_table(
        "writes", "writes · mutations a second, each of one row; the idiomatic app is Strawberry + SQLModel"
    )


async def writes_against(run: Run, other: Revision) -> None:
    await on_database_against(run, other, "SQLite", [None, None])
    if await run.on_postgres():
        await on_database_against(run, other, "PostgreSQL", [await run.databases.create() for _ in range(2)])


async def beside_idiomatic(run: Run, database: str, database_url: str | None, baseline_url: str) -> None:
    async with product(run, run.checkout, database_url) as ours, baseline(run, baseline_url) as theirs:
        await side_by_side(run, database, ours, theirs, BARS[database])


async def on_database_against(
    run: Run, other: Revision, database: str, database_urls: Sequence[str | None]
) -> None:
    async with (
        product(run, run.checkout, database_urls[0]) as new,
        product(run, other.checkout, database_urls[1], other.name) as old,
    ):
        await side_by_side(run, database, new, old)


async def side_by_side(run: Run, database: str, ours: Side, theirs: Side, bar: float | None = None) -> None:
    run.report.progress(f"{run.sizes.write_meters:,} customers and meters on {database}")
    for mutation in MUTATIONS:
        for connections in CONNECTIONS:

            async def once(side: Side, mutation: Mutation = mutation, connections: int = connections) -> Rate:
                return await rate(side, mutation, run.sizes.write_seconds, connections)

            rounds = await interleaved(run.sizes.pairs, lambda: once(ours), lambda: once(theirs))
            values = [[one.per_second for one in side] for side in rounds]
            name = f"{mutation.name}, {database}, {connections} connection{'s' * (connections > 1)}"
            note = "the server's CPU for each: " + " and ".join(map(milliseconds, rounds))
            run.report.add(Figure("writes", name, "", "higher", values[0], theirs.name, values[1], note, bar))


async def rate(side: Side, mutation: Mutation, seconds: float, connections: int) -> Rate:
    text = mutation_text(mutation.name, mutation.result)

    def next_request() -> bytes:
        values = {"input": mutation.input(side, next(side.numbers))}
        return request_of(side.target, orjson.dumps({"query": text, "variables": values}))

    before = cpu_seconds([side.pid])
    done = await load_each(side.target, next_request, seconds, connections)
    return Rate(done.per_second, done.requests, cpu_seconds([side.pid]) - before)


def milliseconds(rates: Sequence[Rate]) -> str:
    requests, seconds = sum(one.requests for one in rates), sum(one.cpu_seconds for one in rates)
    return f"{seconds / requests * 1000:.2f} ms"


@asynccontextmanager
async def product(
    run: Run, checkout: Checkout, database_url: str | None, name: str = ""
) -> AsyncIterator[Side]:
    meters = run.sizes.write_meters
    async with voltwire(checkout, run.cores, database_url) as server:
        async with Api(server) as api:
            customers, metered = await api.customers(meters), await api.metered_customer(meters)
        yield Side(name, server.pids[0], server.target, customers, metered)


@asynccontextmanager
async def baseline(run: Run, database_url: str) -> AsyncIterator[Side]:
    meters = run.sizes.write_meters
    env = {"BENCH_DATABASE_URL": database_url, "BENCH_METERS": str(meters), "BENCH_API_KEY": API_KEY}
    async with uvicorn(APP, run.cores, env) as server:
        target = Target(server.port, headers=(("x-api-key", API_KEY),))
        customers, metered = ([f"{prefix}_{n:026d}" for n in range(meters)] for prefix in ("cus", "mtr"))
        yield Side(IDIOMATIC, server.pid, target, customers, metered)
