"""`python -m tests.bench [live|delivery|reads|readings …] [--quick] [--peers DIR] [--json FILE]`."""

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from tests.bench.databases import Databases
from tests.bench.delivery import run_delivery
from tests.bench.live import run_live
from tests.bench.machine import BenchError, Cores, describe
from tests.bench.readings import run_readings
from tests.bench.reads import run_reads
from tests.bench.report import Report
from tests.bench.run import FULL, QUICK, Run

WIDTH = 120

BENCHMARKS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "live": run_live,
    "delivery": run_delivery,
    "reads": run_reads,
    "readings": run_readings,
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Each figure of Voltwire beside a baseline, in one run, as a ratio."
    )
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="which to run (all)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, under a minute: shows that it works"
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="also measure the baselines in this folder")
    parser.add_argument(
        "--node-modules", type=Path, metavar="DIR", help="where the peers in Node.js find packages"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure and round here")
    parser.add_argument(
        "--program",
        type=Path,
        metavar="FILE",
        default=Path(sys.executable).with_name("voltwire"),
        help="the voltwire to measure (the one beside this Python)",
    )
    given = parser.parse_args(argv)
    unknown = [name for name in given.benchmarks if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    if given.peers and not given.peers.is_dir():
        parser.error("--peers must be a folder")
    return given


async def measure(given: argparse.Namespace, console: Console) -> Report:
    cores = Cores()
    report = Report(describe(cores), console)
    run = Run(
        program=given.program.absolute(),
        cores=cores,
        report=report,
        sizes=QUICK if given.quick else FULL,
        databases=Databases(),
        quick=given.quick,
        peers=given.peers and given.peers.absolute(),
        node_modules=given.node_modules and given.node_modules.absolute(),
    )
    machine = report.machine
    console.print(
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; {cores.sentence()}.",
        highlight=False,
    )
    if given.quick:
        report.say("a quick run: too small and short for its figures to mean anything")
    cores.pin_client()
    try:
        for name in given.benchmarks or BENCHMARKS:
            started = time.perf_counter()
            await BENCHMARKS[name](run)
            report.progress(f"{name} took {time.perf_counter() - started:.0f} s")
    finally:
        run.databases.close()
    return report


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
    if given.json:
        report.write_json(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
