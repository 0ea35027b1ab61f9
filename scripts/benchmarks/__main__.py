"""`python -m scripts.benchmarks [BENCHMARK …] [--against REVISION] [--quick] [--peers DIR] [--json FILE]`."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from scripts.benchmarks.delivery.webhooks import delivery_against, run_delivery
from scripts.benchmarks.feeds.backfills import run_feeds
from scripts.benchmarks.harness.checkout import checked_out
from scripts.benchmarks.harness.databases import Databases
from scripts.benchmarks.harness.machine import BenchError, Cores, describe
from scripts.benchmarks.harness.report import Report
from scripts.benchmarks.harness.run import AGAINST, FULL, QUICK, QUICK_AGAINST, Revision, Run, Sizes
from scripts.benchmarks.harness.servers import Checkout
from scripts.benchmarks.live.fan_out import live_against, run_live
from scripts.benchmarks.reads.documents import run_documents
from scripts.benchmarks.reads.lists import reads_against, run_reads
from scripts.benchmarks.reads.readings import readings_against, run_readings
from scripts.benchmarks.strangers.hostile import run_hostile
from scripts.benchmarks.strangers.soak import run_soak
from scripts.benchmarks.writes.imports import run_imports
from scripts.benchmarks.writes.mutations import run_writes, writes_against

WIDTH = 120

Benchmark = Callable[[Run], Awaitable[None]]
Comparison = Callable[[Run, Revision], Awaitable[None]]

BENCHMARKS: dict[str, Benchmark] = {
    "live": run_live,
    "delivery": run_delivery,
    "reads": run_reads,
    "readings": run_readings,
    "writes": run_writes,
}
# Run when they are named: they take long, or have no baseline.
NAMED: dict[str, Benchmark] = {
    "soak": run_soak,
    "hostile": run_hostile,
    "documents": run_documents,
    "imports": run_imports,
    "feeds": run_feeds,
}
AGAINST_REVISION: dict[str, Comparison] = {
    "live": live_against,
    "delivery": delivery_against,
    "reads": reads_against,
    "readings": readings_against,
    "writes": writes_against,
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Each figure of Voltwire beside a baseline, in one run, as a ratio."
    )
    parser.add_argument(
        "benchmarks",
        nargs="*",
        metavar="BENCHMARK",
        help=f"{', '.join(BENCHMARKS)} (all of these), {', '.join(NAMED)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, under a minute: shows that it works"
    )
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="instead of baselines, the same figures of this git revision, in interleaved pairs",
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="also measure the baselines in this folder")
    parser.add_argument(
        "--node-modules", type=Path, metavar="DIR", help="where the peers in Node.js find packages"
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="of the soak (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure and round here")
    parser.add_argument(
        "--program",
        type=Path,
        metavar="FILE",
        default=Path(sys.executable).with_name("voltwire"),
        help="the voltwire to measure (the one beside this Python)",
    )
    given = parser.parse_args(argv)
    known = [*AGAINST_REVISION] if given.against else [*BENCHMARKS, *NAMED]
    unknown = [name for name in given.benchmarks if name not in known]
    if unknown:
        parser.error(f"no such benchmark {unknown[0]!r}: choose from {', '.join(known)}")
    if given.minutes is not None and given.minutes <= 0:
        parser.error("--minutes must be over 0")
    if given.peers and given.against:
        parser.error("--peers and --against are two comparisons: choose one")
    if given.peers and not given.peers.is_dir():
        parser.error("--peers must be a folder")
    return given


def sizes_of(given: argparse.Namespace) -> Sizes:
    if given.against:
        return QUICK_AGAINST if given.quick else AGAINST
    return QUICK if given.quick else FULL


async def measure(given: argparse.Namespace, console: Console) -> Report:
    end_in_order()
    cores = Cores()
    report = Report(describe(cores), console)
    run = Run(
        checkout=Checkout.of_today(given.program.absolute()),
        cores=cores,
        report=report,
        sizes=sizes_of(given),
        databases=Databases(),
        quick=given.quick,
        peers=given.peers and given.peers.absolute(),
        node_modules=given.node_modules and given.node_modules.absolute(),
        minutes=given.minutes,
    )
    machine = report.machine
    console.print(
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; {cores.sentence()}.",
        highlight=False,
    )
    if given.quick:
        report.say("a quick run: too small and short for its figures to mean anything")
    try:
        if given.against:
            await compare(run, given.benchmarks or AGAINST_REVISION, given.against)
        else:
            cores.pin_client()
            known = BENCHMARKS | NAMED
            await each(run, {name: known[name] for name in given.benchmarks or BENCHMARKS})
    finally:
        run.databases.close()
    return report


async def compare(run: Run, names: Iterable[str], revision: str) -> None:
    async with checked_out(revision, run.report) as checkout:
        run.cores.pin_client()
        other = Revision(revision, checkout)
        await each(run, {name: partial(_against, AGAINST_REVISION[name], other) for name in names})
        run.report.print_against(revision)


async def each(run: Run, benchmarks: Mapping[str, Benchmark]) -> None:
    for name, benchmark in benchmarks.items():
        started = time.perf_counter()
        await benchmark(run)
        run.report.progress(f"{name} took {time.perf_counter() - started:.0f} s")


async def _against(benchmark: Comparison, other: Revision, run: Run) -> None:
    await benchmark(run, other)


def end_in_order() -> None:
    """Told to end (SIGTERM), a run stops its servers and removes its folders, as it does at Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def main() -> int:
    given = arguments()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # a file or a pipe has no width of its own
    try:
        report = uvloop.run(measure(given, console))
    except BenchError as error:
        console.print(f"bench: {error}", style="red", markup=False, highlight=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if given.json:
        report.write_json(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
