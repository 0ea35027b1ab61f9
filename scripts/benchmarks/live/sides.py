"""Both sides of a comparison of live events: Voltwire, the idiomatic app, or another revision of Voltwire."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Self, cast

import orjson

from scripts.benchmarks.harness.api import Api, mpan, mutation_text, record_body
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Checkout, Server, Voltwire, uvicorn, voltwire
from scripts.benchmarks.live.sockets import Fanout, Round, subscribe_message

IN_FLIGHT = 4
SANSIO = ("--ws", "websockets-sansio", "--ws-per-message-deflate", "false")
IDIOMATIC = "idiomatic Strawberry + broadcaster"
LONG_NAME = "The Benchmark Company of Some Length, Limited ({:05d})"

EVENT = (
    "events{filter} {{ id name sequence occurredAt ... on MeterDataReceivedEvent"
    " {{ meter {{ id number type customer {{ id name email }} }} }} }}"
)
SUBSCRIPTION = "subscription { " + EVENT.format(filter="") + " }"
CREATED = SUBSCRIPTION.replace("MeterDataReceivedEvent", "MeterCreatedEvent")
CREATE = mutation_text("createMeter", "meter { id }")
METER = "query($id: ID!) { meter(id: $id) { id number type customer { id name email } } }"

Mutation = Callable[[], bytes]


def new_readings(meter_id: str, first: int = 0) -> Mutation:
    """Each call is a request that records one reading more."""
    numbers = count(first)
    return lambda: record_body(meter_id, next(numbers))


def new_meters(customer_id: str) -> Mutation:
    """Each call is a request that creates one meter more."""
    # Behind the meters that are there before.
    numbers = count(1000)

    def request() -> bytes:
        values = {"input": {"customerId": customer_id, "number": mpan(next(numbers))}}
        return orjson.dumps({"query": CREATE, "variables": values})

    return request


def customer_of(meter: dict[str, object]) -> dict[str, str]:
    return cast(dict[str, str], meter["customer"])


@dataclass(frozen=True)
class Side:
    """A server of a comparison: its name, how it is asked for events, and how many make a round."""

    name: str
    target: Target
    # A reading, or a meter; either is an event.
    mutation: Mutation
    create: Mutation
    events: int
    lone_events: int
    # Another process of it that has done nothing yet.
    fresh: Callable[[], AbstractAsyncContextManager[Server]]

    def at(self, port: int) -> Self:
        """The same at another port."""
        return replace(self, target=replace(self.target, port=port))

    def halved(self) -> Self:
        """The same with half the events in a round, where each takes longer."""
        return replace(self, events=max(1, self.events // 2))

    async def burst(self, fanout: Fanout) -> Round:
        return await fanout.fire(self.events, self.mutation, IN_FLIGHT)

    async def lone(self, fanout: Fanout) -> Round:
        return await fanout.fire(self.lone_events, self.mutation)


@dataclass(frozen=True)
class Watched(Side):
    """A Voltwire with an account whose first meter gets the readings, and whose second gets none."""

    product: Voltwire
    meter: dict[str, object]
    other: str

    def plain_asgi(self, run: Run) -> AbstractAsyncContextManager[Server]:
        """The same under a server that does not lend it its transport."""
        installation = self.product.installation
        checkout = installation.checkout
        # Each revision starts its own way, from where its benchmarks are.
        (file,) = checkout.root.glob("*/bench*/baselines/asgi_app.py")
        app = ".".join(file.relative_to(checkout.root).with_suffix("").parts)
        return uvicorn(f"{app}:app", run.cores, installation.env, SANSIO, checkout.root, checkout.python)


@asynccontextmanager
async def watched(run: Run, checkout: Checkout, name: str = "") -> AsyncIterator[Watched]:
    async with voltwire(checkout, run.cores) as product:
        async with Api(product) as api:
            meter_id, other = await api.metered_customer(2, LONG_NAME)
            meter = (await api.run(METER, {"id": meter_id}))["meter"]
        sizes, mutation = run.sizes, new_readings(meter_id)
        yield Watched(
            name,
            product.target,
            mutation,
            new_meters(customer_of(meter)["id"]),
            sizes.events,
            sizes.latency_events,
            product.installation.serve,
            product,
            meter,
            other,
        )


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
async def baseline(run: Run, meter: dict[str, object]) -> AsyncIterator[Side]:
    def fresh() -> AbstractAsyncContextManager[Server]:
        return uvicorn(
            "scripts.benchmarks.baselines.live_app:app", run.cores, {"BENCH_METER": json.dumps(meter)}
        )

    events = run.sizes.baseline_events
    async with fresh() as server:
        mutation, create = new_readings(str(meter["id"])), new_meters(customer_of(meter)["id"])
        yield Side(IDIOMATIC, Target(server.port), mutation, create, events, events, fresh)


async def same_length(run: Run, ours: Watched, wanted: float) -> dict[str, object]:
    """The meter with its customer's name cut or padded until both sides' messages are equally long."""
    async with baseline(run, ours.meter) as plain:
        difference = round(wanted - await frame_bytes(plain.target, plain.mutation))
    customer = dict(customer_of(ours.meter))
    name = customer["name"]
    customer["name"] = name[:difference] if difference < 0 else name + "." * difference
    return ours.meter | {"customer": customer}
