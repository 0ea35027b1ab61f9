"""A soak: clients that come and go, and what must not pile up in the server meanwhile.

Memory, open files, tasks and threads are looked at in even intervals. They have to level off: the last quarter is
shown beside the one before it, and with the slope of the last half.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import linear_regression, median

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


QUANTITIES = {"memory": "MiB", "files": "", "tasks": "", "threads": ""}
TITLES = {"memory": "resident memory", "files": "open files", "tasks": "tasks", "threads": "threads"}


async def run_soak(run: Run) -> None:
    raise_open_files()
    minutes = run.minutes or run.sizes.soak_minutes
    async with (
        Receiver() as receiver,
        voltwire(run.checkout, run.cores) as product,
        Api(product) as api,
    ):
        visitors = await Visitors.prepared(api, product, receiver)
        run.report.progress(f"{visitors.sentence()}, for {minutes:g} minutes")
        try:
            looks = await observed(product, visitors, minutes)
        except BenchError as error:
            raise BenchError(f"{error}; the server's last words: {product.servers[0].last_words()}") from None
        run.report.progress(visitors.told())
    print_looks(run, looks)
    report(run, looks)
    run.report.print_table(
        "soak", f"soak · {minutes:g} minutes; medians of the last quarter beside the one before"
    )


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


def print_looks(run: Run, looks: Sequence[Look]) -> None:
    table = Table(title_justify="left", header_style="bold")
    names = [field.name for field in fields(Look)]
    for name in names:
        table.add_column(name, justify="right")
    for one in looks:
        table.add_row(*(show(getattr(one, name)) for name in names))
    run.report.console.print(table)


def report(run: Run, looks: Sequence[Look]) -> None:
    half, quarter = looks[LOOKS // 2 :], LOOKS // 4
    for name, unit in QUANTITIES.items():
        values = [float(getattr(one, name)) for one in half]
        slope, _ = linear_regression([one.minute for one in half], values)
        note = f"{slope:+.2f} a minute in the last half"
        figure = Figure(
            "soak",
            TITLES[name],
            unit,
            "lower",
            values[quarter:],
            "the quarter before",
            values[:quarter],
            note,
        )
        run.report.add(figure)
        run.report.say(f"{TITLES[name]}: {median(values[quarter:]):,.0f} at the end, {note}")
