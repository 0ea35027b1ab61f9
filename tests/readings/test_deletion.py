"""A deleted meter or customer takes all that is stored of its readings along, wherever it is stored."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from app.core import clock
from app.core.clock import HALF_HOUR, parse_utc
from app.readings.carry_over import CarryOver
from app.readings.enums import ReadingQuality
from app.readings.models import HalfHour, MeterKey, ReadingDay, ReadingRevision
from app.tables import metadata
from tests.accounts.state import mutation, state
from tests.meters.asking import NUMBERS, make_meter, run
from tests.readings.metered import Metered, metered, reading
from tests.readings.test_carry_over import count, half_hours, store_as_before
from tests.support import World

pytestmark = pytest.mark.both_databases

DELETE_METER = mutation("deleteMeter", "deletedId")
DELETE_CUSTOMER = mutation("deleteCustomer", "deletedId")
STORED = (HalfHour, ReadingDay, ReadingRevision, MeterKey)
TELLS = {"events", "event_meters"}
"""Tables that tell of a meter after its end."""


async def with_readings(meter: Metered) -> None:
    """Gives a meter days, revisions and half-hours of an earlier version."""
    for channel in ("IMPORT", "EXPORT"):
        for kwh in ("1", "2", "3"):
            await meter.record(reading("00:00", kwh), reading("2024-05-02T00:00:00Z", kwh), channel=channel)
    await store_as_before(meter.world, meter.meter_id, half_hours("4", "10:00", "10:30"))


async def key_of(meter: Metered) -> int:
    async with meter.world.database.reading() as session:
        query = select(MeterKey.key).where(MeterKey.meter_id == meter.meter_id)
        key: int = (await session.execute(query)).scalar_one()
        return key


def traces(rows: dict[str, list[dict[str, Any]]], meter_id: str, key: int) -> Iterator[str]:
    """The tables that hold the meter's id or number."""
    for table in metadata.sorted_tables:
        for row in rows[table.name]:
            if (
                meter_id in repr(row)
                or row.get("meter_key", None) == key
                or (table.name == MeterKey.__tablename__ and row["key"] == key)
            ):
                yield table.name


@pytest.mark.parametrize("whole_customer", [False, True])
async def test_nothing_of_a_deleted_meters_readings_is_left(world: World, whole_customer: bool) -> None:
    meter = await metered(world)
    made = await make_meter(world, meter.account, meter.customer_id, NUMBERS[0])
    other = Metered(world, meter.account, meter.customer_id, made["id"])
    for one in (meter, other):
        await with_readings(one)
    key, kept = await key_of(meter), await key_of(other)
    before = await state(world)
    assert set(traces(before, meter.meter_id, key)) >= {one.__tablename__ for one in STORED}
    if whole_customer:
        payload = await run(world, meter.account, DELETE_CUSTOMER, customerId=meter.customer_id)
    else:
        payload = await run(world, meter.account, DELETE_METER, meterId=meter.meter_id)
    assert payload["userErrors"] == []
    after = await state(world)
    assert set(traces(after, meter.meter_id, key)) <= TELLS
    names = [one.__tablename__ for one in STORED]
    if whole_customer:
        assert set(traces(after, other.meter_id, kept)) <= TELLS
        assert [after[name] for name in names] == [[], [], [], []]
    else:
        for name in names:
            assert after[name] == [row for row in before[name] if is_of(row, other.meter_id, kept)]
            assert after[name]
        data = await other.intervals(**{"from": "2024-05-01T00:00:00Z", "to": "2024-05-03T00:00:00Z"})
        assert data["total"] == "14"


def is_of(row: dict[str, Any], meter_id: str, key: int) -> bool:
    return meter_id in row.values() or row.get("meter_key") == key


@pytest.mark.parametrize("whole_customer", [False, True])
async def test_meters_are_deleted_while_their_half_hours_are_carried_over(
    world: World, whole_customer: bool
) -> None:
    meter = await metered(world)
    made = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS]
    stays = await metered(world, NUMBERS[0])
    times = [f"{hour:02}:{minute}" for hour in range(24) for minute in ("00", "30")]
    meters = [meter.meter_id, *(one["id"] for one in made)]
    for one in (*meters, stays.meter_id):
        await store_as_before(world, one, half_hours("1", *times))

    async def carry() -> None:
        carrying = CarryOver(world.database, 7)
        is_left = True
        while is_left:
            # The worker tries again after an error; here PostgreSQL may end a deadlock with the deletion.
            with suppress(DBAPIError):
                is_left = await carrying.step()

    async def end() -> None:
        if whole_customer:
            payload = await run(world, meter.account, DELETE_CUSTOMER, customerId=meter.customer_id)
            assert payload["userErrors"] == []
            return
        for one in reversed(meters):
            payload = await run(world, meter.account, DELETE_METER, meterId=one)
            assert payload["userErrors"] == []

    await asyncio.gather(carry(), carry(), end())
    assert [await count(world, model) for model in STORED] == [0, 1, 0, 1]
    data = await stays.intervals(**{"from": "2024-05-01T00:00:00Z", "to": "2024-05-02T00:00:00Z"})
    assert (data["total"], data["missingCount"]) == ("48", 0)


async def test_half_hours_that_became_days_are_in_no_file_of_a_deleted_customer(
    small_world: World, tmp_path: Path
) -> None:
    meter = await metered(small_world)
    start = parse_utc("2024-05-01T00:00:00Z")
    values = [(start + at * HALF_HOUR, Decimal(at) / 1000, ReadingQuality.ACTUAL) for at in range(5000)]
    await store_as_before(small_world, meter.meter_id, values)
    # A row of an earlier version has the meter's id and the start one after the other.
    rows = [meter.meter_id.encode() + clock.to_ms(at).to_bytes(6) for at, _, _ in values]
    content = in_files(tmp_path)
    assert all(row in content for row in rows)
    carrying = CarryOver(small_world.database, 1000)
    assert await carrying.step()
    await meter.record(*(reading(at, "9") for at, _, _ in values[3000:4000:48]))
    while await carrying.step():
        pass
    payload = await run(small_world, meter.account, DELETE_CUSTOMER, customerId=meter.customer_id)
    assert payload["userErrors"] == []
    content = in_files(tmp_path)
    assert [row for row in rows if row in content] == []


def in_files(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.iterdir() if one.is_file())
