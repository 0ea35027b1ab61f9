"""The worker of imports: leases, fairness, imports of one meter, and what changes while an import is under way."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import col
from structlog.testing import capture_logs

from app.core import clock, failpoints
from app.imports import leases
from app.imports.models import FileImport, FileImportChange
from app.imports.worker import ImportWorker
from tests.accounts.state import events, mutation, state
from tests.imports.importing import Shown, csv, post, report, undo, values, work
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter, run
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import metered
from tests.support import World

pytestmark = pytest.mark.both_databases

LONG = 48 * 300
"""Half-hours that are written in several parts."""


@contextmanager
def at(point: str, act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` at the first arrival at a point."""
    is_done = False

    def watch(name: str) -> None:
        nonlocal is_done
        if name == point and not is_done:
            is_done = True
            act()

    failpoints.watchers.append(watch)
    try:
        yield
    finally:
        failpoints.watchers.remove(watch)


async def sent(world: World, key: str, content: Any, **query: str) -> str:
    response = await post(world, key, content, **query)
    assert response.status_code == 202, response.text
    import_id: str = response.json()["fileImportId"]
    return import_id


async def two_meters(world: World) -> Any:
    """A meter, and one of another customer with a consent of its own."""
    meter = await metered(world)
    other = await make_customer(world, meter.account, "bob@example.com")
    consent = await make_consent(world, meter.account, other)
    second = await make_meter(world, meter.account, other, NUMBERS[0])
    return meter, second["id"], consent


def two_files(half_hours: int = LONG) -> str:
    first = csv(METER_NUMBER, *["1"] * half_hours)
    return first + csv(NUMBERS[0], *["2"] * half_hours, header="")


async def interrupted(
    world: World, key: str, content: str, point: str, act: Any, **query: str
) -> dict[str, Any]:
    """The report of an import that stops at a point, during which `act` is awaited, before it goes on."""
    import_id = await sent(world, key, content, **query)
    reached = asyncio.Event()
    worker = ImportWorker(world.database)
    with at(point, reached.set):
        assert await worker.turn()
        await reached.wait()
        await worker.aclose()
    await act()
    await work(world)
    return await report(world, key, import_id)


async def test_an_import_that_is_cut_off_goes_on_and_tells_once(world: World) -> None:
    meter = await metered(world)

    async def nothing() -> None:
        pass

    for point in (
        "import.claimed",
        "import.read",
        "import.file_read",
        "import.checked",
        "import.part_written",
    ):
        content = csv(METER_NUMBER, *[str(len(point))] * LONG)
        found = await interrupted(world, meter.account.key, content, point, nothing)
        assert (point, found["status"], found["readingsChanged"]) == (point, "COMPLETED", LONG)
    assert [one.data["intervalCount"] for one in await meter.received()] == [LONG] * 5


async def test_meters_that_were_made_before_a_crash_are_made_once(world: World) -> None:
    meter = await metered(world)

    async def nothing() -> None:
        pass

    asked = {"customerId": meter.customer_id, "createMissing": "true"}
    point = "import.meters_created"
    found = await interrupted(world, meter.account.key, two_files(2), point, nothing, **asked)
    assert (found["status"], found["readingsChanged"]) == ("COMPLETED", 4)
    log = [one.type for one in await events(world, meter.account.id)]
    assert log.count("meter.created") == 2


async def test_an_import_whose_consent_is_revoked_midway_is_taken_back(world: World) -> None:
    meter, _, consent = await two_meters(world)
    revoke = mutation("revokeHostedConsent", "hostedConsent { id }")

    async def act() -> None:
        await run(world, meter.account, revoke, hostedConsentId=consent)

    found = await interrupted(world, meter.account.key, two_files(), "import.part_written", act)
    assert (found["status"], found["readingsChanged"], found["readingsAccepted"]) == ("FAILED", 0, 0)
    assert Shown.of(found).problems == [(LONG + 2, "CONSENT_REQUIRED")]
    assert (await state(world))["reading_days"] == []
    # Whatever was told was also told to be taken back.
    told = [(one.data["reason"], one.data["intervalCount"]) for one in await meter.received()]
    assert told in ([], [("IMPORT", LONG), ("CORRECTION", LONG)])
    assert (await events(world, meter.account.id))[-1].data["status"] == "FAILED"


async def test_a_meter_whose_consent_is_revoked_midway_is_left_out_if_that_is_asked_for(world: World) -> None:
    meter, _, consent = await two_meters(world)
    revoke = mutation("revokeHostedConsent", "hostedConsent { id }")

    async def act() -> None:
        await run(world, meter.account, revoke, hostedConsentId=consent)

    found = await interrupted(
        world, meter.account.key, two_files(), "import.part_written", act, onProblem="skip"
    )
    assert (found["status"], found["readingsChanged"], found["readingsAccepted"]) == ("COMPLETED", LONG, LONG)
    assert Shown.of(found).problems == [(LONG + 2, "CONSENT_REQUIRED")]
    assert [one.data["meterId"] for one in await meter.received()] == [meter.meter_id]


async def test_a_customer_who_is_deleted_midway_takes_everything_along(world: World) -> None:
    meter, second, _ = await two_meters(world)

    async def act() -> None:
        await run(world, meter.account, mutation("deleteCustomer", "deletedId"), customerId=meter.customer_id)

    found = await interrupted(world, meter.account.key, two_files(), "import.part_written", act)
    assert found["status"] == "COMPLETED"
    assert METER_NUMBER not in repr((await state(world))["file_imports"])
    assert [one.data["meterId"] for one in await meter.received()][-1] == second
    await undo(meter, found["id"])
    await work(world)
    assert (await state(world))["reading_days"] == []


@pytest.mark.parametrize("point", ["import.claimed", "import.read", "import.file_read"])
async def test_an_import_names_no_meter_of_a_customer_who_was_deleted_midway(
    world: World, point: str
) -> None:
    meter, second, _ = await two_meters(world)

    async def act() -> None:
        await run(world, meter.account, mutation("deleteCustomer", "deletedId"), customerId=meter.customer_id)

    found = await interrupted(world, meter.account.key, two_files(2), point, act, onProblem="skip")
    assert found["status"] == "COMPLETED"
    assert METER_NUMBER not in repr((await state(world))["file_imports"])
    assert [one.data["meterId"] for one in await meter.received()] == [second]


async def test_imports_that_do_not_name_a_customer_who_is_deleted_are_not_waited_for(world: World) -> None:
    if world.database.is_sqlite:
        # Every writer waits there for every other.
        return
    meter, _, _ = await two_meters(world)
    import_id = await sent(world, meter.account.key, csv(NUMBERS[0], "2"))
    await work(world)
    lock = select(FileImport).where(col(FileImport.id) == import_id).with_for_update()
    async with world.database.transaction() as session:
        await session.execute(lock)
        await run(world, meter.account, mutation("deleteCustomer", "deletedId"), customerId=meter.customer_id)


async def test_a_worker_that_was_taken_for_dead_writes_nothing_more(world: World) -> None:
    meter = await metered(world)
    import_id = await sent(world, meter.account.key, csv(METER_NUMBER, *["1"] * LONG))
    first = await leases.claim_next(world.database)
    assert first is not None
    assert await leases.claim_next(world.database) is None
    async with world.database.transaction() as session:
        await session.execute(update(FileImport).values(leased_until=clock.from_ms(0)))
    await work(world)
    with pytest.raises(leases.LeaseLost):
        await leases.renew(world.database, first, 0.5)
    assert (await report(world, meter.account.key, import_id))["status"] == "COMPLETED"
    assert len(await meter.received()) == 1


async def test_imports_of_one_meter_are_written_one_after_the_other(world: World) -> None:
    meter = await metered(world)
    ids = [
        await sent(world, meter.account.key, csv(METER_NUMBER, *[str(number)] * LONG)) for number in (1, 2, 3)
    ]
    await work(world)
    found = [await report(world, meter.account.key, one) for one in ids]
    assert [(one["status"], one["readingsChanged"]) for one in found] == [("COMPLETED", LONG)] * 3
    # The last file counts, in all of its half-hours.
    assert {*(await values(meter, "2024-05-01")), *(await values(meter, "2024-12-01"))} == {"3"}
    assert [one.data["intervalCount"] for one in await meter.received()] == [LONG] * 3


async def test_accounts_share_the_worker(world: World) -> None:
    first, second = await metered(world), await metered(world)
    for _ in range(4):
        await sent(world, first.account.key, csv(METER_NUMBER, "1"))
    await sent(world, second.account.key, csv(METER_NUMBER, "1"))
    claimed = [await leases.claim_next(world.database) for _ in range(4)]
    accounts = [None if one is None else one.account_id for one in claimed]
    assert accounts == [first.account.id, second.account.id, first.account.id, None]


async def test_a_file_that_ends_its_workers_fails_at_last(world: World) -> None:
    meter = await metered(world)
    import_id = await sent(world, meter.account.key, csv(METER_NUMBER, "1"))
    async with world.database.transaction() as session:
        await session.execute(update(FileImport).where(col(FileImport.id) == import_id).values(tries=5))
    await work(world)
    found = await report(world, meter.account.key, import_id)
    assert (found["status"], found["problemCount"]) == ("FAILED", 0)
    assert found["error"].startswith("Voltwire could not finish this import")


async def tried_in_vain(world: World, **values: Any) -> None:
    """Makes every change of imports impossible to take back, as by a fault of our own, after some tries."""
    async with world.database.transaction() as session:
        await session.execute(update(FileImportChange).values(packed=b"!"))
        await session.execute(update(FileImport).values(tries=5, leased_until=None, **values))


async def told(world: World, account_id: str) -> list[str]:
    """The statuses that events of imports have told."""
    return [one.data["status"] for one in await events(world, account_id) if one.type == "import.completed"]


async def test_an_undo_that_cannot_be_finished_leaves_its_import_completed(world: World) -> None:
    meter = await metered(world)
    import_id = await sent(world, meter.account.key, csv(METER_NUMBER, "1", "2"))
    await work(world)
    kept = (await state(world))["file_import_changes"]
    await undo(meter, import_id)
    await tried_in_vain(world)
    await work(world)
    found = await report(world, meter.account.key, import_id)
    assert (found["status"], found["readingsChanged"]) == ("COMPLETED", 2)
    assert found["error"].startswith("Voltwire could not undo all of this import")
    assert await told(world, meter.account.id) == ["COMPLETED"]
    assert await values(meter) == ["1", "2"]
    # Once the fault is mended, the same undo goes on.
    async with world.database.transaction() as session:
        await session.execute(update(FileImportChange).values(packed=kept[0]["packed"]))
    await undo(meter, import_id)
    await work(world)
    found = await report(world, meter.account.key, import_id)
    assert (found["status"], found["error"], await values(meter)) == ("UNDONE", None, [])


async def test_an_import_that_cannot_be_taken_back_fails_once_and_says_so(world: World) -> None:
    meter = await metered(world)

    async def act() -> None:
        await tried_in_vain(world, stage="FAIL", error="It was wrong.")

    content = csv(METER_NUMBER, *["1"] * LONG)
    found = await interrupted(world, meter.account.key, content, "import.part_written", act)
    assert found["status"] == "FAILED"
    assert found["error"].startswith(
        "It was wrong. Voltwire could not take back what this import had written"
    )
    assert await told(world, meter.account.id) == ["FAILED"]
    assert [one.data["intervalCount"] for one in await meter.received()] == [found["readingsChanged"]]


async def test_a_conflict_with_another_transaction_is_no_failed_try(world: World) -> None:
    meter = await metered(world)
    import_id = await sent(world, meter.account.key, csv(METER_NUMBER, "1"))
    async with world.database.transaction() as session:
        await session.execute(update(FileImport).values(tries=4))

    def collide() -> None:
        error = asyncpg.DeadlockDetectedError("deadlock detected")
        raise DBAPIError(None, None, error)

    with capture_logs() as logged, at("import.read", collide):
        await work(world)
    assert (await report(world, meter.account.key, import_id))["status"] == "COMPLETED"
    assert [(one["event"], one["log_level"]) for one in logged if one["event"].startswith("import")] == [
        ("import_interrupted", "warning")
    ]
