"""More nested reads beside their idiomatic counterparts: lists within lists, events, a year by half-hour and by day."""

from dataclasses import dataclass, replace

from scripts.benchmarks.harness.api import Api, csv_gzip, half_hour
from scripts.benchmarks.harness.load import side_by_side
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.run import Run
from scripts.benchmarks.harness.servers import Voltwire, uvicorn

IDIOMATIC = "idiomatic Strawberry + SQLModel"
APP = "scripts.benchmarks.baselines.nested_app:app"
CUSTOMERS, EACH = 20, 10
FEW, MANY = (2,), (8,)


@dataclass(frozen=True)
class Read:
    """A query in the words of either side."""

    name: str
    ours: str
    theirs: str
    connections: tuple[int, ...] = MANY


def reads(meter_id: str, half_hours: int) -> list[Read]:
    meters = "meters(first: 10) { nodes { number hostedConsent { status } } }"
    listed = f"{{ customers(first: 20) {{ nodes {{ name {meters} }} }} }}"
    meter, customer = "meter { id number }", "customer { id name }"
    event = "id sequence occurredAt"
    intervals = "{ total intervals { startAt endAt consumption quality } }"
    span = f'from: "{half_hour(0)}", to: "{half_hour(half_hours)}"'
    by_day = f"{span}, granularity: DAY"
    return [
        Read("20 customers, 10 meters each", listed, listed),
        Read(
            "100 events, meter and customer",
            f"{{ events(first: 100, filter: {{types: [METER_CREATED]}}) {{ nodes {{ {event} "
            f"... on MeterCreatedEvent {{ {meter} {customer} }} }} }} }}",
            f"{{ events(first: 100) {{ nodes {{ {event} {meter} {customer} }} }} }}",
        ),
        Read(
            f"{half_hours:,} half-hours of a meter",
            f'{{ meter(id: "{meter_id}") {{ intervalData({span}) {intervals} }} }}',
            f'{{ meter(id: "mtr_1") {{ intervalData({span}) {intervals} }} }}',
            # Answers of megabytes: more would only wait for each other.
            FEW,
        ),
        Read(
            f"{half_hours:,} half-hours of a meter by day",
            f'{{ meter(id: "{meter_id}") {{ intervalData({by_day}) {intervals} }} }}',
            f'{{ meter(id: "mtr_1") {{ intervalData({by_day}) {intervals} }} }}',
            FEW,
        ),
    ]


async def nested_reads(run: Run, database: str, product: Voltwire, baseline_url: str) -> None:
    """Requests a second of both sides, each over an account that holds just what is read."""
    target, wanted = await prepared(run, product)
    env = {"BENCH_DATABASE_URL": baseline_url, "BENCH_HALF_HOURS": str(run.sizes.half_hours)}
    async with uvicorn(APP, run.cores, env) as server:
        for one in wanted:
            await beside(run, database, one, target, one.ours, IDIOMATIC, Target(server.port), one.theirs)


async def nested_reads_against(run: Run, database: str, new: Voltwire, old: Voltwire, name: str) -> None:
    """The same on two revisions, whose meters have ids of their own."""
    target, wanted = await prepared(run, new)
    other, same = await prepared(run, old)
    for one, two in zip(wanted, same, strict=True):
        await beside(run, database, one, target, one.ours, name, other, two.ours)


async def prepared(run: Run, product: Voltwire) -> tuple[Target, list[Read]]:
    account_id, key = product.installation.account("Nested")
    half_hours = run.sizes.half_hours
    async with Api(replace(product, account_id=account_id, api_key=key)) as api:
        meters = await fill(api, half_hours)
    return Target(product.port, headers=(("x-api-key", key),)), reads(meters[0], half_hours)


async def beside(
    run: Run, database: str, read: Read, ours: Target, query: str, name: str, theirs: Target, other: str
) -> None:
    what, counts = read.name, read.connections
    await side_by_side(run, database, ours, query, name, theirs, other, what=what, counts=counts)


async def fill(api: Api, half_hours: int) -> list[str]:
    """Ids of the meters of twenty customers, each with a consent; the first meter has readings."""
    customers = await api.customers(CUSTOMERS)
    meters = await api.meters([one for one in customers for _ in range(EACH)])
    for one in customers:
        await api.consent(one)
    await api.upload(csv_gzip(meters[:1], 0, half_hours))
    return meters
