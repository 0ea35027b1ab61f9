"""An import of a file, from its request to its readings and events."""

from typing import Any

import pytest

from app.imports.models import FileImportChange, FileImportChunk, FileImportDays, FileImportMeter
from tests.accounts.state import events, state
from tests.imports.importing import HEADER, Shown, csv, imported, post, report, values, work
from tests.meters.asking import NUMBERS, make_customer, make_meter
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import Metered, metered
from tests.support import World

pytestmark = pytest.mark.both_databases


async def waiting(world: World) -> dict[str, int]:
    """How many rows are left of what an import needs on its way."""
    rows = await state(world)
    models = (FileImportChunk, FileImportDays, FileImportMeter, FileImportChange)
    return {one.__tablename__: len(rows[one.__tablename__]) for one in models}  # type: ignore[misc]


async def test_a_file_goes_in_with_one_event_for_its_meter(world: World) -> None:
    meter = await metered(world)
    content = csv(METER_NUMBER, "1", "2.5", "0.000001")
    response = await post(world, meter.account.key, content, fileName="may.csv")
    import_id = response.json()["fileImportId"]
    assert (response.status_code, response.headers["location"]) == (202, f"/imports/{import_id}")
    found = await report(world, meter.account.key, import_id)
    assert (found["status"], found["bytes"], found["fileName"]) == ("RUNNING", len(content), "may.csv")
    await work(world)
    found = await report(world, meter.account.key, import_id, wait="20")
    assert {**found, "sha256": "", "createdAt": "", "completedAt": "", "detection": ""} == {
        "id": import_id,
        "fileName": "may.csv",
        "sha256": "",
        "bytes": len(content),
        "profile": "voltwire",
        "status": "COMPLETED",
        "dryRun": False,
        "progress": 1.0,
        "rowsRead": 3,
        "rowsRefused": 0,
        "readingsAccepted": 3,
        "readingsChanged": 3,
        "meterCount": 1,
        "problems": [],
        "problemCount": 0,
        "roundedCount": 0,
        "onProblem": "REFUSE",
        "detection": "",
        "from": "2024-05-01T00:00:00.000Z",
        "to": "2024-05-01T01:30:00.000Z",
        "preview": None,
        "error": None,
        "createdAt": "",
        "completedAt": "",
    }
    assert await values(meter) == ["1", "2.5", "0.000001"]
    received, completed = (await events(world, meter.account.id))[-2:]
    assert received.data == {
        "meterId": meter.meter_id,
        "customerId": meter.customer_id,
        "from": "2024-05-01T00:00:00.000Z",
        "to": "2024-05-01T01:30:00.000Z",
        "intervalCount": 3,
        "channel": "IMPORT",
        "reason": "IMPORT",
        "estimatedCount": 0,
        "backfillId": None,
        "part": None,
        "parts": None,
    }
    assert (completed.type, completed.data) == (
        "import.completed",
        {
            "fileImportId": import_id,
            "status": "COMPLETED",
            "readingsAccepted": 3,
            "readingsChanged": 3,
            "meterCount": 1,
        },
    )
    assert await waiting(world) == {
        "file_import_chunks": 0,
        "file_import_days": 0,
        "file_import_meters": 1,
        "file_import_changes": 1,
    }


async def test_the_same_bytes_again_change_nothing(world: World) -> None:
    meter = await metered(world)
    first = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2"))
    second = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2"))
    assert (first["readingsChanged"], second["readingsChanged"], second["readingsAccepted"]) == (2, 0, 2)
    assert first["id"] != second["id"]
    assert first["sha256"] == second["sha256"]
    assert len(await meter.received()) == 1


async def test_a_file_with_a_wrong_row_is_refused_as_a_whole(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "-2", "3"))
    assert (found["status"], found["readingsAccepted"], found["readingsChanged"]) == ("FAILED", 0, 0)
    assert (Shown.of(found).problems, found["problemCount"], found["rowsRefused"]) == (
        [(3, "BAD_VALUE")],
        1,
        1,
    )
    assert found["error"].startswith(
        "Nothing was written, since the file has 1 problem. The first in line 3: "
    )
    assert await values(meter) == []
    assert [one.type for one in await events(world, meter.account.id)][-1] == "import.completed"
    assert await meter.received() == []
    assert set((await waiting(world)).values()) == {0}


async def test_the_good_rows_of_a_file_go_in_if_that_is_asked_for(world: World) -> None:
    meter = await metered(world)
    content = csv(METER_NUMBER, "1", "-2", "3") + csv(NUMBERS[0], "4", header="")
    found = await imported(world, meter.account.key, content, onProblem="skip")
    assert (found["status"], found["readingsAccepted"], found["rowsRefused"]) == ("COMPLETED", 2, 2)
    assert Shown.of(found).problems == [(3, "BAD_VALUE"), (5, "UNKNOWN_METER")]
    assert await values(meter) == ["1", "3"]


async def test_a_meter_without_a_consent_is_a_problem_with_its_line(world: World) -> None:
    meter = await metered(world)
    other = await make_customer(world, meter.account, "bob@example.com")
    await make_meter(world, meter.account, other, NUMBERS[0])
    content = csv(METER_NUMBER, "1") + csv(NUMBERS[0], "2", header="")
    refused = await imported(world, meter.account.key, content)
    assert (refused["status"], Shown.of(refused).problems) == ("FAILED", [(3, "CONSENT_REQUIRED")])
    assert await values(meter) == []
    taken = await imported(world, meter.account.key, content, onProblem="skip")
    assert (taken["status"], taken["readingsChanged"]) == ("COMPLETED", 1)


async def test_several_meters_and_days_go_in_exactly(world: World) -> None:
    meter = await metered(world)
    others = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS[:3]]
    content = HEADER
    for number in (METER_NUMBER, *NUMBERS[:3]):
        content += csv(number, *(f"{at % 7}.{at % 1000:03}" for at in range(48 * 250)), header="")
    found = await imported(world, meter.account.key, content)
    assert (found["status"], found["readingsChanged"], found["meterCount"]) == ("COMPLETED", 4 * 48 * 250, 4)
    received = await meter.received()
    assert sorted(one.data["meterId"] for one in received) == sorted(
        [meter.meter_id, *(one["id"] for one in others)]
    )
    assert {one.data["intervalCount"] for one in received} == {48 * 250}


async def test_a_number_of_several_customers_needs_the_customer(world: World) -> None:
    meter = await metered(world)
    other = await make_customer(world, meter.account, "bob@example.com")
    await make_meter(world, meter.account, other, METER_NUMBER)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"))
    assert Shown.of(found).problems == [(2, "CONFLICT")]
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"), customerId=meter.customer_id)
    assert found["status"] == "COMPLETED"
    assert await values(meter) == ["1"]


async def test_an_unknown_format_fails_with_its_sentence(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, b"\x00\x01\x02 this is nothing")
    assert (found["status"], found["problemCount"]) == ("FAILED", 1)
    assert found["problems"][0]["code"] == "UNKNOWN_FORMAT"
    assert found["error"] == found["problems"][0]["message"]


async def settled_state(meter: Metered) -> Any:
    rows = await state(meter.world)
    return {name: rows[name] for name in ("reading_days", "events")}
