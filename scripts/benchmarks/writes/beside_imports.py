"""An import's cost to live streams: how late events come while one runs, beside how late under ordinary load."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.load import load
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.harness.servers import Voltwire
from scripts.benchmarks.live.fan_out import watching
from scripts.benchmarks.live.sides import new_readings, opened
from scripts.benchmarks.live.sockets import Fanout
from scripts.benchmarks.reads.beside_uploads import CONNECTIONS, READ
from scripts.benchmarks.writes.import_files import SLOTS, content_of, imported, rows, wide

WATCHERS = 100
EVENTS = 10
"""Events that are fired, one after the other, before it is asked whether the work beside them is over."""
LAG_BAR = 1 / 3
"""An event may be three times as late beside an import as it is beside ordinary load."""


async def beside_imports(run: Run, database: str, api: Api, product: Voltwire) -> None:
    watched, *meters = await api.metered_customer(run.sizes.beside_meters + 1, "Beside {:05d}")
    mutation, sizes = new_readings(watched), run.sizes
    days, each = sizes.beside_wide // SLOTS // len(meters), sizes.beside_rows // len(meters)
    round_of = count()

    def of_days() -> bytes:
        return content_of(wide(meters, sizes.beside_wide, next(round_of) * days))

    def of_rows() -> bytes:
        return content_of(rows(meters, sizes.beside_rows, next(round_of) * each))

    async with opened(product.target, [watching(watched)] * WATCHERS) as (fanout, _):
        await fanout.warm_up(mutation)

        async def beside(content: bytes, query: str, half_hours: int) -> float:
            return await lag(fanout, mutation, imported(api, product, content, query, half_hours))

        async def beside_load() -> float:
            reads = load(product.target, READ, sizes.load_seconds, CONNECTIONS)
            return await lag(fanout, mutation, reads)

        wide_lag, rows_lag, load_lag = await interleaved(
            sizes.rounds,
            lambda: beside(of_days(), "profile=days&timezone=utc", sizes.beside_wide),
            lambda: beside(of_rows(), "profile=voltwire", sizes.beside_rows),
            beside_load,
        )
    name = f"beside {CONNECTIONS} connections of reads"
    for kind, ours in (("wide", wide_lag), ("rows", rows_lag)):
        title = f"99 of 100 events at the last of {WATCHERS} sockets, {kind}, {database}"
        run.report.add(Figure("imports", title, "ms", "lower", ours, name, load_lag, bar=LAG_BAR))


async def lag(fanout: Fanout, mutation: Callable[[], bytes], meanwhile: Awaitable[object]) -> float:
    """Milliseconds from a mutation to the last socket, of 99 in 100 events meanwhile."""
    busy = asyncio.ensure_future(meanwhile)
    lags: list[float] = []
    while not busy.done():
        lags += (await fanout.fire(EVENTS, mutation)).last_ms
    await busy
    return sorted(lags)[len(lags) * 99 // 100]
