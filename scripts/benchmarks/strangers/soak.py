"""A soak: clients that come and go, and what must not pile up in the server meanwhile.

Memory, open files, tasks and threads are looked at in even intervals. They have to level off: each is shown by its
quarters and the slope of its last half, and whether it still grows.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import linear_regression, mean, median

import httpx
import psutil
from rich.table import Table

from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.machine import BenchError, raise_open_files
from scripts.benchmarks.harness.receiver import Receiver
from scripts.benchmarks.harness.report import Figure, show
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Product, Voltwire, voltwire
from scripts.benchmarks.strangers.visitors import Visitors

LOOKS = 28
MIB = 2**20
TASKS = re.compile(r"^voltwire_tasks (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """The server at one moment; `memory` in MiB."""

    minute: float
    memory: float
    files: float
    tasks: float
    threads: float


QUANTITIES = {
    "memory": ("resident memory", "MiB"),
    "files": ("open files", ""),
    "tasks": ("tasks", ""),
    "threads": ("threads", ""),
}
# A smaller share of the whole is no change.
CHANGE = 0.01


async def run_soak(run: Run) -> None:
    raise_open_files()
    minutes = run.minutes or run.sizes.soak_minutes
    async with (
        Receiver() as receiver,
        voltwire(run.checkout, run.cores) as product,
        Api(product) as api,
    ):
        visitors = await Visitors.prepared(api, product, receiver, run.sizes.soak_customers)
        run.report.progress(f"{visitors.sentence()}, for {minutes:.3g} minutes")
        try:
            looks = await observed(product, visitors, minutes)
        except BenchError as error:
            raise BenchError(f"{error}; the server's last words: {product.servers[0].last_words()}") from None
        run.report.progress(visitors.told())
    report(run, looks, minutes)


async def observed(product: Voltwire, visitors: Visitors, minutes: float) -> list[Look]:
    """Looks in even intervals while the visitors are there. Raises what goes wrong with one of them."""
    loop = asyncio.get_running_loop()
    looks = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{product.port}") as client, visitors.there():
        begun = loop.time()
        for number in range(1, LOOKS + 1):
            await visitors.wait(begun + number * minutes * 60 / LOOKS)
            looks.append(await look(product, client, (loop.time() - begun) / 60))
    return looks


async def look(product: Product, client: httpx.AsyncClient, minute: float) -> Look:
    server = psutil.Process(product.pids[0])
    found = TASKS.search((await client.get("/metrics")).text)
    with server.oneshot():
        memory = server.memory_info().rss / MIB
        return Look(minute, memory, server.num_fds(), float(found[1]) if found else 0, server.num_threads())


@dataclass(frozen=True)
class Trend:
    """The course of one quantity: its values by quarter, and the slope of the last half with its standard error."""

    quarters: list[list[float]]
    slope: float
    error: float
    minutes: float

    @classmethod
    def of(cls, looks: Sequence[Look], name: str) -> "Trend":
        values = [float(getattr(one, name)) for one in looks]
        quarter, half = len(values) // 4, len(values) // 2
        minutes, late = [one.minute for one in looks[half:]], values[half:]
        slope, start = linear_regression(minutes, late)
        missed = sum((value - start - slope * at) ** 2 for at, value in zip(minutes, late, strict=True))
        error = sqrt(missed / (len(late) - 2) / sum((at - mean(minutes)) ** 2 for at in minutes))
        quarters = [values[at : at + quarter] for at in range(0, 4 * quarter, quarter)]
        return cls(quarters, slope, error, minutes[-1] - minutes[0])

    @property
    def verdict(self) -> str:
        """It is level unless the last half changed it by over 1 %, and by more than chance explains."""
        changed = abs(self.slope) * self.minutes > CHANGE * median(self.quarters[-1])
        if not changed or abs(self.slope) <= 2 * self.error:
            return "level"
        return "still grows" if self.slope > 0 else "falls"


def report(run: Run, looks: Sequence[Look], minutes: float) -> None:
    heading = f"soak · {minutes:.3g} minutes; medians of the quarters, and the slope of the last half"
    table = Table(title=heading, title_justify="left", header_style="bold")
    table.add_column("figure")
    for column in ("1st quarter", "2nd", "3rd", "4th", "a minute"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, (title, unit) in QUANTITIES.items():
        trend = Trend.of(looks, name)
        verdict, slope = trend.verdict, f"{trend.slope:+.2f} ± {trend.error:.2f}"
        table.add_row(
            f"{title} ({unit})" if unit else title,
            *(show(median(values)) for values in trend.quarters),
            slope,
            verdict,
            style="red" if verdict == "still grows" else "",
        )
        before, last = trend.quarters[-2:]
        note = f"{verdict}: {slope} a minute in the last half"
        run.report.add(Figure("soak", title, unit, "lower", last, "the quarter before", before, note))
    run.report.console.print(table)
