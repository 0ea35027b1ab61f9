"""Helpers that send files, run the worker of imports, and read what came of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import select
from sqlmodel import col
from starlette.applications import Starlette

from app.auth.actor import Actor, Scope
from app.core.clock import format_utc
from app.core.ids import new_id
from app.core.periodic import Loop
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.graphql.http.rates import Rates
from app.imports import actions, http
from app.imports.enums import ImportStatus
from app.imports.models import FileImport
from app.imports.options import parse_options
from app.imports.stages.ending import end
from app.imports.worker import ImportWorker
from tests.accounts.state import mutation
from tests.meters.asking import run
from tests.readings.metered import Metered
from tests.support import World
from tests.system.clients import eventually

HEADER = "meter_number,start_at,consumption\n"
MAY_FIRST = datetime(2024, 5, 1, tzinfo=UTC)
CONFIRM = mutation("confirmFileImport", "fileImport { id status dryRun }")
UNDO = mutation("undoFileImport", "fileImport { id status }")


@asynccontextmanager
async def client(world: World, rate: float = 1000) -> AsyncIterator[httpx.AsyncClient]:
    """`rate` is the number of requests let through, because the limit's clock stands still."""
    app = Starlette(routes=http.routes(world.services, world.authenticator, Rates(rate, clock=lambda: 0.0)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as opened:
        yield opened


async def post(
    world: World, key: str | None, content: Any, headers: Mapping[str, str] | None = None, **query: str
) -> httpx.Response:
    sent = {"content-type": "text/csv", **(headers or {})}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    async with client(world) as opened:
        return await opened.post("/imports", content=content, headers=sent, params=query)


async def report(world: World, key: str, import_id: str, **query: str) -> dict[str, Any]:
    async with client(world) as opened:
        response = await opened.get(f"/imports/{import_id}", headers={"x-api-key": key}, params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def work(world: World) -> None:
    """Runs a worker until no import waits any more."""
    worker = ImportWorker(world.database)

    async def turn() -> float:
        return 0 if await worker.turn() else 0.05

    async def none_waits() -> bool:
        statement = select(col(FileImport.id)).where(col(FileImport.queued_at).is_not(None)).limit(1)
        async with world.database.reading() as session:
            return (await session.execute(statement)).first() is None

    loop = Loop("imports", turn)
    worker.bell = loop.bell
    running = asyncio.create_task(loop.run())
    try:
        await eventually(none_waits)
        # An import that has ended is tidied by its task.
        if tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith("import ")]:
            await asyncio.wait(tasks)
    finally:
        loop.stop()
        await running
        await worker.aclose()


async def imported(world: World, key: str, content: Any, **query: str) -> dict[str, Any]:
    """Sends a file and gives its report once a worker is done with it."""
    response = await post(world, key, content, **query)
    assert response.status_code == 202, response.text
    await work(world)
    return await report(world, key, response.json()["fileImportId"])


def csv(number: str, *values: str, start: datetime = MAY_FIRST, header: str = HEADER) -> str:
    """Half-hours from a start on, in our own columns."""
    return header + "".join(
        f"{number},{format_utc(start + timedelta(minutes=30 * at))},{value}\n"
        for at, value in enumerate(values)
    )


@dataclass(frozen=True)
class Shown:
    """The problems of a report: line and code of each."""

    problems: list[tuple[int, str]]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Shown":
        return cls([(one["line"], one["code"]) for one in found["problems"]])


async def values(meter: Metered, day: str = "2024-05-01") -> list[str]:
    """The consumption of the meter's half-hours of a UTC day that have any."""
    found = await meter.intervals(**{"from": f"{day}T00:00:00Z", "to": f"{day}T23:59:00Z"})
    return [one["consumption"] for one in found["intervals"]]


async def undo(meter: Metered, import_id: str) -> dict[str, Any]:
    return await run(meter.world, meter.account, UNDO, fileImportId=import_id)


async def confirm(meter: Metered, import_id: str) -> dict[str, Any]:
    return await run(meter.world, meter.account, CONFIRM, fileImportId=import_id)


async def ended_import(world: World, account_id: str, status: ImportStatus = ImportStatus.COMPLETED) -> str:
    """An import that has ended, of no file; gives its id."""
    actor = Actor(account_id, frozenset({Scope.WRITE}))

    def act(transaction: InTransaction) -> Script[str]:
        options = parse_options(
            {"fileName": "may.csv", "dryRun": str(status is ImportStatus.PREVIEW).lower()}
        )
        row = yield from actions.begin(actor, new_id("imp"), options, "0" * 64, 1)
        row.readings_accepted = row.readings_changed = 48
        row.meter_count = 1
        yield from end(transaction, row, status)
        return row.id

    return await world.database.transact(act)
