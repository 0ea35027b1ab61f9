"""Webhooks: how soon a fresh event arrives, beside a dead endpoint of another account with very many due deliveries."""

import asyncio
import time
from datetime import datetime

import orjson

from tests.bench.api import Api
from tests.bench.backlog import Backlog
from tests.bench.machine import BenchError
from tests.bench.receiver import Receiver
from tests.bench.report import Figure
from tests.bench.run import Run
from tests.bench.servers import Product, voltwire
from tests.services.ports import free_port

PATIENCE_SECONDS = 60


async def dead_endpoint(run: Run, database_url: str) -> None:
    sizes = run.sizes
    async with (
        Receiver() as receiver,
        voltwire(run.program, run.cores, database_url, split=True) as product,
        Backlog(product.installation) as backlog,
        Api(product) as api,
    ):
        other_id, key = product.installation.account("Dead")
        async with Api(Product(product.port, key, other_id)) as other:
            await api.endpoint(receiver.url)
            endpoint_id, _ = await other.endpoint(f"http://127.0.0.1:{free_port()}/nobody")
        await delays(api, receiver, 5)
        alone = await delays(api, receiver, sizes.fresh_events)
        run.report.progress(f"{sizes.waiting:,} due deliveries of a dead endpoint")
        await backlog.add_waiting(other_id, endpoint_id, sizes.waiting)
        await backlog.analyze()
        beside = await delays(api, receiver, sizes.fresh_events)
    name = (
        f"from commit to receiver, beside {sizes.waiting:,} due deliveries of another account's dead endpoint"
    )
    run.report.add(Figure("delivery", name, "ms", "lower", beside, "without them", alone))


async def delays(api: Api, receiver: Receiver, events: int) -> list[float]:
    """For each of so many events, one after the other: the milliseconds from its commit to its receiver."""
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
