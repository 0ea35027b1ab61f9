"""Readings that a version before days stored: they count the same before, while and after they are carried over."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select

from app.core import clock
from app.core.clock import parse_utc
from app.core.decimals import to_micro
from app.meters.models import Meter
from app.readings.carry_over import CarryOver
from app.readings.enums import ReadingQuality
from app.readings.models import HalfHour, MeterKey, ReadingDay, ReadingRevision
from app.readings.packing import slots, unpack, unpack_origins
from tests.core.killed import killed_at
from tests.meters.asking import NUMBERS, make_meter
from tests.readings.generated_year import (
    GENERATED_JANUARY,
    GENERATED_TOTAL,
    YearReading,
    generated_year,
)
from tests.readings.metered import Metered, metered, reading
from tests.readings.test_intervals import expect_year
from tests.support import World

pytestmark = pytest.mark.both_databases

RECORDED = parse_utc("2024-12-02T01:02:03.456Z")
DAY = {"from": "2024-05-01T00:00:00Z", "to": "2024-05-02T00:00:00Z"}


async def store_as_before(
    world: World, meter_id: str, readings: Sequence[YearReading], at: datetime = RECORDED
) -> None:
    """Stores readings as versions before days did."""
    given = [
        {
            "meter_id": meter_id,
            "start_ms": clock.to_ms(start),
            "micro_kwh": to_micro(kwh),
            "estimated": int(quality is ReadingQuality.ESTIMATED),
            "recorded_at": at,
        }
        for start, kwh, quality in readings
    ]
    async with world.database.transaction() as session:
        await session.execute(insert(HalfHour), given)


def half_hours(kwh: str, *times: str) -> list[YearReading]:
    return [(parse_utc(f"2024-05-01T{time}:00Z"), Decimal(kwh), ReadingQuality.ACTUAL) for time in times]


async def count(world: World, model: Any) -> int:
    async with world.database.reading() as session:
        found: int = (await session.execute(select(func.count()).select_from(model))).scalar_one()
        return found


async def carry_all(world: World, at_once: int = 1000) -> None:
    carrying = CarryOver(world.database, at_once)
    while await carrying.step():
        pass


async def test_a_year_reads_the_same_before_while_and_after_it_is_carried_over(world: World) -> None:
    meter = await metered(world)
    year = generated_year()
    await store_as_before(world, meter.meter_id, year)

    async def look() -> None:
        await expect_year(meter, year, GENERATED_TOTAL, GENERATED_JANUARY)

    await look()
    carrying = CarryOver(world.database, 5000)
    with killed_at("carry_over.before_commit"):
        await carrying.step()
    assert await count(world, HalfHour) == len(year)
    assert await carrying.step()
    await look()
    # Another process goes on where this one ended, wherever it was killed.
    with killed_at("transaction.before_commit"):
        await CarryOver(world.database, 5000).step()
    with killed_at("transaction.committed"):
        await CarryOver(world.database, 777).step()
    # The days that are begun are carried over whole.
    assert await count(world, HalfHour) == len(year) - (105 + 17) * 48
    await look()
    await carry_all(world, 5000)
    assert await count(world, HalfHour) == 0
    await look()
    async with world.database.reading() as session:
        recorded = select(ReadingDay.recorded_ms, ReadingDay.origins, ReadingDay.reason).distinct()
        assert (await session.execute(recorded)).all() == [(clock.to_ms(RECORDED), None, 0)]
    assert await count(world, ReadingRevision) == 0
    assert await meter.received() == []


async def test_a_carried_half_hour_keeps_when_it_was_recorded(world: World) -> None:
    meter = await metered(world)
    later = RECORDED + timedelta(hours=1)
    await store_as_before(world, meter.meter_id, half_hours("1", "00:00", "10:00"))
    await store_as_before(world, meter.meter_id, half_hours("2", "09:30"), later)
    await carry_all(world, 2)
    async with world.database.reading() as session:
        (day,) = (await session.execute(select(ReadingDay))).scalars()
    found = unpack(day.packed)
    assert [found.amounts[slot] for slot in slots(found.present)] == [1_000_000, 2_000_000, 1_000_000]
    origins = unpack_origins(day.origins, (day.recorded_ms, day.reason), found.present)
    assert origins == {
        0: (clock.to_ms(RECORDED), 0),
        19: (clock.to_ms(later), 0),
        20: (clock.to_ms(RECORDED), 0),
    }


async def test_writes_meet_what_is_not_carried_over_yet(world: World) -> None:
    meter = await metered(world)
    await store_as_before(world, meter.meter_id, half_hours("1", "00:00", "00:30", "01:00"))
    payload = await meter.record(reading("00:00", "1"), reading("00:30", "2"), reading("02:00", "4"))
    assert (payload["accepted"], payload["changed"]) == (3, 2)
    # The day that was written has them all; other days wait.
    assert await count(world, HalfHour) == 0
    [event] = await meter.received()
    assert (event.data["from"], event.data["to"]) == ("2024-05-01T00:30:00.000Z", "2024-05-01T02:30:00.000Z")
    assert [one["consumption"] for one in (await meter.intervals(**DAY))["intervals"]] == ["1", "2", "1", "4"]
    async with world.database.reading() as session:
        (revision,) = (await session.execute(select(ReadingRevision))).scalars()
    was = unpack(revision.packed)
    assert (slots(was.present), was.amounts[1]) == ([1], 1_000_000)
    assert (revision.recorded_ms, revision.reason) == (clock.to_ms(RECORDED), 0)


async def test_a_half_hour_that_an_older_process_writes_later_counts(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"), reading("00:30", "2", "ESTIMATED"))
    await store_as_before(world, meter.meter_id, half_hours("3", "00:30", "23:30"), clock.now())
    for _ in range(2):
        data = await meter.intervals(**DAY)
        assert [(one["consumption"], one["quality"]) for one in data["intervals"]] == [
            ("1", "ACTUAL"),
            ("3", "ACTUAL"),
            ("3", "ACTUAL"),
        ]
        # By default the last day with data.
        last = await meter.intervals()
        assert (last["from"], last["total"]) == ("2024-05-01T23:00:00.000Z", "3")
        await carry_all(world)
    assert await count(world, ReadingRevision) == 1


async def test_many_meters_are_carried_over_by_several_workers_beside_a_writer(world: World) -> None:
    meter = await metered(world)
    made = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS]
    meters = [meter, *(Metered(world, meter.account, meter.customer_id, one["id"]) for one in made)]
    times = [f"{hour:02}:{minute}" for hour in range(24) for minute in ("00", "30")]
    for one in meters:
        await store_as_before(world, one.meter_id, half_hours("1", *times))
    await asyncio.gather(
        carry_all(world, 7),
        carry_all(world, 11),
        *(one.record(reading(time, "2")) for one in meters for time in times[::16]),
    )
    for one in meters:
        data = await one.intervals(**DAY)
        assert (data["total"], data["missingCount"]) == ("51", 0)
    assert await count(world, HalfHour) == 0
    assert len(await meter.received()) == 3 * len(meters)


async def test_a_deleted_meter_takes_its_days_and_half_hours_along(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"))
    await meter.record(reading("00:00", "2"))
    await store_as_before(world, meter.meter_id, half_hours("3", "10:00"))
    models = (HalfHour, ReadingDay, ReadingRevision, MeterKey)
    assert [await count(world, model) for model in models] == [1] * 4
    async with world.database.transaction() as session:
        await session.execute(delete(Meter))
    assert [await count(world, model) for model in models] == [0] * 4
