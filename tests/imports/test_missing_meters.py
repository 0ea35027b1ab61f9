"""Meters that a file names: found by number, id and serial number, or made for a customer."""

import io
import zipfile

import pytest

from app.imports.stages.reading import METERS_AT_ONCE
from app.meters.numbers import mpan_check_digit
from tests.accounts.state import events
from tests.imports.importing import HEADER, Shown, csv, imported, values
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import metered
from tests.support import World

pytestmark = pytest.mark.both_databases


async def test_a_meter_is_found_by_its_id(world: World) -> None:
    meter = await metered(world)
    by_id = HEADER.replace("meter_number", "meter_id") + csv(meter.meter_id, "1", header="")
    found = await imported(world, meter.account.key, by_id)
    assert (found["status"], found["readingsChanged"]) == ("COMPLETED", 1)


async def test_half_hours_that_two_names_of_one_meter_give_are_told(world: World) -> None:
    meter = await metered(world)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        by_id = HEADER.replace("meter_number", "meter_id") + csv(meter.meter_id, "1", header="")
        archive.writestr("by_id.csv", by_id)
        archive.writestr("by_number.csv", csv(METER_NUMBER, "2", "3"))
    found = await imported(world, meter.account.key, packed.getvalue(), onProblem="skip")
    assert (found["status"], found["readingsChanged"], found["meterCount"]) == ("COMPLETED", 2, 1)
    assert Shown.of(found).problems == [(2, "DUPLICATE")]
    assert await values(meter) == ["1", "3"]


async def test_missing_meters_are_made_for_the_customer(world: World) -> None:
    meter = await metered(world)
    content = HEADER + "".join(csv(number, "1", "2", header="") for number in (METER_NUMBER, *NUMBERS[:2]))
    refused = await imported(world, meter.account.key, content, customerId=meter.customer_id)
    assert (refused["status"], Shown.of(refused).problems) == (
        "FAILED",
        [(4, "UNKNOWN_METER"), (6, "UNKNOWN_METER")],
    )
    asked = {"customerId": meter.customer_id, "createMissing": "true"}
    shown = await imported(world, meter.account.key, content, dryRun="true", **asked)
    assert (shown["status"], shown["problemCount"], shown["meterCount"]) == ("PREVIEW", 0, 3)
    assert [one["meterId"] for one in shown["preview"]["meters"]] == [meter.meter_id, None, None]
    meters = await world.data("{ meters { nodes { number } } }", key=meter.account.key)
    assert len(meters["meters"]["nodes"]) == 1
    found = await imported(world, meter.account.key, content, **asked)
    assert (found["status"], found["readingsChanged"], found["meterCount"]) == ("COMPLETED", 6, 3)
    meters = await world.data("{ meters { nodes { number } } }", key=meter.account.key)
    assert {one["number"] for one in meters["meters"]["nodes"]} == {METER_NUMBER, *NUMBERS[:2]}
    log = [one.type for one in await events(world, meter.account.id)]
    assert log.count("meter.created") == 3
    assert log.count("meter_data.received") == 3


async def test_more_meters_than_are_written_at_once_go_in(world: World) -> None:
    meter = await metered(world)
    cores = [f"12{number:010}" for number in range(METERS_AT_ONCE + 1)]
    numbers = [METER_NUMBER, *(f"{core}{mpan_check_digit(core)}" for core in cores)]
    content = HEADER + "".join(csv(number, "1", header="") for number in numbers)
    asked = {"customerId": meter.customer_id, "createMissing": "true"}
    found = await imported(world, meter.account.key, content, **asked)
    assert (found["status"], found["meterCount"]) == ("COMPLETED", len(numbers))
    assert found["readingsChanged"] == len(numbers)
    log = [one.type for one in await events(world, meter.account.id)]
    assert log.count("meter_data.received") == len(numbers)


async def test_a_missing_meter_that_no_consent_covers_is_not_made(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    asked = {"customerId": customer_id, "createMissing": "true"}
    found = await imported(world, account.key, csv(NUMBERS[0], "1"), **asked)
    assert (found["status"], Shown.of(found).problems) == ("FAILED", [(2, "CONSENT_REQUIRED")])
    assert "blanket consent" in found["problems"][0]["message"]
    assert (await world.data("{ meters { nodes { id } } }", key=account.key))["meters"]["nodes"] == []
    await make_consent(world, account, customer_id)
    found = await imported(world, account.key, csv(NUMBERS[0], "1"), **asked)
    assert found["status"] == "COMPLETED"


async def test_a_meter_is_another_customers_for_a_file_of_this_one(world: World) -> None:
    meter = await metered(world)
    other = await make_customer(world, meter.account, "bob@example.com")
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"), customerId=other)
    assert (found["status"], Shown.of(found).problems) == ("FAILED", [(2, "UNKNOWN_METER")])


async def test_a_meter_is_found_by_the_serial_number_in_its_metadata(world: World) -> None:
    meter = await metered(world)
    labels = {"serialNumber": "E10BG00001", "msn": "E10BG00001", "note": "E10BG00002"}
    made = await make_meter(world, meter.account, meter.customer_id, NUMBERS[0], metadata=labels)
    content = "serial_number,start_at,consumption\n"
    content += csv("E10BG00001", "1", header="") + csv("E10BG00002", "2", header="")
    found = await imported(world, meter.account.key, content, profile="rows", onProblem="skip")
    assert (found["status"], found["readingsChanged"]) == ("COMPLETED", 1)
    [problem] = found["problems"]
    assert (problem["line"], problem["code"]) == (3, "UNKNOWN_METER")
    assert (await meter.received())[-1].data["meterId"] == made["id"]
