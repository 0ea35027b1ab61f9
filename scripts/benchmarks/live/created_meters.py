"""Meters created one at a time: the next once every socket has the event of the last."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Final

from scripts.benchmarks.harness.report import Better, Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.live.sides import CREATED, Side, opened
from scripts.benchmarks.live.sockets import subscribe_message

RATE: Final = "createMeter one at a time, deliveries a second"
FIRST: Final = "createMeter to the first socket"
LAST: Final = "createMeter to the last socket"
BESIDE_IDIOMATIC: Final = {RATE: 30.0}
BESIDE_BARE: Final = {RATE: 0.65, LAST: 1 / 1.4}


async def created_meters(run: Run, ours: Side, theirs: Side, bars: Mapping[str, float] | None = None) -> None:
    """The rate of deliveries, and the time from the mutation to the first and to the last socket."""
    messages = [subscribe_message(CREATED)] * run.sizes.sockets
    new, old = creating(run, ours), creating(run, theirs)
    async with opened(new.target, messages) as (one, _), opened(old.target, messages) as (other, _):
        await one.warm_up(new.mutation)
        await other.warm_up(old.mutation)
        rounds = await interleaved(run.sizes.pairs, lambda: new.lone(one), lambda: old.lone(other))

    def add(name: str, unit: str, better: Better, values: list[list[float]]) -> None:
        bar = (bars or {}).get(name)
        run.report.add(Figure("live", name, unit, better, values[0], theirs.name, values[1], bar=bar))

    add(RATE, "", "higher", [[one.per_second for one in side] for side in rounds])
    add(FIRST, "ms", "lower", [[median(one.first_ms) for one in side] for side in rounds])
    add(LAST, "ms", "lower", [[median(one.last_ms) for one in side] for side in rounds])


def creating(run: Run, side: Side) -> Side:
    """The same with meters in place of readings, and enough events for a rate."""
    return replace(side, mutation=side.create, lone_events=min(side.events, run.sizes.single_events))
