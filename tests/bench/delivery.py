"""Webhooks: from a burst of committed events to the last recorded outcome, beside a bare loop of POSTs."""

import asyncio
import time
from dataclasses import dataclass

from tests.bench.api import Api, csv_gzip
from tests.bench.machine import BenchError
from tests.bench.receiver import Receiver
from tests.bench.report import Figure
from tests.bench.run import Run, interleaved
from tests.bench.servers import ROOT, clean_environment, process, voltwire

PATIENCE_SECONDS = 120
MOST_CONCURRENT = 100
STOCK = "stock httpx, bare signed POSTs"


@dataclass(frozen=True)
class Burst:
    """`seconds` run from the first commit to the last recorded outcome."""

    events: int
    seconds: float
    body_size: int
    connections: int
    repeats: int

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


async def run_delivery(run: Run) -> None:
    await on_database(run, "SQLite, API and worker in one process", None, split=False)
    if await run.on_postgres():
        await on_database(run, "PostgreSQL, one worker process", await run.databases.create(), split=True)
    run.report.print_table(
        "delivery", f"delivery · bursts of {run.sizes.burst:,} events to one webhook endpoint"
    )


async def on_database(run: Run, place: str, database_url: str | None, *, split: bool) -> None:
    async with (
        Receiver() as receiver,
        voltwire(run.program, run.cores, database_url, split) as product,
        Api(product) as api,
    ):
        meters = await api.metered_customer(min(run.sizes.meters, run.sizes.burst))
        endpoint_id, secret = await api.endpoint(receiver.url)
        run.report.progress(f"{len(meters):,} meters on {place}")
        bursts = Bursts(run, api, receiver, meters, endpoint_id)
        first = await bursts.fire()
        receiver.check_signatures(secret)
        concurrency = min(max(first.connections, 1), MOST_CONCURRENT)

        async def posts() -> Burst:
            return await stock_posts(run, receiver, concurrency, first.body_size)

        rounds = await interleaved(run.sizes.rounds, bursts.fire, posts)
    values = [[one.per_second for one in side] for side in rounds]
    note = f"bodies of {first.body_size:,} bytes, {concurrency} connections on both sides"
    run.report.add(
        Figure("delivery", f"deliveries a second, {place}", "", "higher", values[0], STOCK, values[1], note)
    )
    if repeats := sum(one.repeats for one in rounds[0]):
        run.report.say(f"{repeats} deliveries on {place} arrived more than once")


class Bursts:
    """Makes one event per meter by one upload, as often as a burst needs, and waits for the outcomes."""

    def __init__(self, run: Run, api: Api, receiver: Receiver, meters: list[str], endpoint_id: str) -> None:
        self.api = api
        self.receiver = receiver
        self.meters = meters
        self.endpoint_id = endpoint_id
        self.uploads = max(1, run.sizes.burst // len(meters))
        self.next_start = 0

    async def fire(self) -> Burst:
        events = self.uploads * len(self.meters)
        files = [csv_gzip(self.meters, self.next_start + n, 1) for n in range(self.uploads)]
        self.next_start += self.uploads
        self.receiver.expect(events)
        await self.api.upload(files[0])
        started = time.perf_counter()  # the answer comes right after the commit
        for file in files[1:]:
            await self.api.upload(file)
        try:
            await asyncio.wait_for(self.receiver.all_here.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            raise BenchError(
                f"{len(self.receiver.ids):,} of {events:,} events arrived within {PATIENCE_SECONDS} s"
            ) from None
        await self.api.until_recorded(self.endpoint_id)
        seconds = time.perf_counter() - started
        receiver = self.receiver
        repeats = receiver.requests - len(receiver.ids)
        return Burst(events, seconds, receiver.body_size, receiver.most_connections, repeats)


async def stock_posts(run: Run, receiver: Receiver, concurrency: int, body_size: int) -> Burst:
    """The same receiver, body size and number of connections, but nothing claimed or recorded."""
    count = run.sizes.httpx_posts
    receiver.expect(count)
    arguments = [receiver.url, str(count), str(concurrency), str(body_size)]
    argv = [run.python, "-m", "tests.bench.baselines.httpx_posts", *arguments]
    with process(argv, clean_environment(), ROOT, run.cores) as client:
        await asyncio.to_thread(client.process.wait)
        if client.process.returncode:
            raise BenchError(f"the httpx baseline failed: {client.last_words()}")
        seconds = float(client.last_words())
    return Burst(count, seconds, body_size, concurrency, 0)
