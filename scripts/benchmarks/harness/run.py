"""A run of benchmarks: sizes, machine, report, and interleaved rounds."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from scripts.benchmarks.harness.databases import Databases
from scripts.benchmarks.harness.machine import Cores
from scripts.benchmarks.harness.report import Report
from scripts.benchmarks.harness.servers import Checkout

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `QUICK` only shows that all of it works."""

    rounds: int = 3
    sockets: int = 1000
    # About a second of ours: in less than that chance decides.
    events: int = 200
    baseline_events: int = 5
    latency_events: int = 10
    bystanders: int = 9900
    meters: int = 1000
    paged: int = 100_000
    half_hours: int = 17_520
    load_seconds: float = 2.0
    burst: int = 10_000
    # An endpoint takes 20 requests at once: together 100, as many as a stock httpx client opens.
    accounts: int = 5
    httpx_posts: int = 1000
    fresh_events: int = 60
    waiting: int = 1_000_000
    readings: int = 20_000
    baseline_readings: int = 4000
    rows: int = 100_000
    row_meters: int = 50
    # Of the figures that have a bar.
    pairs: int = 7
    write_seconds: float = 0.6
    write_meters: int = 100
    single_events: int = 40
    # Of a thousand meters: 208 days of 48 half-hours, and a thousand half-hours each.
    wide_half_hours: int = 9_984_000
    import_rows: int = 1_000_000
    # Of a hundred meters, beside live streams.
    beside_meters: int = 100
    beside_wide: int = 1_920_000
    beside_rows: int = 400_000
    fed_meters: int = 10_000
    feed_seconds: float = 10.0
    soak_minutes: float = 7
    soak_customers: int = 10_000


FULL = Sizes()
# Seven pairs of each figure, and of most things less, so that all of it ends within a quarter of an hour.
AGAINST = replace(FULL, rounds=7, load_seconds=0.8, burst=5000, waiting=200_000, fresh_events=20)
QUICK = Sizes(
    rounds=1,
    sockets=100,
    events=10,
    baseline_events=5,
    latency_events=5,
    bystanders=200,
    meters=120,
    paged=2000,
    half_hours=1440,
    load_seconds=0.5,
    burst=240,
    accounts=2,
    httpx_posts=60,
    fresh_events=10,
    waiting=5000,
    readings=2000,
    baseline_readings=500,
    rows=5000,
    row_meters=10,
    pairs=1,
    write_seconds=0.1,
    write_meters=10,
    single_events=5,
    wide_half_hours=96_000,
    import_rows=10_000,
    beside_meters=10,
    beside_wide=48_000,
    beside_rows=5_000,
    fed_meters=60,
    feed_seconds=1.0,
    soak_minutes=1 / 3,
    soak_customers=200,
)
# Of the smallest figures two pairs and a warm-up show that it works.
QUICK_AGAINST = replace(QUICK, rounds=2, pairs=2, load_seconds=0.1, half_hours=480, waiting=1000, burst=60)


@dataclass(frozen=True)
class Run:
    """A run of the benchmarks."""

    checkout: Checkout
    cores: Cores
    report: Report
    sizes: Sizes
    databases: Databases
    quick: bool = False
    peers: Path | None = None
    node_modules: Path | None = None
    minutes: float | None = None
    python: str = sys.executable

    async def on_postgres(self) -> bool:
        """Whether to measure on PostgreSQL as well; the report says so when not."""
        there = await self.databases.there()
        if not there:
            self.report.say(f"no figures on PostgreSQL: {self.databases.missing}")
        return there


@dataclass(frozen=True)
class Revision:
    """The other Voltwire of a comparison, by the name that the user gave it."""

    name: str
    checkout: Checkout


async def interleaved(rounds: int, *measures: Callable[[], Awaitable[T]]) -> Sequence[list[T]]:
    """Each measure once per round, in turn, so that a disturbance of the machine meets all of them.

    A round before the first one warms everything up and does not count. Every other round goes backwards, so that
    no measure always comes after the same other.
    """
    answers: list[list[T]] = [[] for _ in measures]
    in_turn = list(zip(measures, answers, strict=True))
    for number in range(rounds + 1):
        for measure, into in in_turn if number % 2 else reversed(in_turn):
            value = await measure()
            if number:
                into.append(value)
    return answers
