"""Answers with intervals are byte by byte those of execution field by field."""

import gc
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from app.core.clock import HALF_HOUR, format_utc, from_ms, parse_utc, to_ms
from app.db.database import run_script
from app.graphql.context import Context
from app.graphql.engine import Engine, dumps
from app.readings import intervals
from app.readings.actions import lock_meters, write_channels
from app.readings.aggregation import aggregate
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, packed_days
from app.readings.enums import Granularity, ReadingChannel
from app.readings.interval_json import IntervalWriter
from app.readings.intervals import Intervals
from app.readings.packing import ALL, SLOTS, Day, pack
from tests.graphql.compiled.documents import dropping
from tests.graphql.compiled.test_compiled import WIDE
from tests.graphql.serving import serving
from tests.live.event_streams import stream
from tests.meters.asking import NUMBERS, make_meter
from tests.readings.metered import Metered, metered, reading
from tests.readings.test_history import turns_while
from tests.support import World, the_schema

pytestmark = pytest.mark.both_databases

# A change of the clock, the end of a year, and a day like any other.
STARTS = ("2024-03-29T20:00:00Z", "2024-10-25T22:30:00Z", "2023-12-30T07:00:00Z", "2024-06-03T23:00:00Z")
SELECTIONS = (
    "total missingCount intervals { startAt endAt consumption quality missingCount }",
    "intervals { startAt consumption }",
    "intervals { __typename quality c: consumption a: startAt b: startAt d: consumption }",
    "from intervals { ...Short quality @skip(if: $yes) missingCount @include(if: $yes) } to",
    "intervals { startAt } intervals { endAt ... on Interval { endAt x: __typename } }",
    "intervals { endAt @skip(if: $yes) }",
    "total a: intervals { consumption } b: intervals { quality } meter { number }",
)


async def stored(world: World, meter: Metered, chance: random.Random) -> list[str]:
    """Ids of three meters with readings of random presence, precision and quality, one of them without any."""
    others = [await make_meter(world, meter.account, meter.customer_id, one) for one in NUMBERS[:2]]
    ids = [meter.meter_id, *(one["id"] for one in others)]
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    for start in STARTS:
        for meter_id in ids[:2]:
            share, unit = chance.choice([1, 1, 0.9, 0.1]), 10 ** chance.randint(0, 6)
            most, doubt = chance.choice([0, 9, 5000, 10**12 // unit]), chance.choice([0, 0, 0.2, 1])
            first = to_ms(parse_utc(start)) // HALF_HOUR_MS
            starts = [first + slot for slot in range(7 * 48) if chance.random() < share]
            amounts = [chance.randint(0, most) * unit for _ in starts]
            estimated = [chance.random() < doubt for _ in starts]
            days = packed_days(Columns(starts, amounts, estimated))
            async with world.database.transaction() as session:
                meters = await run_script(session, lock_meters(actor, [meter_id]))
                new = {ReadingChannel.IMPORT: {meter_id: days}}
                await run_script(session, write_channels(session, meters, new))
    return ids


def period(chance: random.Random) -> str:
    begin = parse_utc(chance.choice(STARTS)) + chance.randint(-30, 200) * HALF_HOUR
    end = begin + timedelta(minutes=chance.choice([17, 30, 60 * 23, 60 * 24 * 3, 60 * 24 * 11]))
    given = f'from: "{format_utc(begin)}", to: "{format_utc(end)}"'
    backwards = f'from: "{format_utc(end)}", to: "{format_utc(begin)}"'
    ages = 'from: "2023-12-30T00:00:00Z", to: "2024-10-31T00:00:00Z"'
    return chance.choice([given] * 6 + ['lookback: "1w"', 'lookback: "2x"', backwards, ages])


def document(chance: random.Random, ids: list[str]) -> str:
    def data() -> str:
        by = chance.choice([Granularity.HALF_HOUR] * 3 + list(Granularity)).name
        arguments = chance.choice(["", f"({period(chance)}, granularity: {by})"])
        return f"intervalData{arguments} {{ {chance.choice(SELECTIONS)} }}"

    meter_id = chance.choice(ids)
    roots = chance.choice(
        [
            f'meter(id: "{meter_id}") {{ number {data()} own: {data()} }}',
            f"meters {{ nodes {{ id {data()} }} edges {{ node {{ other: {data()} }} }} }}",
            f"customers {{ nodes {{ meters {{ nodes {{ {data()} }} }} }} }}",
            f"events {{ nodes {{ ... on MeterCreatedEvent {{ meter {{ {data()} }} }} }} }}",
            data().replace("intervalData(", f'intervalData(meterId: "{meter_id}", ')
            if chance.random() < 0.5
            else f'one: meter(id: "{ids[0]}") {{ {data()} }} two: meter(id: "{ids[1]}") {{ {data()} }}',
        ]
    )
    return (
        f"query ($yes: Boolean = true) {{ {roots} }} fragment Short on Interval {{ startAt z: consumption }}"
    )


async def answer(world: World, engine: Engine, query: str, meter: Metered, **variables: Any) -> bytes:
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    prepared = engine.prepare(query, None, authenticated=True)
    response = await engine.execute(prepared, variables, Context(world.services, actor))
    # Errors are in the order in which fields happened to fail.
    response.get("errors", []).sort(key=orjson.dumps)
    return dumps(response)


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    # Dropped coroutines are collected here, not in another test.
    gc.collect()


@dropping
@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(4))
async def test_random_readings_have_the_same_answers(
    world: World, turn: int, seed: str, collected: None
) -> None:
    chance, meter = random.Random(seed), await metered(world)
    ids = await stored(world, meter, chance)
    compiled, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    for _ in range(25):
        query = document(chance, ids)
        if "...Short" not in query:
            query = query[: query.rindex("fragment")]
        if "$yes)" not in query:
            query = query.removeprefix("query ($yes: Boolean = true) ")
        variables = {"yes": chance.random() < 0.5} if "$yes" in query else {}
        expected = await answer(world, ordinary, query, meter, **variables)
        assert await answer(world, compiled, query, meter, **variables) == expected, query


async def test_a_lookback_of_days_without_readings_is_an_empty_list(world: World) -> None:
    meter = await metered(world)
    query = f'{{ meter(id: "{meter.meter_id}") {{ intervalData(lookback: "1y") {{ intervals {{ startAt }} }} }} }}'
    data = await world.data(query, key=meter.account.key)
    assert data == {"meter": {"intervalData": {"intervals": []}}}


async def test_every_transport_sends_the_same_bytes(world: World) -> None:
    meter, start = await metered(world), parse_utc("2024-10-26T22:00:00Z")
    await meter.record(
        *(
            reading(start + slot * HALF_HOUR, f"{slot}.05", "ESTIMATED" if slot % 7 else None)
            for slot in range(99)
        )
    )
    period = 'from: "2024-10-26T23:00:00Z", to: "2024-11-27T00:00:00Z"'
    query = f'{{ meter(id: "{meter.meter_id}") {{ intervalData({period}) {{ {SELECTIONS[0]} }} }} }}'
    expected = await answer(world, Engine(the_schema(), WIDE, compiled=False), query, meter)
    headers = {"x-api-key": meter.account.key}
    async with serving(world) as served, httpx.AsyncClient(headers=headers) as client:
        for coding in ("gzip", "identity"):
            posted = await client.post(
                served.http_url, json={"query": query}, headers={"accept-encoding": coding}
            )
            assert posted.headers.get("content-encoding", "identity") == coding
            assert posted.content == expected
        got = await client.get(served.http_url, params={"query": query})
        assert got.content == expected
        known = {"if-none-match": got.headers["etag"]}
        assert (await client.get(served.http_url, params={"query": query}, headers=known)).status_code == 304
        async with stream(served, meter.account.key, query) as reader:
            block = await reader.block()
            while block is not None and "data" not in block:
                block = await reader.block()
            assert block is not None
            assert block["data"] == expected.decode()
        async with served.connect(meter.account.key) as socket:
            await socket.subscribe(query)
            heard = await socket.connection.recv()
            assert heard == f'{{"id":"1","type":"next","payload":{expected.decode()}}}'


@pytest.mark.parametrize("granularity", [Granularity.HALF_HOUR, Granularity.HOUR])
async def test_others_get_their_turns_while_many_intervals_are_written(granularity: Granularity) -> None:
    days = [(day, pack(Day(ALL, 0, [1] * SLOTS))) for day in range(400)]
    start, end = from_ms(0), from_ms(400 * SLOTS * HALF_HOUR_MS)
    found = Intervals(start, end, aggregate(days, granularity, start, end, end), days)
    nothing: Any = None
    written = intervals.written(Context(nothing, None), IntervalWriter("Interval", {"at": "start"}), found)
    assert await turns_while(written) >= (10 if granularity is Granularity.HALF_HOUR else 5)
