"""An upload's cost to others: the server's memory while it runs, and how long reads wait meanwhile."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

import orjson

from scripts.benchmarks.harness.load import load
from scripts.benchmarks.harness.machine import resident_kib
from scripts.benchmarks.harness.posting import Poster
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.harness.servers import Voltwire

READ = orjson.dumps({"query": "{ meters(first: 20) { nodes { id number type } } }"})
CONNECTIONS = 16
SAMPLED_EVERY = 0.005
MOST_MEMORY = 150.0
FILES = 5

Send = Callable[[bytes], Awaitable[int]]


async def beside_uploads(
    run: Run, database: str, product: Voltwire, next_file: Callable[[], bytes], send: Send
) -> None:
    """`next_file` makes a file of new readings, which takes longer than to send it."""

    async def memory() -> float:
        """MiB of the server at most while a file is taken in, above those before."""
        file = next_file()
        pid = product.servers[0].pid
        before = highest = resident_kib([pid])
        sending = asyncio.ensure_future(send(file))
        while not sending.done():
            await asyncio.sleep(SAMPLED_EVERY)
            highest = max(highest, resident_kib([pid]))
        await sending
        return (highest - before) / 1024

    async def while_files_come() -> float:
        files = [next_file() for _ in range(FILES)]

        async def send_all() -> None:
            for file in files:
                await send(file)

        return await waited(product, send_all())

    async def beside_reads() -> float:
        return await waited(product, load(product.target, READ, run.sizes.load_seconds, CONNECTIONS))

    used = [await memory() for _ in range(run.sizes.rounds)]
    name = f"memory of a file, {database}"
    run.report.add(
        Figure("readings", name, "MiB", "lower", used, "as much as it may take", [MOST_MEMORY], bar=1)
    )
    ours, theirs = await interleaved(run.sizes.rounds, while_files_come, beside_reads)
    name = f"99 of 100 reads while files come, {database}"
    beside = f"beside {CONNECTIONS} connections of reads"
    run.report.add(Figure("readings", name, "ms", "lower", ours, beside, theirs, bar=1))


async def waited(product: Voltwire, meanwhile: Awaitable[object]) -> float:
    """Milliseconds within which 99 of 100 reads by one more connection are answered meanwhile."""
    poster = Poster(product.target)
    await poster.post(READ)
    busy = asyncio.ensure_future(meanwhile)
    waits = []
    gc.collect()
    gc.disable()
    while not busy.done():
        begun = time.perf_counter()
        await poster.post(READ)
        waits.append(time.perf_counter() - begun)
    gc.enable()
    await busy
    if poster.transport is not None:
        poster.transport.close()
    return sorted(waits)[len(waits) * 99 // 100] * 1000
