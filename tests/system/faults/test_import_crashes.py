"""A worker is killed at every point of an import and of its undo: it ends all the same, and no event comes twice."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.auth.actor import Actor, Scope
from app.consents import coverage
from app.consents.models import ConsentFlowType, ConsentStatus, HostedConsent
from app.core import clock
from app.core.clock import format_utc
from app.core.crypto import digest, random_token
from app.core.ids import new_id
from app.customers import actions as customers
from app.db.database import run_script
from app.db.raw_statements import Script
from app.events.models import EventRecord
from app.imports import actions, kept_files
from app.imports.models import FileImport
from app.imports.options import parse_options
from app.imports.worker import BROKEN, MOST_TRIES
from app.meters import actions as meters
from app.readings.models import ReadingDay
from tests.system.clients import eventually
from tests.system.faults.oracle import rows
from tests.system.faults.rig import Rig, Tenant
from tests.system.faults.running import buried, live

POINTS = (
    "import.claimed",
    "import.read",
    "import.file_read",
    "import.checking",
    "import.checked",
    "import.part_written",
    "import.completed",
)
UNDO_POINTS = ("import.part_undone", "import.undone")
NUMBERS = ("9999999999995", "9999999999996")
DAYS = 150
HALF_HOURS = 48 * DAYS


async def furnished(rig: Rig, numbers: Sequence[str] = NUMBERS) -> tuple[Tenant, Actor]:
    """An account with a customer of a blanket consent and two meters."""
    tenant = await rig.tenant()
    actor = Actor(tenant.id, frozenset([Scope.ADMIN]))
    async with rig.database.transaction() as session:
        customer = await run_script(
            session, customers.create(session, actor, name="Ada", email="ada@example.com")
        )
        at, token = clock.now(), random_token("vw_consent_")
        consent = HostedConsent(
            account_id=tenant.id,
            customer_id=customer.id,
            flow_type=ConsentFlowType.GB_COMMERCIAL_BLANKET.name,
            decision=ConsentStatus.APPROVED.value,
            expiry=clock.uk_date(at),
            expires_at=clock.end_of_uk_day(clock.uk_date(at)),
            redirect_url="https://example.com/",
            meter_numbers=[],
            token_hash=digest(token),
            token_encrypted=rig.keyring.encrypt(token),
            decided_at=at,
        )
        session.add(consent)
        for number in numbers:
            await run_script(session, meters.create(session, actor, customer_id=customer.id, number=number))
        await session.flush()
        await coverage.link_meters(session, consent)
    return tenant, actor


async def waiting_import(rig: Rig, actor: Actor, **choices: str) -> str:
    """An import that waits for a worker; gives its id."""
    first = clock.parse_utc("2024-01-01T00:00:00Z")
    lines = [
        f"{number},{format_utc(first + at * clock.HALF_HOUR)},{at % 5}.5"
        for number in NUMBERS
        for at in range(HALF_HOURS)
    ]
    content = "\n".join(["meter_number,start_at,consumption", *lines, ""]).encode()
    import_id = new_id("imp")
    for number, start in enumerate(range(0, len(content), kept_files.CHUNK_BYTES)):
        piece = content[start : start + kept_files.CHUNK_BYTES]
        await kept_files.keep(rig.database, import_id, number, piece)
    options = parse_options({"fileName": "year.csv", **choices})
    await rig.database.transact(lambda _: actions.begin(actor, import_id, options, "0" * 64, len(content)))
    return import_id


async def ended(rig: Rig, import_id: str) -> FileImport:
    """The import once a clean server has ended it."""
    await rig.run_out_leases()
    clean = await rig.start()
    async with buried(rig, clean):
        assert await clean.ready()

        async def has_ended() -> bool:
            return (await import_row(rig, import_id)).queued_at is None

        await eventually(has_ended)
        await rig.settled()
        assert await clean.terminate() == 0
    return await import_row(rig, import_id)


async def import_row(rig: Rig, import_id: str) -> FileImport:
    async with rig.database.reading() as session:
        return await session.get_one(FileImport, import_id)


async def told(rig: Rig, tenant: Tenant) -> list[tuple[Any, ...]]:
    """The events of the import, sorted: their type, reason or status, and number of half-hours."""
    log = await rows(rig, EventRecord, tenant.id)
    return sorted(
        (one.type, one.data.get("reason") or one.data["status"], one.data.get("intervalCount"))
        for one in log
        if one.type in ("meter_data.received", "import.completed")
    )


IMPORTED = [("import.completed", "COMPLETED", None), *[("meter_data.received", "IMPORT", HALF_HOURS)] * 2]
UNDONE = [IMPORTED[0], *[("meter_data.received", "CORRECTION", HALF_HOURS)] * 2, *IMPORTED[1:]]


async def day_count(rig: Rig, after: set[Any]) -> int:
    async with rig.database.reading() as session:
        keys = (await session.execute(select(col(ReadingDay.meter_key), col(ReadingDay.day)))).all()
    return len({tuple(one) for one in keys} - after)


async def days(rig: Rig) -> set[Any]:
    async with rig.database.reading() as session:
        keys = (await session.execute(select(col(ReadingDay.meter_key), col(ReadingDay.day)))).all()
    return {tuple(one) for one in keys}


@pytest.mark.long(keep=8)
@pytest.mark.parametrize("point", POINTS)
async def test_an_import_whose_worker_is_killed_ends_and_tells_once(rig: Rig, point: str) -> None:
    before = await days(rig)
    tenant, actor = await furnished(rig)
    import_id = await waiting_import(rig, actor)
    assert (await live(rig, [], await rig.start(point))).killed
    row = await ended(rig, import_id)
    assert (row.status, row.readings_changed) == ("COMPLETED", 2 * HALF_HOURS)
    assert await told(rig, tenant) == IMPORTED
    assert await day_count(rig, before) == 2 * DAYS
    assert rig.problems() == []


async def test_meters_that_an_import_makes_are_made_once(rig: Rig) -> None:
    before = await days(rig)
    tenant, actor = await furnished(rig, numbers=())
    async with rig.database.reading() as session:
        customer_id = await session.scalar(
            select(col(HostedConsent.customer_id)).where(col(HostedConsent.account_id) == tenant.id)
        )
    assert customer_id is not None
    import_id = await waiting_import(rig, actor, customerId=customer_id, createMissing="true")
    assert (await live(rig, [], await rig.start("import.meters_created"))).killed
    row = await ended(rig, import_id)
    assert (row.status, row.readings_changed) == ("COMPLETED", 2 * HALF_HOURS)
    assert await told(rig, tenant) == IMPORTED
    created = [one.type for one in await rows(rig, EventRecord, tenant.id) if one.type == "meter.created"]
    assert len(created) == 2
    assert await day_count(rig, before) == 2 * DAYS
    assert rig.problems() == []


async def test_a_file_that_kills_each_worker_that_reads_it_fails_with_nothing_written(rig: Rig) -> None:
    before = await days(rig)
    tenant, actor = await furnished(rig)
    import_id = await waiting_import(rig, actor)
    for _ in range(MOST_TRIES):
        assert (await live(rig, [], await rig.start("import.read"))).killed
        await rig.run_out_leases()
    row = await ended(rig, import_id)
    assert (row.status, row.error, row.readings_changed) == ("FAILED", BROKEN, 0)
    assert await told(rig, tenant) == [("import.completed", "FAILED", None)]
    assert await day_count(rig, before) == 0


@pytest.mark.long(keep=2)
@pytest.mark.parametrize("point", UNDO_POINTS)
async def test_an_undo_whose_worker_is_killed_ends_and_tells_once(rig: Rig, point: str) -> None:
    before = await days(rig)
    tenant, actor = await furnished(rig)
    import_id = await waiting_import(rig, actor)
    assert (await ended(rig, import_id)).status == "COMPLETED"
    await rig.database.transact(lambda _: undoing(actor, import_id))
    assert (await live(rig, [], await rig.start(point))).killed
    assert (await ended(rig, import_id)).status == "UNDONE"
    assert await told(rig, tenant) == UNDONE
    assert await days(rig) == before
    assert rig.problems() == []


def undoing(actor: Actor, import_id: str) -> Script[FileImport]:
    return (yield from actions.undo(actor, import_id))


async def test_an_import_whose_workers_are_killed_at_random_instants_ends(
    rig: Rig, seed: str, thorough: bool
) -> None:
    chance = random.Random(seed)
    for _ in range(40 if thorough else 2):
        tenant, actor = await furnished(rig)
        import_id = await waiting_import(rig, actor)
        for _ in range(3):
            await killed_soon(rig, chance.uniform(0.3, 1.5))
            await rig.run_out_leases()
        row = await ended(rig, import_id)
        assert (row.status, row.readings_changed) == ("COMPLETED", 2 * HALF_HOURS)
        assert await told(rig, tenant) == IMPORTED


async def killed_soon(rig: Rig, seconds: float) -> None:
    victim = await rig.start()
    await rig.kill_after(victim, seconds)
    await rig.bury(victim)
