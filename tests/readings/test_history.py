"""Coverage of meters by readings, and revisions, beside plain counts."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from app.core import clock
from app.core.clock import HALF_HOUR, format_utc, parse_utc
from app.graphql.context import Context
from app.readings.columns import Columns, packed_days
from app.readings.coverage import _Count, _counted
from app.readings.models import HalfHour, MeterKey, ReadingDay
from app.readings.packing import ALL, SLOTS, Day, pack
from app.readings.stored_days import COVERED_DAY, MAX_READ, TURN
from tests.accounts.state import reads
from tests.meters.asking import NUMBERS, make_meter
from tests.readings.metered import Metered, metered, reading
from tests.support import World

COVERAGE = """
query ($id: ID!, $from: DateTime, $to: DateTime) { meter(id: $id) { coverage(from: $from, to: $to) {
  channel from to expected present estimated missing complete latestAt gaps { from to halfHours cause }
} } }
"""
REVISIONS = """
query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {
  meter(id: $id) { revisions(first: $first, after: $after, last: $last, before: $before) {
    nodes { startAt consumption quality reason recordedAt replacedAt }
    edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  } }
}
"""


async def ask(meter: Metered, query: str, **variables: Any) -> Any:
    variables["id"] = meter.meter_id
    return (await meter.world.data(query, variables, key=meter.account.key))["meter"]


@pytest.mark.usefixtures("within_half_hour")
@pytest.mark.both_databases
async def test_coverage_counts_what_is_there_and_lists_the_gaps(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("23:30", "1"), reading("2024-05-02T00:00:00Z", "1", "ESTIMATED"))
    await meter.record(reading("2024-05-02T01:00:00Z", "1"), reading("2024-05-04T12:00:00Z", "1"))
    period = {"from": "2024-05-01T23:00:00Z", "to": "2024-05-02T01:31:00Z"}
    found = (await ask(meter, COVERAGE, **period))["coverage"]
    assert found == {
        "channel": "IMPORT",
        "from": "2024-05-01T23:00:00.000Z",
        "to": "2024-05-02T02:00:00.000Z",
        "expected": 6,
        "present": 3,
        "estimated": 1,
        "missing": 3,
        "complete": False,
        "latestAt": "2024-05-04T12:00:00.000Z",
        "gaps": [
            {
                "from": "2024-05-01T23:00:00.000Z",
                "to": "2024-05-01T23:30:00.000Z",
                "halfHours": 1,
                "cause": None,
            },
            {
                "from": "2024-05-02T00:30:00.000Z",
                "to": "2024-05-02T01:00:00.000Z",
                "halfHours": 1,
                "cause": None,
            },
            {
                "from": "2024-05-02T01:30:00.000Z",
                "to": "2024-05-02T02:00:00.000Z",
                "halfHours": 1,
                "cause": None,
            },
        ],
    }
    whole = {"from": "2024-05-01T23:30:00Z", "to": "2024-05-02T00:30:00Z"}
    found = (await ask(meter, COVERAGE, **whole))["coverage"]
    assert (found["expected"], found["missing"], found["complete"], found["gaps"]) == (2, 0, True, [])
    found = (await ask(meter, COVERAGE))["coverage"]
    today = clock.start_of_uk_day(clock.uk_date(clock.now()))
    expected = (today - parse_utc("2024-05-01T23:30:00Z")) // HALF_HOUR
    assert (found["from"], found["to"]) == ("2024-05-01T23:30:00.000Z", format_utc(today))
    assert (found["expected"], found["present"], len(found["gaps"])) == (expected, 4, 3)


@pytest.mark.both_databases
async def test_a_meter_without_readings_is_not_complete(world: World) -> None:
    meter = await metered(world)
    found = (await ask(meter, COVERAGE))["coverage"]
    assert found["from"] is found["latestAt"] is None
    assert (found["expected"], found["complete"], found["gaps"]) == (0, False, [])
    found = (await ask(meter, COVERAGE, **{"from": "2024-05-01T00:00:00Z", "to": "2024-05-02T00:00:00Z"}))[
        "coverage"
    ]
    assert (found["expected"], found["missing"], len(found["gaps"])) == (48, 48, 1)
    response = await world.ask(
        COVERAGE,
        {"id": meter.meter_id, "from": "2024-05-02T00:00:00Z", "to": "2024-05-02T00:00:00Z"},
        key=meter.account.key,
    )
    assert [one["extensions"] for one in response["errors"]] == [{"code": "BAD_USER_INPUT", "field": ["to"]}]


@given(st.sets(st.integers(0, 150)), st.integers(0, 150), st.integers(1, 100))
def test_gaps_and_readings_make_up_the_period(present: set[int], low: int, length: int) -> None:
    high = low + length
    columns = Columns(list(present), [1] * len(present), [False] * len(present))
    packed = list(packed_days(columns).items())
    count = _Count(low, high)
    for one in packed:
        count.add([one])
    found = count.coverage(None)
    missing = [one for gap in found.gaps for one in range(gap.first, gap.end)]
    assert missing == sorted(set(range(low, high)) - present)
    assert all(gap.end < later.first for gap, later in zip(found.gaps, found.gaps[1:], strict=False))
    assert (found.expected, found.missing) == (length, len(missing))


@pytest.mark.both_databases
async def test_revisions_come_newest_first_page_by_page(world: World) -> None:
    meter = await metered(world)
    times = ["2024-05-01T23:00:00Z", "2024-05-01T23:30:00Z", "2024-05-02T00:00:00Z"]
    for kwh in ("1", "2", "3"):
        await meter.record(*(reading(time, kwh) for time in times))
    await meter.record(reading(times[1], "3", "ESTIMATED"))
    whole = (await ask(meter, REVISIONS))["revisions"]
    shown = [
        (one["startAt"][11:16], one["consumption"], one["quality"], one["reason"]) for one in whole["nodes"]
    ]
    assert shown == [
        ("23:30", "3", "ACTUAL", "PUSH"),
        *((time, kwh, "ACTUAL", "PUSH") for kwh in ("2", "1") for time in ("00:00", "23:30", "23:00")),
    ]
    newest, *_, oldest = whole["nodes"]
    assert oldest["recordedAt"] < oldest["replacedAt"] <= newest["recordedAt"] < newest["replacedAt"]
    # The value that replaced another was recorded when it did.
    assert whole["nodes"][5]["replacedAt"] == whole["nodes"][2]["recordedAt"]
    for size in (1, 2, 3, 6, 7):
        for limit, cursor, place, more in (
            ("first", "after", "endCursor", "hasNextPage"),
            ("last", "before", "startCursor", "hasPreviousPage"),
        ):
            pages: list[Any] = []
            arguments: dict[str, Any] = {}
            while not pages or pages[-1]["pageInfo"][more]:
                pages.append((await ask(meter, REVISIONS, **{limit: size}, **arguments))["revisions"])
                arguments = {cursor: pages[-1]["pageInfo"][place]}
            ordered = pages if limit == "first" else pages[::-1]
            assert [one for page in ordered for one in page["nodes"]] == whole["nodes"]
    response = await world.ask(
        REVISIONS, {"id": meter.meter_id, "after": "bm9uc2Vuc2U"}, key=meter.account.key
    )
    assert [one["extensions"] for one in response["errors"]] == [
        {"code": "BAD_USER_INPUT", "field": ["after"]}
    ]


@pytest.mark.both_databases
async def test_the_histories_of_many_meters_are_read_together(world: World) -> None:
    meter = await metered(world)
    made = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS]
    for at, meter_id in enumerate([meter.meter_id, *(one["id"] for one in made)]):
        one = Metered(world, meter.account, meter.customer_id, meter_id)
        await one.record(reading("00:00", str(at)))
        await one.record(reading("00:00", str(at + 1)))
    for field, statements, shown in (
        (
            'coverage(from: "2024-05-01T00:00:00Z", to: "2024-05-01T00:30:00Z") { complete }',
            3,
            {"complete": True},
        ),
        ("revisions { nodes { quality } }", 2, {"nodes": [{"quality": "ACTUAL"}]}),
    ):
        with reads(world.database) as sent:
            nodes = (await world.data(f"{{ meters {{ nodes {{ {field} }} }} }}", key=meter.account.key))[
                "meters"
            ]["nodes"]
        assert [next(iter(one.values())) for one in nodes] == [shown] * 6
        assert len([one for one in sent if "FROM api_keys" not in one]) == statements


WHOLE = pack(Day(ALL, 0, [1000] * SLOTS))
FIRST = (parse_utc("2020-01-01T00:00:00Z") - parse_utc("1970-01-01T00:00:00Z")).days


async def store_days(world: World, meter_ids: list[str], days: range) -> None:
    """Stores whole days."""
    async with world.database.transaction() as session:
        await session.execute(insert(MeterKey), [{"meter_id": one} for one in meter_ids])
        keys = await session.execute(select(MeterKey.key).where(MeterKey.meter_id.in_(meter_ids)))  # type: ignore[attr-defined]
        given = [
            {"meter_key": key, "channel": 0, "reason": 0, "recorded_ms": 0, "day": day, "packed": WHOLE}
            for key in keys.scalars()
            for day in days
        ]
        await session.execute(insert(ReadingDay), given)


def period(first: int, end: int) -> str:
    low, high = (format_utc(clock.from_ms(day * 86_400_000)) for day in (first, end))
    return f'(from: "{low}", to: "{high}")'


@pytest.mark.both_databases
async def test_a_page_of_meters_has_room_for_a_year(world: World) -> None:
    meter = await metered(world)
    numbers = [str(1_000_000 + at) for at in range(99)]
    made = [await make_meter(world, meter.account, meter.customer_id, one) for one in numbers]
    days = range(FIRST, FIRST + 366)
    await store_days(world, [meter.meter_id, *(one["id"] for one in made)], days)
    field = f"coverage{period(days.start, days.stop)} {{ expected present complete gaps {{ from }} }}"
    data = await world.data(f"{{ meters(first: 100) {{ nodes {{ {field} }} }} }}", key=meter.account.key)
    half_hours = 366 * SLOTS
    whole = {"expected": half_hours, "present": half_hours, "complete": True, "gaps": []}
    assert [one["coverage"] for one in data["meters"]["nodes"]] == [whole] * 100


@pytest.mark.both_databases
async def test_coverage_is_refused_and_never_cut(world: World) -> None:
    meter = await metered(world)
    most = MAX_READ // COVERED_DAY
    await store_days(world, [meter.meter_id], range(most + 1))

    async def answer(*periods: str) -> Any:
        fields = " ".join(f"f{at}: coverage{one} {{ complete present }}" for at, one in enumerate(periods))
        response = await world.ask(
            f'{{ meter(id: "{meter.meter_id}") {{ {fields} }} }}', key=meter.account.key
        )
        if "errors" in response:
            return {tuple(one["extensions"].items()) for one in response["errors"]}
        return [response["data"]["meter"][f"f{at}"]["complete"] for at in range(len(periods))]

    refused = {(("code", "QUERY_TOO_COMPLEX"), ("limit", MAX_READ))}
    assert await answer(period(0, most)) == [True]
    assert await answer(period(0, most + 1)) == refused
    # Periods of one operation share the bound, and so do intervals.
    assert await answer(period(0, most // 2), period(most // 2, most)) == [True, True]
    assert await answer(period(0, most // 2), period(most // 2, most + 1)) == refused
    assert await answer(*[period(0, most + at) for at in range(5)]) == refused
    intervals = f"intervalData{period(0, 1)[:-1]}, granularity: YEAR) {{ total }}"
    query = f'{{ meter(id: "{meter.meter_id}") {{ coverage{period(0, most)} {{ missing }} {intervals} }} }}'
    [error] = (await world.ask(query, key=meter.account.key))["errors"]
    assert error["extensions"] == {"code": "QUERY_TOO_COMPLEX", "limit": MAX_READ}


@pytest.mark.both_databases
async def test_half_hours_of_before_days_count_and_are_not_cut_either(world: World) -> None:
    meter = await metered(world)
    row = {"meter_id": meter.meter_id, "micro_kwh": 1, "estimated": 0}
    rows = [{**row, "start_ms": at * 1_800_000} for at in range(MAX_READ + SLOTS)]
    async with world.database.transaction() as session:
        for at in range(0, len(rows), 20_000):
            await session.execute(insert(HalfHour), rows[at : at + 20_000])
    query = '{{ meter(id: "{}") {{ coverage{} {{ complete present }} }} }}'
    within = query.format(meter.meter_id, period(0, MAX_READ // SLOTS))
    found = (await world.data(within, key=meter.account.key))["meter"]["coverage"]
    assert found == {"complete": True, "present": MAX_READ // SLOTS * SLOTS}
    beyond = query.format(meter.meter_id, period(0, MAX_READ // SLOTS + 1))
    [error] = (await world.ask(beyond, key=meter.account.key))["errors"]
    assert error["extensions"] == {"code": "QUERY_TOO_COMPLEX", "limit": MAX_READ}


async def turns_while(work: Any) -> int:
    """How many turns of the loop others get while something runs that waits for nothing else."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await work
    task.cancel()
    return turns


async def test_others_get_their_turns_while_many_days_are_counted() -> None:
    days = [(day, WHOLE) for day in range(5 * TURN)]
    assert await turns_while(_counted(days, 0, 5 * TURN * SLOTS)) >= 5


async def test_fields_with_long_lists_go_on_one_in_a_turn() -> None:
    nothing: Any = None
    context = Context(nothing, None)
    assert await turns_while(asyncio.gather(*[context.turn() for _ in range(20)])) >= 20
