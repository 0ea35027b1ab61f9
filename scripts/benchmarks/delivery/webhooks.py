"""Webhooks: from a burst of committed events to the last recorded outcome, beside a bare loop of POSTs."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from scripts.benchmarks.delivery.backlog import Backlog, make_template
from scripts.benchmarks.delivery.dead_endpoint import dead_endpoint, dead_endpoint_against
from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.machine import BenchError, cpu_seconds
from scripts.benchmarks.harness.receiver import Receiver
from scripts.benchmarks.harness.report import Better, Figure
from scripts.benchmarks.harness.run import Revision, Run, interleaved
from scripts.benchmarks.harness.servers import (
    ROOT,
    Checkout,
    Product,
    Voltwire,
    clean_environment,
    process,
    voltwire,
)

PATIENCE_SECONDS = 120
STOCK = "stock httpx, bare signed POSTs"
ONE = "one worker"


@dataclass(frozen=True)
class Burst:
    """`seconds` run from the commit to the last recorded outcome; `cpu` is what the measured processes computed."""

    events: int
    seconds: float
    cpu: float
    body_size: int = 0
    connections: int = 0
    repeats: int = 0

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_each(self) -> float:
        """Microseconds of computing for each event."""
        return self.cpu / self.events * 1e6


ON_SQLITE = "SQLite, API and worker in one process"
ON_POSTGRES = "PostgreSQL, one worker process"
AT_TWO = "deliveries a second, a second worker beside it on either core"


async def run_delivery(run: Run) -> None:
    await on_database(run, ON_SQLITE, None)
    if await run.on_postgres():
        await on_database(run, ON_POSTGRES, await run.databases.create())
        await dead_endpoint(run, await run.databases.create())
    run.report.print_table(
        "delivery",
        f"delivery · bursts of {run.sizes.burst:,} events, {run.sizes.accounts} accounts with an endpoint each",
    )


async def delivery_against(run: Run, other: Revision) -> None:
    await on_database_against(run, other, ON_SQLITE, [None, None])
    if await run.on_postgres():
        urls = [await run.databases.create() for _ in range(4)]
        await on_database_against(run, other, ON_POSTGRES, urls[:2])
        await dead_endpoint_against(run, other, urls[2:])


async def on_database(run: Run, place: str, database_url: str | None) -> None:
    run.report.progress(f"bursts on {place}")
    async with bursting(run, run.checkout, database_url) as bursts:
        first = bursts.first

        async def posts() -> Burst:
            return await stock_posts(run, bursts.receiver, first.connections, first.body_size)

        measures = [bursts.fire, posts, bursts.fire_at_two] if database_url else [bursts.fire, posts]
        ours, stock, *two = await interleaved(run.sizes.rounds, *measures)
    note = f"bodies of {first.body_size:,} bytes, {first.connections} connections on both sides"
    report(run, place, note, STOCK, ours, stock)
    if two:
        add(run, AT_TWO, "", "higher", ONE, rates(two[0]), rates(ours))
    tell_repeats(run, place, *two, ours)


async def on_database_against(
    run: Run, other: Revision, place: str, database_urls: Sequence[str | None]
) -> None:
    run.report.progress(f"bursts on {place}")
    async with (
        bursting(run, run.checkout, database_urls[0]) as new,
        bursting(run, other.checkout, database_urls[1]) as old,
    ):
        measures = [new.fire, old.fire]
        if database_urls[0]:
            measures += [new.fire_at_two, old.fire_at_two]
        one, two, *beside = await interleaved(run.sizes.rounds, *measures)
    report(run, place, f"bodies of {new.first.body_size:,} bytes", other.name, one, two)
    if beside:
        add(run, AT_TWO, "", "higher", other.name, rates(beside[0]), rates(beside[1]))
    tell_repeats(run, place, one, two, *beside)


def rates(bursts: Sequence[Burst]) -> list[float]:
    return [one.per_second for one in bursts]


def report(run: Run, place: str, note: str, beside: str, ours: list[Burst], theirs: list[Burst]) -> None:
    name = f"deliveries a second, {place}"
    add(run, name, "", "higher", beside, rates(ours), rates(theirs), note)
    if all(one.cpu for one in ours):
        costs, base = ([one.cpu_each for one in side] for side in (ours, theirs))
        add(run, f"computing for a delivery, {place}", "µs", "lower", beside, costs, base, note)


def add(
    run: Run,
    name: str,
    unit: str,
    better: Better,
    beside: str,
    ours: list[float],
    theirs: list[float],
    note: str = "",
) -> None:
    run.report.add(Figure("delivery", name, unit, better, ours, beside, theirs, note))


def tell_repeats(run: Run, place: str, *sides: Sequence[Burst]) -> None:
    if repeats := sum(one.repeats for side in sides for one in side):
        run.report.say(f"{repeats} deliveries on {place} arrived more than once")


@asynccontextmanager
async def bursting(run: Run, checkout: Checkout, database_url: str | None) -> AsyncIterator["Bursts"]:
    """Bursts on SQLite in one process, or on PostgreSQL with a worker of its own, after a first one."""
    async with (
        Receiver() as receiver,
        voltwire(checkout, run.cores, database_url, split=database_url is not None) as product,
        Backlog(product.installation) as backlog,
        AsyncExitStack() as clients,
    ):
        bursts = Bursts(run, product, backlog, receiver)
        secrets = await bursts.open(clients)
        bursts.first = await bursts.fire()
        receiver.check_signatures(secrets)
        await backlog.analyze()
        yield bursts


class Bursts:
    """Commits many events at once, as often as it is asked, and waits for the outcomes of their deliveries."""

    def __init__(self, run: Run, product: Voltwire, backlog: Backlog, receiver: Receiver) -> None:
        self.run = run
        self.product = product
        self.backlog = backlog
        self.receiver = receiver
        self.account_ids = [product.account_id]
        self.apis: list[Api] = []
        self.first: Burst

    async def open(self, clients: AsyncExitStack) -> list[str]:
        """Make the other accounts, and an endpoint for each; gives the endpoints' secrets."""
        products: list[Product] = [self.product]
        for number in range(1, self.run.sizes.accounts):
            account_id, key = self.product.installation.account(f"Bench {number}")
            self.account_ids.append(account_id)
            products.append(Product(self.product.port, key, account_id))
        self.apis = [await clients.enter_async_context(Api(product)) for product in products]
        for api in self.apis:
            await make_template(api)
        endpoints = [await api.endpoint(self.receiver.url) for api in self.apis]
        return [secret for _, secret in endpoints]

    async def fire(self) -> Burst:
        return await self._fire(self.run.sizes.burst, self.product.pids[-1:])

    async def fire_at_two(self) -> Burst:
        """The same with a second worker, on whichever core has time for it, which has sent something before."""
        with self.product.installation.start("worker", free=True) as second:
            await second.said(b"worker_started")
            pids = [self.product.pids[-1], second.pid]
            await self._fire(self.run.sizes.burst // 4, pids)
            return await self._fire(self.run.sizes.burst, pids)

    async def _fire(self, events: int, pids: Sequence[int]) -> Burst:
        receiver = self.receiver
        receiver.expect(events)
        cpu = cpu_seconds(pids)
        await self.backlog.commit_events(self.account_ids, events - len(self.apis))
        started = time.perf_counter()
        # The workers are told of these, and find the other events of the same accounts with them.
        await asyncio.gather(*(api.customers(1) for api in self.apis))
        try:
            await asyncio.wait_for(receiver.all_here.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            raise BenchError(
                f"{len(receiver.ids):,} of {events:,} events arrived within {PATIENCE_SECONDS} s"
            ) from None
        await self.backlog.until_recorded()
        seconds = time.perf_counter() - started
        repeats = receiver.requests - len(receiver.ids)
        cpu = cpu_seconds(pids) - cpu
        return Burst(events, seconds, cpu, receiver.body_size, receiver.most_connections, repeats)


async def stock_posts(run: Run, receiver: Receiver, concurrency: int, body_size: int) -> Burst:
    """The same receiver, body size and number of connections, but nothing claimed or recorded."""
    count = run.sizes.httpx_posts
    receiver.expect(count)
    arguments = [receiver.url, str(count), str(concurrency), str(body_size)]
    argv = [run.python, "-m", "scripts.benchmarks.baselines.httpx_posts", *arguments]
    with process(argv, clean_environment(), ROOT, run.cores) as client:
        await asyncio.to_thread(client.process.wait)
        if client.process.returncode:
            raise BenchError(f"the httpx baseline failed: {client.last_words()}")
        seconds, cpu = map(float, client.last_words().split())
    return Burst(count, seconds, cpu)
