"""Writes of readings meet clocks that go backwards and disks that are full."""

import asyncio
import random
from functools import partial

import pytest
from sqlalchemy import select, text

from app.core import clock
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.readings import day_rows
from app.readings.day_rows import Change, MeterDay
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.models import ReadingDay
from app.readings.packing import Day, pack, unpack, unpack_origins
from tests.meters.asking import NUMBERS, make_meter
from tests.readings.metered import RECORD, Metered, metered, reading
from tests.support import World

pytestmark = pytest.mark.both_databases

DAY = (clock.to_ms(clock.parse_utc("2024-05-01T00:00:00Z"))) // 86_400_000
REVISIONS = """
query ($id: ID!) { meter(id: $id) { revisions(first: 100) {
  nodes { startAt consumption recordedAt replacedAt }
} } }
"""


def write_at(
    on_sqlite: bool, given: dict[MeterDay, bytes], at: int, _: InTransaction
) -> Script[list[Change]]:
    """Writes as a process does whose clock says so."""
    return day_rows.write_days(on_sqlite, given, ReadingChannel.IMPORT, ReadingReason.PUSH, at)


async def test_revisions_keep_the_order_of_writes_whatever_the_clocks_say(world: World) -> None:
    """Processes whose clocks differ by hours write in turn."""
    meter = await metered(world)
    chance = random.Random(5)
    now = clock.to_ms(clock.now())
    written: dict[int, list[int]] = {slot: [] for slot in range(48)}
    for number in range(1, 40):
        slots = chance.sample(range(48), chance.randint(1, 6))
        amounts = [number * 1000 if slot in slots else 0 for slot in range(48)]
        new = Day(sum(1 << slot for slot in slots), 0, amounts)
        at = now + chance.randint(-10_000_000, 10_000_000)
        given = {MeterDay(meter.meter_id, DAY): pack(new)}
        await world.database.transact(partial(write_at, world.database.is_sqlite, given, at))
        for slot in slots:
            written[slot].append(number)
    data = await world.data(REVISIONS, {"id": meter.meter_id}, key=meter.account.key)
    found: dict[int, list[int]] = {slot: [] for slot in range(48)}
    times: dict[int, str] = {}
    for one in reversed(data["meter"]["revisions"]["nodes"]):
        slot = clock.to_ms(clock.parse_utc(one["startAt"])) // 1_800_000 % 48
        found[slot].append(round(float(one["consumption"]) * 1000))
        assert one["recordedAt"] == times.get(slot, one["recordedAt"])
        assert one["recordedAt"] < one["replacedAt"]
        times[slot] = one["replacedAt"]
    async with world.database.reading() as session:
        [day] = (await session.execute(select(ReadingDay))).scalars()
    held = unpack(day.packed)
    origins = unpack_origins(day.origins, (day.recorded_ms, day.reason), held.present)
    for slot, numbers in written.items():
        assert found[slot] == numbers[:-1]
        assert held.present >> slot & 1 == bool(numbers)
        if numbers:
            assert held.amounts[slot] == numbers[-1] * 1000
        if slot in times:
            assert clock.format_utc(clock.from_ms(origins[slot][0])) == times[slot]


async def test_a_full_disk_keeps_each_write_whole_or_not_at_all(small_world: World) -> None:
    world = small_world
    meter = await metered(world)
    made = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS]
    meters = [meter, *(Metered(world, meter.account, meter.customer_id, one["id"]) for one in made)]
    chance = random.Random(6)
    await bound_pages(world, 30)
    kept: dict[str, dict[str, str]] = {one.meter_id: {} for one in meters}
    revised = full = 0

    async def write(one: Metered, number: int) -> None:
        nonlocal revised, full
        start = chance.randrange(0, 365 * 48)
        starts = [
            clock.format_utc(clock.from_ms((DAY * 48 + at) * 1_800_000)) for at in range(start, start + 400)
        ]
        given = {at: f"{number}.{chance.randrange(1, 10**6):06}" for at in starts}
        answer = await world.ask(
            RECORD,
            {"input": {"meterId": one.meter_id, "readings": [reading(at, kwh) for at, kwh in given.items()]}},
            key=meter.account.key,
        )
        if "errors" in answer:
            full += 1
            return
        assert answer["data"]["recordReadings"]["changed"] == len(given)
        revised += len(given.keys() & kept[one.meter_id].keys())
        kept[one.meter_id] |= given

    for number in range(1, 15):
        await asyncio.gather(*(write(one, number) for one in meters))
    assert full
    assert any(kept.values())
    await bound_pages(world, 1_000_000)
    await write(meter, 99)
    events = await meter.received()
    writes = sum(event.data["intervalCount"] for event in events)
    assert writes == sum(map(len, kept.values())) + revised
    for one in meters:
        found = {}
        for half in (
            ("2024-05-01T00:00:00Z", "2025-04-20T00:00:00Z"),
            ("2025-04-20T00:00:00Z", "2025-06-01T00:00:00Z"),
        ):
            data = await one.intervals(**dict(zip(("from", "to"), half, strict=True)))
            found |= {at["startAt"]: at["consumption"] for at in data["intervals"]}
        assert found == {at: kwh.rstrip("0").rstrip(".") for at, kwh in kept[one.meter_id].items()}


async def bound_pages(world: World, more: int) -> None:
    """Lets the file grow by so many pages."""
    async with world.database.transaction() as session:
        pages = (await session.execute(text("PRAGMA page_count"))).scalar_one()
        await session.execute(text(f"PRAGMA max_page_count = {pages + more}"))
