"""Dry runs and their confirmation; undo, which puts back what was there."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.db.raw_statements import Rows, Script
from app.imports.enums import ImportStatus
from app.imports.leftovers import LEFT_OVER, keep_house
from app.imports.models import FileImport
from tests.accounts.state import refusals, state
from tests.imports.importing import Shown, confirm, csv, imported, report, undo, values, work
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import Metered, metered, reading
from tests.readings.plans import Explained
from tests.support import World

pytestmark = pytest.mark.both_databases


async def readings_of(world: World) -> Any:
    rows = await state(world)
    return rows["reading_days"]


async def age(world: World, import_id: str, **by: float) -> None:
    async with world.database.transaction() as session:
        await session.execute(
            update(FileImport)
            .where(col(FileImport.id) == import_id)
            .values(completed_at=clock.now() - timedelta(**by))
        )


async def test_a_dry_run_shows_and_writes_nothing_until_it_is_confirmed(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2"), dryRun="true")
    assert (found["status"], found["dryRun"], found["readingsAccepted"], found["readingsChanged"]) == (
        "PREVIEW", True, 2, 0,
    )  # fmt: skip
    assert found["preview"] == {
        "meters": [
            {
                "meterId": meter.meter_id,
                "meterNumber": METER_NUMBER,
                "channel": "IMPORT",
                "days": [
                    {
                        "date": "2024-05-01",
                        "readings": [
                            {"startAt": "2024-05-01T00:00:00.000Z", "consumption": "1", "quality": "ACTUAL"},
                            {"startAt": "2024-05-01T00:30:00.000Z", "consumption": "2", "quality": "ACTUAL"},
                        ],
                    }
                ],
            }
        ]
    }
    assert await readings_of(world) == []
    assert await meter.received() == []
    payload = await confirm(meter, found["id"])
    assert payload == {
        "fileImport": {"id": found["id"], "status": "RUNNING", "dryRun": False},
        "userErrors": [],
    }
    await work(world)
    found = await report(world, meter.account.key, found["id"])
    assert (found["status"], found["readingsChanged"]) == ("COMPLETED", 2)
    assert await values(meter) == ["1", "2"]
    assert len(await meter.received()) == 1
    assert refusals(await confirm(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]


async def test_a_dry_run_with_problems_is_confirmed_only_to_skip_them(world: World) -> None:
    meter = await metered(world)
    content = csv(METER_NUMBER, "1", "-2")
    found = await imported(world, meter.account.key, content, dryRun="true")
    assert (found["status"], Shown.of(found).problems) == ("PREVIEW", [(3, "BAD_VALUE")])
    assert refusals(await confirm(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]
    found = await imported(world, meter.account.key, content, dryRun="true", onProblem="skip")
    await confirm(meter, found["id"])
    await work(world)
    assert (await report(world, meter.account.key, found["id"]))["status"] == "COMPLETED"
    assert await values(meter) == ["1"]


async def test_a_preview_is_kept_for_a_day(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"), dryRun="true")
    await keep_house(world.database)
    assert (await report(world, meter.account.key, found["id"]))["preview"] is not None
    await age(world, found["id"], hours=25)
    assert refusals(await confirm(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]
    await keep_house(world.database)
    assert (await report(world, meter.account.key, found["id"]))["preview"] is None
    assert (await state(world))["file_import_days"] == []


async def test_what_a_late_confirmation_needs_stays_for_clocks_that_differ(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"), dryRun="true")
    await age(world, found["id"], hours=24, minutes=1)
    await keep_house(world.database)
    assert len((await state(world))["file_import_days"]) == 1
    assert refusals(await confirm(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]


async def test_undo_puts_back_values_and_absence(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "7", "ESTIMATED"), reading("00:30", "8"))
    before = await meter.intervals(**{"from": "2024-05-01T00:00:00Z", "to": "2024-05-03T00:00:00Z"})
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "8", *["3"] * 60))
    assert found["readingsChanged"] == 61
    payload = await undo(meter, found["id"])
    assert payload == {"fileImport": {"id": found["id"], "status": "RUNNING"}, "userErrors": []}
    await work(world)
    assert (await report(world, meter.account.key, found["id"]))["status"] == "UNDONE"
    assert await meter.intervals(**{"from": "2024-05-01T00:00:00Z", "to": "2024-05-03T00:00:00Z"}) == before
    event = (await meter.received())[-1]
    assert (event.data["reason"], event.data["intervalCount"], event.data["estimatedCount"]) == (
        "CORRECTION",
        61,
        1,
    )
    assert (event.data["from"], event.data["to"]) == ("2024-05-01T00:00:00.000Z", "2024-05-02T07:00:00.000Z")
    assert (await state(world))["file_import_meters"] == []
    assert refusals(await undo(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]


async def test_undo_leaves_what_is_newer(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2", "3"))
    await meter.record(reading("00:30", "9"))
    later = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "9", "4"))
    assert later["readingsChanged"] == 1
    await undo(meter, found["id"])
    await work(world)
    assert await values(meter) == ["9", "4"]
    assert (await meter.received())[-1].data["intervalCount"] == 1
    await undo(meter, later["id"])
    await work(world)
    # What the later import replaced is put back, although its own import was undone before.
    assert await values(meter) == ["9", "3"]


async def test_what_was_undone_can_be_imported_again(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2"))
    await undo(meter, found["id"])
    await work(world)
    again = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "2"))
    assert again["readingsChanged"] == 2
    await undo(meter, again["id"])
    await work(world)
    assert await readings_of(world) == []


async def test_an_import_can_be_undone_for_thirty_days(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"))
    await age(world, found["id"], days=29)
    await keep_house(world.database)
    assert len((await state(world))["file_import_changes"]) == 1
    await age(world, found["id"], days=31)
    assert refusals(await undo(meter, found["id"])) == [("CONFLICT", ["fileImportId"])]
    await keep_house(world.database)
    assert (await state(world))["file_import_meters"] == []
    assert await values(meter) == ["1"]


async def test_long_imports_are_written_and_undone_in_parts_with_one_event_each(world: World) -> None:
    meter: Metered = await metered(world)
    content = csv(METER_NUMBER, *(f"{at % 9}.5" for at in range(48 * 900)))
    found = await imported(world, meter.account.key, content)
    assert found["readingsChanged"] == 48 * 900
    assert len((await state(world))["file_import_changes"]) > 1
    await undo(meter, found["id"])
    await work(world)
    assert await readings_of(world) == []
    told = [(one.data["reason"], one.data["intervalCount"]) for one in await meter.received()]
    assert told == [("IMPORT", 48 * 900), ("CORRECTION", 48 * 900)]


async def test_housekeeping_reads_imports_that_have_something_left(world: World) -> None:
    meter = await metered(world)
    found = await imported(world, meter.account.key, csv(METER_NUMBER, "1"))
    ended = {"account_id": meter.account.id, "status": ImportStatus.FAILED.name, "queued_at": None}
    async with world.database.transaction() as session:
        session.add_all([FileImport(sha256="", size=1, **ended) for _ in range(500)])
    await age(world, found["id"], days=31)

    def script() -> Script[Rows]:
        now_ms = clock.to_ms(clock.now())
        given = {"preview_ms": now_ms, "undo_ms": now_ms - 30 * 86_400_000}
        return (yield LEFT_OVER.of(world.database.is_sqlite), given)

    async with world.database.transaction() as session:
        explained = Explained(session)
        assert [tuple(row) for row in await explained.run(script())] == [(found["id"], "ALL")]
    plan = explained.of("file_import_meters")
    assert "file_imports" not in plan.scanned
    assert plan.rows.get("file_imports", 0) < 10
