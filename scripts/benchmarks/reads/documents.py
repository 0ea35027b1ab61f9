"""Documents never seen before: values as literals that are new each time, beside one document with variables."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import orjson

from scripts.benchmarks.harness.api import Api, half_hour, mpan
from scripts.benchmarks.harness.posting import Poster
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.harness.servers import Product, voltwire

BAR: Final = 1.5
POSTS, QUICK_POSTS = 200, 20
DAYS: Final = 30


@dataclass(frozen=True)
class Shape:
    """A document with variables, and the same with literals in their place, which `%s` stands for.

    `values` gives those of the n-th request; `as_variables` gives them the shape of the document's variables.
    """

    name: str
    seen: str
    unseen: str
    values: Callable[[int], Sequence[Any]]
    as_variables: Callable[..., dict[str, Any]]

    def body(self, number: int, *, is_seen: bool) -> bytes:
        values = self.values(number)
        if is_seen:
            return orjson.dumps({"query": self.seen, "variables": self.as_variables(*values)})
        return orjson.dumps({"query": self.unseen % tuple(orjson.dumps(one).decode() for one in values)})


def shapes(customers: Sequence[str], meters: Sequence[str]) -> list[Shape]:
    one, page = "{ id name email }", "{ nodes { id number customer { id name } } pageInfo { endCursor } }"
    events = "{ nodes { id sequence ... on MeterCreatedEvent { meter { number } customer { name } } } }"
    intervals = "{ total intervals { startAt consumption } }"
    made = "{ meter { id number customer { name } } userErrors { code message } }"
    period = "intervalData(from: {}, to: {}, granularity: DAY)"
    start = 48 * DAYS
    return [
        Shape(
            "customer(id:)",
            f"query ($id: ID!) {{ customer(id: $id) {one} }}",
            f"{{ customer(id: %s) {one} }}",
            lambda n: [customers[n % len(customers)]],
            lambda id_: {"id": id_},
        ),
        Shape(
            "meters with their customers",
            f"query ($n: Int, $of: [String!]) {{ meters(first: $n, filter: {{numbers: $of}}) {page} }}",
            f"{{ meters(first: %s, filter: {{numbers: [%s]}}) {page} }}",
            lambda n: [n % 100 + 1, mpan(n % len(meters))],
            lambda first, number: {"n": first, "of": [number]},
        ),
        Shape(
            "events with meter and customer",
            f"query ($n: Int, $of: [ID!]) {{ events(first: $n, filter: {{customerIds: $of}}) {events} }}",
            f"{{ events(first: %s, filter: {{customerIds: [%s]}}) {events} }}",
            lambda n: [n % 100 + 1, customers[n % len(customers)]],
            lambda first, customer: {"n": first, "of": [customer]},
        ),
        Shape(
            "intervals of a meter",
            "query ($id: ID!, $from: DateTime, $to: DateTime) "
            f"{{ meter(id: $id) {{ {period.format('$from', '$to')} {intervals} }} }}",
            f"{{ meter(id: %s) {{ {period.format('%s', '%s')} {intervals} }} }}",
            lambda n: [meters[n % len(meters)], half_hour(48 * n), half_hour(48 * n + start)],
            lambda id_, from_, to: {"id": id_, "from": from_, "to": to},
        ),
        Shape(
            "createMeter",
            f"mutation ($input: CreateMeterInput!) {{ createMeter(input: $input) {made} }}",
            f"mutation {{ createMeter(input: {{customerId: %s, number: %s, description: %s}}) {made} }}",
            lambda n: [customers[n % len(customers)], mpan(10**6 + n), f"Hall {n}"],
            lambda customer, number, text: {
                "input": {"customerId": customer, "number": number, "description": text}
            },
        ),
    ]


async def run_documents(run: Run) -> None:
    await on_database(run, "SQLite", None)
    if await run.on_postgres():
        await on_database(run, "PostgreSQL", await run.databases.create())
    run.report.print_table(
        "documents", f"documents · milliseconds a request, new literals beside variables; bar {1 / BAR:.2f} ×"
    )


async def on_database(run: Run, database: str, database_url: str | None) -> None:
    async with voltwire(run.checkout, run.cores, database_url) as product:
        async with Api(product) as api:
            customers = await api.customers(run.sizes.meters)
            meters = await api.meters(customers)
        for shape in shapes(customers, meters):
            await measure(run, database, product, shape)


async def measure(run: Run, database: str, product: Product, shape: Shape) -> None:
    poster, numbers = Poster(product.target), count()
    posts = QUICK_POSTS if run.quick else POSTS
    unseen, seen = await interleaved(
        run.sizes.rounds,
        lambda: milliseconds(poster, shape, numbers, posts, is_seen=False),
        lambda: milliseconds(poster, shape, numbers, posts, is_seen=True),
    )
    figure = Figure("documents", f"{shape.name}, {database}", "ms", "lower", unseen, "seen", seen)
    run.report.add(figure)
    if figure.ratio is not None and figure.ratio < 1 / BAR:
        run.report.say(f"the bar is NOT met: {figure.name} takes over {BAR} times as long unseen")


async def milliseconds(
    poster: Poster, shape: Shape, numbers: Iterator[int], posts: int, *, is_seen: bool
) -> float:
    """The mean time of a request on one connection."""
    bodies = [shape.body(next(numbers), is_seen=is_seen) for _ in range(posts)]
    started = time.perf_counter()
    for body in bodies:
        await poster.post(body)
    return (time.perf_counter() - started) / posts * 1000
