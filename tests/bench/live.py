"""Live events: one mutation, a thousand sockets, each event with its meter and customer."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count

from tests.bench.api import Api, record_body
from tests.bench.machine import raise_open_files, resident_kib
from tests.bench.peers import live_peers
from tests.bench.posting import Target
from tests.bench.report import Better, Figure
from tests.bench.run import Run, interleaved
from tests.bench.servers import ROOT, Product, Voltwire, clean_environment, process, uvicorn, voltwire
from tests.bench.sockets import Fanout, Round, subscribe_message
from tests.services.ports import free_port

IN_FLIGHT = 4
GROUPS = 100
SANSIO = ("--ws", "websockets-sansio", "--ws-per-message-deflate", "false")
TIMES = ("first_ms", "last_ms")
WATCHERS = 10
MISSED = 20
IDIOMATIC = "idiomatic Strawberry + broadcaster"
BARE = "bare sockets, no GraphQL"
LONG_NAME = "The Benchmark Company of Some Length, Limited ({:05d})"

EVENT = (
    "events{filter} {{ id name sequence occurredAt ... on MeterDataReceivedEvent"
    " {{ meter {{ id number type customer {{ id name email }} }} }} }}"
)
SUBSCRIPTION = "subscription { " + EVENT.format(filter="") + " }"
RESUMED = "subscription($after: String!) { " + EVENT.format(filter="(after: $after)") + " }"
FILTERED = "subscription($f: EventFilter) { " + EVENT.format(filter="(filter: $f)") + " }"
METER = "query($id: ID!) { meter(id: $id) { id number type customer { id name email } } }"

Mutation = Callable[[], bytes]


def new_readings(meter_id: str, first: int = 0) -> Mutation:
    """Each call is a request that records one reading more."""
    numbers = count(first)
    return lambda: record_body(meter_id, next(numbers))


@asynccontextmanager
async def opened(target: Target, messages: Sequence[bytes]) -> AsyncIterator[tuple[Fanout, float]]:
    """A fan-out with its sockets, and the seconds that took."""
    fanout = Fanout(target)
    try:
        yield fanout, await fanout.open(messages)
    finally:
        fanout.close()


async def frame_bytes(target: Target, mutation: Mutation) -> float:
    """The length of one event's message on this server."""
    async with opened(target, [subscribe_message(SUBSCRIPTION)]) as (fanout, _):
        await fanout.warm_up(mutation)
        return (await fanout.fire(1, mutation)).bytes_per_frame


@asynccontextmanager
async def baseline(run: Run, meter: dict[str, object]) -> AsyncIterator[tuple[Target, list[int]]]:
    app = "tests.bench.baselines.live_app:app"
    async with uvicorn(app, run.cores, {"BENCH_METER": json.dumps(meter)}) as server:
        yield Target(server.port), [server.pid]


async def same_length(run: Run, meter: dict[str, object], wanted: float) -> dict[str, object]:
    """The meter with its customer's name cut or padded until both sides' messages are equally long."""
    async with baseline(run, meter) as (target, _):
        difference = round(wanted - await frame_bytes(target, new_readings(str(meter["id"]))))
    customer = dict(meter["customer"])  # type: ignore[call-overload]
    name = customer["name"]
    customer["name"] = name[:difference] if difference < 0 else name + "." * difference
    return meter | {"customer": customer}


async def run_live(run: Run) -> None:
    raise_open_files()
    async with voltwire(run.program, run.cores) as product:
        async with Api(product) as api:
            watched, other = await api.metered_customer(2, LONG_NAME)
            meter = (await api.run(METER, {"id": watched}))["meter"]
        mutation = new_readings(watched)
        length = await frame_bytes(product.target, mutation)
        meter = await same_length(run, meter, length)
        async with baseline(run, meter) as (target, pids):
            await fan_out(run, product, mutation, target, pids, str(meter["id"]))
            await resuming(run, product, mutation, target)
            await plain_asgi(run, product, mutation, target, str(meter["id"]))
        await beside_bare(run, product, mutation, round(length))
        await groups(run, product, mutation, meter)
        await bystanders(run, product, mutation, watched, other)
        if run.peers:
            await live_peers(run, product, watched, SUBSCRIPTION)
    run.report.print_table(
        "live", f"live · one event to {run.sizes.sockets:,} sockets, with its meter and customer"
    )


async def fan_out(
    run: Run, product: Product, mutation: Mutation, target: Target, pids: list[int], meter_id: str
) -> None:
    """Throughput, first and last socket, connecting and memory, beside the idiomatic app."""
    sizes = run.sizes
    messages = [subscribe_message(SUBSCRIPTION)] * sizes.sockets
    plain_mutation = new_readings(meter_id)
    before = resident_kib(product.pids), resident_kib(pids)
    async with (
        opened(product.target, messages) as (ours, our_seconds),
        opened(target, messages) as (plain, plain_seconds),
    ):
        await ours.warm_up(mutation)
        await plain.warm_up(plain_mutation)
        after = resident_kib(product.pids), resident_kib(pids)
        run.report.progress(f"{sizes.sockets:,} sockets on each side")
        burst = await interleaved(
            sizes.rounds,
            lambda: ours.fire(sizes.events, mutation, IN_FLIGHT),
            lambda: plain.fire(sizes.baseline_events, plain_mutation, IN_FLIGHT),
        )
        lone = await interleaved(
            sizes.rounds,
            lambda: ours.fire(sizes.latency_events, mutation),
            lambda: plain.fire(sizes.baseline_events, plain_mutation),
        )
    memory = [(late - early) / sizes.sockets for early, late in zip(before, after, strict=True)]

    def add(name: str, unit: str, better: Better, ours: list[float], theirs: list[float]) -> None:
        run.report.add(Figure("live", name, unit, better, ours, IDIOMATIC, theirs))

    first, last = ([[ms for one in side for ms in getattr(one, name)] for side in lone] for name in TIMES)
    lengths = [[one.bytes_per_frame for one in side] for side in burst]
    add("deliveries a second", "", "higher", *rates(burst))
    add("mutation to the first socket", "ms", "lower", *first)
    add("mutation to the last socket", "ms", "lower", *last)
    add("all connected", "s", "lower", [our_seconds], [plain_seconds])
    if all(memory):
        add("memory per idle subscribed socket", "KiB", "lower", [memory[0]], [memory[1]])
    add("message", "bytes", "lower", *lengths)


async def resuming(run: Run, product: Product, mutation: Mutation, target: Target) -> None:
    """All clients come back at once after a deploy, and read what they missed; the idiomatic app has lost it."""
    sockets = run.sizes.sockets
    async with Api(product) as api:
        cursor = (await api.run("{ eventStream { latestCursor } }"))["eventStream"]["latestCursor"]
        for _ in range(MISSED):
            await api.record(mutation())
    ours, theirs = [], []
    for _ in range(run.sizes.rounds):
        fanout = Fanout(product.target)
        try:
            fanout.reset(MISSED, sockets)
            message = subscribe_message(RESUMED, {"after": cursor})
            ours.append(await fanout.open([message] * sockets) + await fanout.all_reached())
        finally:
            fanout.close()
        async with opened(target, [subscribe_message(SUBSCRIPTION)] * sockets) as (_, seconds):
            theirs.append(seconds)
    name = f"all connected, and {MISSED} missed events resumed"
    beside = f"{IDIOMATIC}, connected only"
    run.report.add(Figure("live", name, "s", "lower", ours, beside, theirs))


async def plain_asgi(run: Run, product: Voltwire, mutation: Mutation, target: Target, meter_id: str) -> None:
    """Voltwire under a server that does not lend it its transport."""
    messages = [subscribe_message(SUBSCRIPTION)] * run.sizes.sockets
    plain_mutation = new_readings(meter_id)
    app = "tests.bench.baselines.asgi_app:app"
    async with (
        uvicorn(app, run.cores, product.installation.env, SANSIO) as server,
        opened(replace(product.target, port=server.port), messages) as (ours, _),
        opened(target, messages) as (plain, _),
    ):
        await ours.warm_up(mutation)
        await plain.warm_up(plain_mutation)
        rounds = await interleaved(
            run.sizes.rounds,
            lambda: ours.fire(run.sizes.events, mutation, IN_FLIGHT),
            lambda: plain.fire(run.sizes.baseline_events, plain_mutation, IN_FLIGHT),
        )
    ours_rate, plain_rate = rates(rounds)
    run.report.add(
        Figure("live", "deliveries a second, plain ASGI", "", "higher", ours_rate, IDIOMATIC, plain_rate)
    )


def rates(rounds: Sequence[list[Round]]) -> list[list[float]]:
    """Deliveries a second of each round of each side."""
    return [[one.per_second for one in side] for side in rounds]


async def beside_bare(run: Run, product: Product, mutation: Mutation, length: int) -> None:
    """The same beside the limit, which no server of any kind gets past on this machine."""
    port = free_port()
    frame = '{"id":"1","type":"next","payload":{"data":{"events":"' + "x" * (length - 56) + '"}}}'
    env = clean_environment() | {"BENCH_FRAME": frame}
    argv = [run.python, "-m", "tests.bench.baselines.bare_sockets", str(port)]
    messages = [subscribe_message(SUBSCRIPTION)] * run.sizes.sockets
    target = Target(port)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(process(argv, env, ROOT, run.cores, port))
        await server.ready("/")
        ours, _ = await stack.enter_async_context(opened(product.target, messages))
        bare, _ = await stack.enter_async_context(opened(target, messages))
        await ours.warm_up(mutation)
        await bare.warm_up(lambda: b"{}")
        rounds = await interleaved(
            run.sizes.rounds,
            lambda: ours.fire(run.sizes.events, mutation, IN_FLIGHT),
            lambda: bare.fire(run.sizes.events, lambda: b"{}", IN_FLIGHT),
        )
    ours_rate, bare_rate = rates(rounds)
    run.report.add(Figure("live", "deliveries a second", "", "higher", ours_rate, BARE, bare_rate))


async def groups(run: Run, product: Product, mutation: Mutation, meter: dict[str, object]) -> None:
    """As many sockets, but of a hundred different subscriptions: what is left when little is equal."""
    shared = max(1, run.sizes.sockets // GROUPS)
    messages = [
        subscribe_message(SUBSCRIPTION.replace("subscription", f"subscription G{number}"))
        for number in range(run.sizes.sockets // shared)
        for _ in range(shared)
    ]
    plain_mutation = new_readings(str(meter["id"]))
    async with (
        baseline(run, meter) as (target, _),
        opened(product.target, messages) as (ours, _),
        opened(target, messages) as (plain, _),
    ):
        await ours.warm_up(mutation)
        await plain.warm_up(plain_mutation)
        rounds = await interleaved(
            run.sizes.rounds,
            lambda: ours.fire(run.sizes.events // 2, mutation, IN_FLIGHT),
            lambda: plain.fire(run.sizes.baseline_events, plain_mutation, IN_FLIGHT),
        )
    name = f"deliveries a second, {len(messages) // shared} different subscriptions"
    ours_rate, plain_rate = rates(rounds)
    run.report.add(Figure("live", name, "", "higher", ours_rate, IDIOMATIC, plain_rate))


async def bystanders(run: Run, product: Product, mutation: Mutation, watched: str, other: str) -> None:
    """What an event costs when nearly all sockets watch another meter: few of them beside many of them."""

    def watching(meter: str) -> bytes:
        return subscribe_message(FILTERED, {"f": {"meterIds": [meter]}})

    few, many = min(100, run.sizes.bystanders), run.sizes.bystanders
    files = raise_open_files()
    if files < many + 1000:
        many = max(few, files - 1000)
        run.report.say(f"only {many:,} bystanding sockets: the system allows {files:,} open files")
    measured: list[list[float]] = []
    async with opened(product.target, [watching(watched)] * WATCHERS) as (ours, _):
        await ours.warm_up(mutation)
        for crowd in (few, many):
            async with opened(product.target, [watching(other)] * crowd):
                await ours.quiet()
                await ours.fire(5, mutation)
                lone = await ours.fire(run.sizes.latency_events * run.sizes.rounds, mutation)
                measured.append(lone.last_ms)
    name = f"mutation to the last of {WATCHERS} watchers, {many:,} other sockets"
    run.report.add(
        Figure("live", name, "ms", "lower", measured[1], f"Voltwire with {few:,} other sockets", measured[0])
    )
