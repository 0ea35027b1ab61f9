"""Webhooks: how soon a fresh event arrives, beside a dead endpoint of another account with very many due deliveries."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from statistics import median

import orjson

from scripts.benchmarks.delivery.backlog import Backlog
from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.receiver import Receiver
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Revision, Run, interleaved
from scripts.benchmarks.harness.servers import Checkout, Product, voltwire
from tests.services.ports import free_port

PATIENCE_SECONDS = 60


async def dead_endpoint(run: Run, database_url: str) -> None:
    sizes = run.sizes
    async with beside_dead(run, run.checkout, database_url) as scene:
        alone = await scene.delays(sizes.fresh_events)
        await scene.fill(sizes.waiting)
        beside = await scene.delays(sizes.fresh_events)
    run.report.add(Figure("delivery", name(run), "ms", "lower", beside, "without them", alone))


async def dead_endpoint_against(run: Run, other: Revision, database_urls: Sequence[str]) -> None:
    events, waiting = run.sizes.fresh_events, run.sizes.waiting
    async with (
        beside_dead(run, run.checkout, database_urls[0]) as new,
        beside_dead(run, other.checkout, database_urls[1]) as old,
    ):
        await new.fill(waiting)
        await old.fill(waiting)

        async def delay(one: Scene, idle: Scene) -> float:
            # Its worker has very much to do as well.
            with stopped(idle.worker):
                return median(await one.delays(events))

        rounds = await interleaved(run.sizes.rounds, lambda: delay(new, old), lambda: delay(old, new))
    run.report.add(Figure("delivery", name(run), "ms", "lower", rounds[0], other.name, rounds[1]))


def name(run: Run) -> str:
    waiting = f"{run.sizes.waiting:,} due deliveries"
    return f"from commit to receiver, beside {waiting} of another account's dead endpoint"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Scene:
    """An account with an endpoint that answers, and another account's endpoint where nobody listens."""

    api: Api
    receiver: Receiver
    backlog: Backlog
    dead_id: str
    worker: int

    async def fill(self, waiting: int) -> None:
        await self.backlog.add_waiting(self.dead_id, waiting)
        await self.backlog.analyze()

    async def delays(self, events: int) -> list[float]:
        return await delays(self.api, self.receiver, events)


@asynccontextmanager
async def beside_dead(run: Run, checkout: Checkout, database_url: str) -> AsyncIterator[Scene]:
    async with (
        Receiver() as receiver,
        voltwire(checkout, run.cores, database_url, split=True) as product,
        Backlog(product.installation) as backlog,
        Api(product) as api,
    ):
        other_id, key = product.installation.account("Dead")
        async with Api(Product(product.port, key, other_id)) as other:
            await api.endpoint(receiver.url)
            dead_id, _ = await other.endpoint(f"http://127.0.0.1:{free_port()}/nobody")
            await other.customers(1)
        await backlog.until_delivering(dead_id)
        await delays(api, receiver, 5)
        yield Scene(api, receiver, backlog, dead_id, product.pids[-1])


async def delays(api: Api, receiver: Receiver, events: int) -> list[float]:
    """The milliseconds from the commit of each of some events to its receiver, one event after the other."""
    found = []
    for _ in range(events):
        receiver.expect(1)
        await api.customers(1)
        try:
            await asyncio.wait_for(receiver.all_here.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            raise BenchError(f"a fresh event did not arrive within {PATIENCE_SECONDS} s") from None
        arrived = time.time() - (time.perf_counter() - receiver.first_at)
        # The log takes an event's time just before the commit.
        committed = datetime.fromisoformat(orjson.loads(receiver.samples[0][1])["timestamp"])
        found.append((arrived - committed.timestamp()) * 1000)
    return found
