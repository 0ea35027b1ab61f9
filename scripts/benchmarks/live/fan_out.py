"""Live events: one mutation, a thousand sockets, each event with its meter and customer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median

from app.core.descriptors import for_connections
from scripts.benchmarks.harness.api import Api
from scripts.benchmarks.harness.machine import cpu_seconds, raise_open_files, resident_kib
from scripts.benchmarks.harness.peers import live_peers
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.report import Better, Figure
from scripts.benchmarks.harness.run import Revision, Run, interleaved
from scripts.benchmarks.harness.servers import ROOT, clean_environment, process
from scripts.benchmarks.live.created_meters import BESIDE_BARE, BESIDE_IDIOMATIC, created_meters
from scripts.benchmarks.live.sides import (
    EVENT,
    IDIOMATIC,
    SUBSCRIPTION,
    Side,
    Watched,
    baseline,
    frame_bytes,
    opened,
    same_length,
    watched,
)
from scripts.benchmarks.live.sockets import Fanout, subscribe_message
from tests.services.ports import free_port

GROUPS = 100
WATCHERS = 10
FEW = 100
MISSED = 20
CONNECTING_BAR, RESUMING_BAR = 4.0, 3.0
"""How many times faster than the idiomatic app all sockets are connected, without and with what they missed."""
RATE = "deliveries a second"
BARE = "bare sockets, no GraphQL"
RESUMED = "subscription($after: String!) { " + EVENT.format(filter="(after: $after)") + " }"
FILTERED = "subscription($f: EventFilter) { " + EVENT.format(filter="(filter: $f)") + " }"


async def run_live(run: Run) -> None:
    raise_open_files()
    async with watched(run, run.checkout) as ours:
        length = await frame_bytes(ours.target, ours.mutation)
        async with baseline(run, await same_length(run, ours, length)) as plain:
            await fan_out(run, ours, plain)
            await created_meters(run, ours, plain, bars=BESIDE_IDIOMATIC)
            await connecting(run, ours, plain, bar=CONNECTING_BAR)
            await resuming(run, ours, plain, bar=RESUMING_BAR)
            async with ours.plain_asgi(run) as server:
                await throughput(run, f"{RATE}, plain ASGI", ours.at(server.port), plain)
            await groups(run, ours.halved(), plain)
        await beside_bare(run, ours, round(length))
        await bystanders(run, ours)
        if run.peers:
            await live_peers(run, ours.product, str(ours.meter["id"]), SUBSCRIPTION)
    run.report.print_table(
        "live", f"live · one event to {run.sizes.sockets:,} sockets, with its meter and customer"
    )


async def live_against(run: Run, other: Revision) -> None:
    raise_open_files()
    async with watched(run, run.checkout) as new, watched(run, other.checkout, other.name) as old:
        await fan_out(run, new, old)
        await created_meters(run, new, old)
        await connecting(run, new, old)
        await resuming(run, new, old)
        async with new.plain_asgi(run) as one, old.plain_asgi(run) as two:
            await throughput(run, f"{RATE}, plain ASGI", new.at(one.port), old.at(two.port))
        await groups(run, new.halved(), old.halved())
        await beside_crowds(run, new, old)


async def throughput(run: Run, name: str, ours: Side, theirs: Side, messages: Sequence[bytes] = ()) -> None:
    """A figure of deliveries a second to as many sockets as there are messages; all equal without any."""
    messages = messages or [subscribe_message(SUBSCRIPTION)] * run.sizes.sockets
    async with opened(ours.target, messages) as (one, _), opened(theirs.target, messages) as (other, _):
        await one.warm_up(ours.mutation)
        await other.warm_up(theirs.mutation)
        rounds = await interleaved(run.sizes.rounds, lambda: ours.burst(one), lambda: theirs.burst(other))
    add(run, theirs, name, "", "higher", [[one.per_second for one in side] for side in rounds])


def add(
    run: Run,
    theirs: Side,
    name: str,
    unit: str,
    better: Better,
    values: list[list[float]],
    bar: float | None = None,
) -> None:
    run.report.add(Figure("live", name, unit, better, values[0], theirs.name, values[1], bar=bar))


async def fan_out(run: Run, ours: Side, theirs: Side) -> None:
    """Throughput, and the first and the last socket of one event alone."""
    rounds, messages = run.sizes.rounds, [subscribe_message(SUBSCRIPTION)] * run.sizes.sockets
    async with opened(ours.target, messages) as (one, _), opened(theirs.target, messages) as (other, _):
        await one.warm_up(ours.mutation)
        await other.warm_up(theirs.mutation)
        run.report.progress(f"{run.sizes.sockets:,} sockets on each side")
        burst = await interleaved(rounds, lambda: ours.burst(one), lambda: theirs.burst(other))
        lone = await interleaved(rounds, lambda: ours.lone(one), lambda: theirs.lone(other))
    add(run, theirs, RATE, "", "higher", [[one.per_second for one in side] for side in burst])
    for what in ("first", "last"):
        times = [[median(getattr(one, f"{what}_ms")) for one in side] for side in lone]
        add(run, theirs, f"mutation to the {what} socket", "ms", "lower", times)
    add(run, theirs, "message", "bytes", "lower", [[one.bytes_per_frame for one in side] for side in burst])


async def connecting(run: Run, ours: Side, theirs: Side, bar: float | None = None) -> None:
    """How soon a fresh process has all sockets, what computing and what memory they take."""
    sockets = run.sizes.sockets
    messages = [subscribe_message(SUBSCRIPTION)] * sockets

    async def connect(side: Side) -> tuple[float, float, float]:
        async with side.fresh() as server:
            memory, computing = resident_kib([server.pid]), cpu_seconds([server.pid])
            async with opened(replace(side.target, port=server.port), messages) as (fanout, seconds):
                await fanout.quiet()
                computing = cpu_seconds([server.pid]) - computing
                await fanout.warm_up(side.mutation)
                return seconds, computing, (resident_kib([server.pid]) - memory) / sockets

    rounds = await interleaved(run.sizes.rounds, lambda: connect(ours), lambda: connect(theirs))
    seconds, computing, memory = ([[one[n] for one in side] for side in rounds] for n in (0, 1, 2))
    add(run, theirs, "all connected", "s", "lower", seconds, bar)
    if all(value > 0 for side in computing for value in side):
        add(run, theirs, "computing until all are subscribed", "s", "lower", computing, bar)
    if all(value > 0 for side in memory for value in side):
        add(run, theirs, "memory per idle subscribed socket", "KiB", "lower", memory)


async def resuming(run: Run, ours: Watched, theirs: Side, bar: float | None = None) -> None:
    """All clients come back at once after a deploy, and read what they missed; the idiomatic app has lost it."""
    sockets = run.sizes.sockets

    async def cursor_of(side: Watched) -> str:
        async with Api(side.product) as api:
            found = await api.run("{ eventStream { latestCursor } }")
            for _ in range(MISSED):
                await api.record(side.mutation())
        return str(found["eventStream"]["latestCursor"])

    async def resume(side: Side, cursor: str) -> float:
        message = subscribe_message(RESUMED, {"after": cursor})
        fanout = Fanout(side.target)
        try:
            fanout.reset(MISSED, sockets)
            return await fanout.open([message] * sockets) + await fanout.all_reached()
        finally:
            fanout.close()

    async def connect() -> float:
        async with opened(theirs.target, [subscribe_message(SUBSCRIPTION)] * sockets) as (_, seconds):
            return seconds

    start = await cursor_of(ours)
    if isinstance(theirs, Watched):
        other = await cursor_of(theirs)
        rounds = await interleaved(
            run.sizes.rounds, lambda: resume(ours, start), lambda: resume(theirs, other)
        )
    else:
        theirs = replace(theirs, name=f"{IDIOMATIC}, connected only")
        rounds = await interleaved(run.sizes.rounds, lambda: resume(ours, start), connect)
    name = f"all connected, and {MISSED} missed events resumed"
    add(run, theirs, name, "s", "lower", list(rounds), bar)


async def beside_bare(run: Run, ours: Side, length: int) -> None:
    """The same beside the limit, which no server of any kind gets past on this machine."""
    port = free_port()
    frame = '{"id":"1","type":"next","payload":{"data":{"events":"' + "x" * (length - 56) + '"}}}'
    argv = [run.python, "-m", "scripts.benchmarks.baselines.bare_sockets", str(port)]
    with process(argv, clean_environment() | {"BENCH_FRAME": frame}, ROOT, run.cores, port) as server:
        await server.ready("/")
        bare = replace(ours, name=BARE, target=Target(port), mutation=lambda: b"{}", create=lambda: b"{}")
        await throughput(run, RATE, ours, bare)
        await created_meters(run, ours, bare, bars=BESIDE_BARE)


async def groups(run: Run, ours: Side, theirs: Side) -> None:
    """As many sockets, but of a hundred different subscriptions: what is left when little is equal."""
    shared = max(1, run.sizes.sockets // GROUPS)
    different = run.sizes.sockets // shared
    messages = [
        subscribe_message(SUBSCRIPTION.replace("subscription", f"subscription G{number}"))
        for number in range(different)
        for _ in range(shared)
    ]
    name = f"deliveries a second, {different} different subscriptions"
    await throughput(run, name, ours, theirs, messages)


async def bystanders(run: Run, ours: Watched) -> None:
    """Times of an event when nearly all sockets watch another meter: many of them beside few."""
    many = crowd(run, 1)
    few = min(FEW, many)
    measured = []
    async with watchers(ours) as fanout:
        for number in (few, many):
            async with opened(ours.target, [watching(ours.other)] * number):
                await fanout.quiet()
                await fanout.fire(5, ours.mutation)
                lone = await fanout.fire(run.sizes.latency_events * run.sizes.rounds, ours.mutation)
                measured.append(lone.last_ms)
    beside = f"Voltwire with {few:,} other sockets"
    run.report.add(Figure("live", crowd_name(many), "ms", "lower", measured[1], beside, measured[0]))


async def beside_crowds(run: Run, ours: Watched, theirs: Watched) -> None:
    """The same on both sides, each with a crowd of its own."""
    many = crowd(run, 2)
    async with (
        watchers(ours) as one,
        watchers(theirs) as other,
        opened(ours.target, [watching(ours.other)] * many),
        opened(theirs.target, [watching(theirs.other)] * many),
    ):
        await one.quiet()
        await other.quiet()
        lone = await interleaved(run.sizes.rounds, lambda: ours.lone(one), lambda: theirs.lone(other))
    times = [[median(one.last_ms) for one in side] for side in lone]
    add(run, theirs, crowd_name(many), "ms", "lower", times)


def crowd_name(many: int) -> str:
    return f"mutation to the last of {WATCHERS} watchers, {many:,} other sockets"


def crowd(run: Run, sides: int) -> int:
    """The bystanders of each side, fewer where the system does not allow as many open files."""
    files, wanted = raise_open_files(), run.sizes.bystanders
    # A process gives one address half of its connections at most, watchers among them.
    allowed = max(FEW, min((files - 1000) // sides, for_connections(files) // 2 - 10 * WATCHERS))
    if allowed < wanted:
        run.report.say(f"only {allowed:,} bystanding sockets: the system allows {files:,} open files")
    return min(allowed, wanted)


def watching(meter_id: str) -> bytes:
    return subscribe_message(FILTERED, {"f": {"meterIds": [meter_id]}})


@asynccontextmanager
async def watchers(side: Watched) -> AsyncIterator[Fanout]:
    """A few sockets that watch the meter which gets the readings."""
    async with opened(side.target, [watching(str(side.meter["id"]))] * WATCHERS) as (fanout, _):
        await fanout.warm_up(side.mutation)
        yield fanout
