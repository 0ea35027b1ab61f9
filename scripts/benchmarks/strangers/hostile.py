"""Hostile strangers: how long one request without a key can hold the server's loop, beside what customers do.

A seeded search goes through shapes of requests towards the worst. What a request holds is what another connection, on
which one `/healthz` follows the other, waits longest for its answer meanwhile. The bar is five times what one cold,
small query of a customer holds, measured in the same way in the same run.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.table import Table

from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.report import Figure, show
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Product, voltwire
from scripts.benchmarks.strangers.shapes import PARTS, Shape, first_shapes, mutated, posted

SEED: Final = 9
BAR: Final = 5
SIZES: Final = (3, 30, 100, 300, 2000)
BEST: Final = 24
"""Shapes that are mutated, at most two of one set of parts."""
FINALISTS: Final = 12
PING: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TIMEOUT: Final = 120


@dataclass(frozen=True)
class Found:
    shape: Shape
    # Seconds.
    held: float


class Bystander:
    """A connection on which one small request follows the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def beside(cls, product: Product) -> "Bystander":
        return cls(*await asyncio.open_connection("127.0.0.1", product.port))

    async def longest_wait(self, during: Callable[[], Awaitable[None]]) -> float:
        """Seconds that one of its requests waited for its answer while something else was answered."""
        longest, other = 0.0, asyncio.ensure_future(during())
        while True:
            # One request at least begins when the other has been answered, so that nothing after that counts.
            is_over = other.done()
            begun = time.perf_counter()
            self._writer.write(PING)
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(_length(head))
            longest = max(longest, time.perf_counter() - begun)
            if is_over:
                await other
                return longest

    def close(self) -> None:
        self._writer.close()


def _length(head: bytes) -> int:
    found = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return int(found)


async def exchange(product: Product, request: bytes) -> None:
    """Send a request on a connection of its own, and read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", product.port)
    try:
        writer.write(request)
        async with asyncio.timeout(TIMEOUT):
            while await reader.read(1 << 20):
                pass
    except ConnectionError:
        # Refused while it was sent, which is an answer as well.
        pass
    finally:
        writer.close()


class Search:
    """Measures, and keeps the worst."""

    def __init__(self, product: Product, bystander: Bystander) -> None:
        self._product, self._bystander = product, bystander
        self._chance = random.Random(SEED)
        self._cold = 0
        self.found: dict[Shape, float] = {}

    async def held_by(self, request: bytes) -> float:
        return await self._bystander.longest_wait(lambda: exchange(self._product, request))

    async def cold_query(self) -> float:
        """The time that a small query of a customer holds which the server sees for the first time."""
        self._cold += 1
        query = (
            f"query Cold{self._cold} {{ meters(first: 1) {{ nodes {{ id number customer {{ name }} }} }} }}"
        )
        body = b'{"query": "%s"}' % query.encode()
        return await self.held_by(posted(body, more=f"X-Api-Key: {self._product.api_key}\r\n"))

    async def measure(self, shape: Shape) -> None:
        if shape in self.found:
            return
        held = await self.held_by(shape.request())
        # A disturbance of the machine does not come twice in a row.
        if held > self._threshold():
            held = min(held, await self.held_by(shape.request()))
        self.found[shape] = held

    async def run(self, probes: int, first: list[Shape]) -> None:
        for shape in first:
            await self.measure(shape)
        for _ in range(probes):
            await self.measure(mutated(self._chance.choice(self.worst(BEST)).shape, self._chance))

    def worst(self, count: int) -> list[Found]:
        """The worst shapes, at most two of one set of parts by one carrier."""
        chosen: list[Found] = []
        kinds: dict[tuple[frozenset[str], str], int] = {}
        for shape, held in sorted(self.found.items(), key=lambda one: -one[1]):
            kind = (frozenset(name for name, _ in shape.parts), shape.carrier)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= 2:
                chosen.append(Found(shape, held))
            if len(chosen) == count:
                break
        return chosen

    def _threshold(self) -> float:
        worst = sorted(self.found.values(), reverse=True)[: 2 * BEST]
        return worst[-1] if len(worst) == 2 * BEST else 0.0


async def run_hostile(run: Run) -> None:
    sizes, probes, rounds = ((30, 300), 40, 3) if run.quick else (SIZES, 2000, 9)
    async with voltwire(run.checkout, run.cores) as product, Api(product) as api:
        await api.metered_customer(3)
        bystander = await Bystander.beside(product)
        search = Search(product, bystander)
        for _ in range(5):
            await search.cold_query()
        first = first_shapes(sizes)
        run.report.progress(f"{len(PARTS)} parts, {len(first)} shapes and {probes} mutations, seed {SEED}")
        await search.run(probes, first)
        finalists = search.worst(FINALISTS)
        held: dict[Shape, list[float]] = {one.shape: [] for one in finalists}
        cold: list[float] = []
        for _ in range(rounds):
            cold.append(await search.cold_query())
            for shape, times in held.items():
                times.append(await search.held_by(shape.request()))
        bystander.close()
    report(run, held, cold)


def report(run: Run, held: dict[Shape, list[float]], cold: list[float]) -> None:
    small = median(cold)
    table = Table(title="hostile · what the worst requests of strangers hold", title_justify="left")
    table.add_column("request")
    table.add_column("ms", justify="right")
    table.add_column("cold queries", justify="right")
    ranked = sorted(held.items(), key=lambda one: -median(one[1]))
    for shape, times in ranked:
        table.add_row(str(shape), show(median(times) * 1000), show(median(times) / small))
    run.report.console.print(table)
    worst = [one * 1000 for one in ranked[0][1]]
    bar = [one * 1000 * BAR for one in cold]
    run.report.add(
        Figure("hostile", "longest that one request holds the loop", "ms", "lower", worst, "the bar", bar)
    )
    run.report.print_table("hostile", f"hostile · the bar is {BAR} cold small queries of a customer")
    if median(worst) > median(bar):
        run.report.say("the bar is NOT met: a request of a stranger holds the loop longer")
