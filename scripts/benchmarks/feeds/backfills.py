"""Feeds: half-hours a second that a worker fetches and stores, beside a plain httpx loop that stores nothing."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from app.feeds.octopus.stand_in import API_KEY, IN_ACCOUNT
from scripts.benchmarks.feeds.source import PreparedOctopus
from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import (
    ROOT,
    Product,
    Voltwire,
    clean_environment,
    process,
    uvicorn,
    voltwire,
)

BAR = 0.5
ACCOUNTS = 4
PATIENCE = 60.0

_LOG = """query ($after: String, $types: [EventType!]) {
    events(first: 100, after: $after, filter: { types: $types }) {
        nodes { ... on MeterDataReceivedEvent { intervalCount } } pageInfo { endCursor hasNextPage }
    }
}"""


async def run_feeds(run: Run) -> None:
    await on_database(run, "SQLite", None)
    if await run.on_postgres():
        await on_database(run, "PostgreSQL", await run.databases.create())
    run.report.print_table("feeds", f"feeds · backfills of 13 months of {run.sizes.fed_meters:,} meters")


async def on_database(run: Run, database: str, database_url: str | None) -> None:
    sizes = run.sizes
    environment = {"FEEDS_METERS": str(sizes.fed_meters)}
    async with (
        uvicorn("scripts.benchmarks.feeds.source:app", run.cores, environment) as source,
        voltwire(run.checkout, run.cores, database_url, split=True, work=False) as product,
        AsyncExitStack() as stack,
    ):
        # The source is the other side, as PostgreSQL is.
        run.cores.pin_client(source.pid)
        base_url = f"http://127.0.0.1:{source.port}"
        run.report.progress(f"feeds of {sizes.fed_meters:,} meters on {database}")
        logs = await set_up(product, stack, base_url, sizes.fed_meters)
        start, end = await logs[0].period()
        ours, plain = [], []
        for _ in range(sizes.rounds):
            plain.append(await by_httpx(run, f"{base_url}/0/v1", start, end))
            ours.append(await by_worker(run, product, logs))
    title = f"half-hours a second, fetched and stored, {database}"
    run.report.add(Figure("feeds", title, "", "higher", ours, "plain httpx loop", plain, bar=BAR))


class Log:
    """The event log of an account, read to its end."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._after: str | None = None

    async def half_hours(self) -> int:
        """The half-hours that were stored since the last look."""
        count = 0
        while True:
            variables = {"after": self._after, "types": ["METER_DATA_RECEIVED"]}
            found = (await self._api.run(_LOG, variables))["events"]
            count += sum(one["intervalCount"] for one in found["nodes"])
            self._after = found["pageInfo"]["endCursor"] or self._after
            if not found["pageInfo"]["hasNextPage"]:
                return count

    async def period(self) -> tuple[str, str]:
        """The period of a backfill."""
        query = "{ meters(first: 1) { nodes { backfills(first: 1) { nodes { from to } } } } }"
        [meter] = (await self._api.run(query))["meters"]["nodes"]
        [backfill] = meter["backfills"]["nodes"]
        return backfill["from"], backfill["to"]


async def set_up(product: Voltwire, stack: AsyncExitStack, base_url: str, count: int) -> list[Log]:
    """Feeds with their meters, spread over some accounts; every meter has a backfill that waits."""
    meters = list(PreparedOctopus(neighbours=count).meters.values())
    feeds = range(0, len(meters), IN_ACCOUNT)
    logs = []
    for account in range(min(ACCOUNTS, len(feeds))):
        account_id, key = product.installation.account(f"Fed {account}")
        api = await stack.enter_async_context(Api(Product(product.port, key, account_id)))
        [customer] = await api.customers(1)
        await api.consent(customer)
        for at in feeds[account::ACCOUNTS]:
            feed = await api.mutate(
                "createFeed",
                "feed { id }",
                {
                    "kind": "OCTOPUS",
                    "name": f"Feed {at}",
                    "credentials": {"apiKey": API_KEY},
                    "settings": {
                        "baseUrl": f"{base_url}/{at}/v1",
                        "accountNumber": f"A-5EED{1 + at // IN_ACCOUNT:04}",
                    },
                },
            )
            part = [
                {"customerId": customer, "number": one.number}
                for one in meters[at : at + IN_ACCOUNT]
                if one.label.startswith("Neighbour")
            ]
            made = await api.mutate_many("createMeter", "meter { id }", part)
            inputs = [{"meterId": one["meter"]["id"], "feedId": feed["feed"]["id"]} for one in made]
            await api.mutate_many("setMeterFeed", "meter { id }", inputs)
        logs.append(Log(api))
    return logs


async def by_httpx(run: Run, base_url: str, start: str, end: str) -> float:
    argv = [sys.executable, "-m", "scripts.benchmarks.baselines.httpx_fetches", base_url, API_KEY, start, end]
    with process([*argv, str(run.sizes.feed_seconds)], clean_environment(), ROOT, run.cores) as loop:
        await asyncio.to_thread(loop.process.wait)
        if loop.process.returncode:
            raise BenchError(f"the httpx loop failed: {loop.last_words()}")
        return float(loop.last_words())


async def by_worker(run: Run, product: Voltwire, logs: list[Log]) -> float:
    """Half-hours a second that a worker stores, from the first that it has stored on."""
    for log in logs:
        await log.half_hours()
    with product.installation.start("worker") as worker:
        patience = time.monotonic() + PATIENCE
        while not sum([await log.half_hours() for log in logs]):
            if time.monotonic() > patience:
                raise BenchError(f"the worker stored nothing: {worker.last_words()}")
            await asyncio.sleep(0.05)
        started = time.perf_counter()
        await asyncio.sleep(run.sizes.feed_seconds)
        count = sum([await log.half_hours() for log in logs])
        return count / (time.perf_counter() - started)
