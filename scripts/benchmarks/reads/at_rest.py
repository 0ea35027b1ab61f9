"""Readings at rest: the bytes that a year of many meters' half-hours adds to a whole, vacuumed database."""

import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
from sqlalchemy import insert

from app.accounts import actions as accounts
from app.core import clock
from app.core.ids import new_id
from app.customers.models import Customer
from app.db.database import Database
from app.db.migrations import migrate
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.meters.models import Meter
from app.readings.day_rows import Change, MeterDay, write_days
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.packing import ALL, SLOTS, Day, pack
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run

FIRST_DAY = 19_723
"""2024-01-01."""

PLAIN = "a row for each half-hour"
PLAIN_METERS, PLAIN_HALF_HOURS = 5, 17_520
PLAIN_TABLE = (
    "CREATE TABLE readings (meter_id VARCHAR, start_at TIMESTAMP, consumption NUMERIC(18, 6), "
    "PRIMARY KEY (meter_id, start_at))"
)


async def run_at_rest(run: Run) -> None:
    with TemporaryDirectory(prefix="voltwire-bench-") as folder:
        paths = [Path(folder) / name for name in ("ours.db", "plain.db")]
        await on_database(run, "SQLite", f"sqlite:///{paths[0]}", plain_on_sqlite(paths[1]))
    if await run.on_postgres():
        ours, theirs = [await run.databases.create() for _ in range(2)]
        await on_database(run, "PostgreSQL", ours, await plain_on_postgres(theirs))


async def on_database(run: Run, name: str, url: str, plain: float) -> None:
    days = run.sizes.half_hours // SLOTS
    meters = await make_meters(url, run.sizes.meters)
    before = await size(url)
    await write_year(url, meters, days)
    bytes_each = (await size(url) - before) / (len(meters) * days * SLOTS)
    title = f"bytes of a half-hour at rest, {name}"
    run.report.add(Figure("readings", title, "", "lower", [bytes_each], PLAIN, [plain]))


async def make_meters(url: str, count: int) -> list[str]:
    database = Database(url)
    await migrate(database)
    async with database.transaction() as session:
        new = await accounts.create_account(session, name="Bright Energy", email="owner@example.com")
        customer = Customer(account_id=new.account.id, name="Ada", email="ada@example.com")
        session.add(customer)
        await session.flush()
        ids = [new_id("mtr") for _ in range(count)]
        common = {
            "account_id": new.account.id,
            "customer_id": customer.id,
            "type": "ELECTRICITY",
            "labels": {},
        }
        common |= {"data_source": "API", "is_disabled": False, "has_invalid_number": False}
        common |= {"created_at": clock.now(), "updated_at": clock.now()}
        rows = [{"id": one, "number": f"{at:013d}", **common} for at, one in enumerate(ids)]
        await session.execute(insert(Meter), rows)
    await database.dispose()
    return ids


async def write_year(url: str, meters: Sequence[str], days: int) -> None:
    """Writes a year of each meter, as a request for it does once it is parsed."""
    database = Database(url)
    chance = random.Random(2024)
    watt_hours = range(20, 2500)
    for meter_id in meters:
        year = {
            MeterDay(meter_id, FIRST_DAY + day): pack(
                Day(ALL, 0, [1000 * one for one in chance.choices(watt_hours, k=SLOTS)])
            )
            for day in range(days)
        }
        await database.transact(partial(write, database.is_sqlite, year))
    await database.dispose()


def write(on_sqlite: bool, days: Mapping[MeterDay, bytes], _: InTransaction) -> Script[list[Change]]:
    now = clock.to_ms(clock.now())
    return write_days(on_sqlite, days, ReadingChannel.IMPORT, ReadingReason.PUSH, now)


async def size(url: str) -> int:
    """Bytes of the whole database after VACUUM."""
    if url.startswith("sqlite"):
        return size_of_file(Path(url.removeprefix("sqlite:///")))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM")
        found: int = await connection.fetchval("SELECT pg_database_size(current_database())")
        return found
    finally:
        await connection.close()


def size_of_file(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def plain_on_sqlite(path: Path) -> float:
    """Bytes of a half-hour as SQLModel stores a row with a time and a decimal."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(PLAIN_TABLE)
        connection.executemany(
            "INSERT INTO readings VALUES (?, datetime(?, 'unixepoch') || '.000000', ?)", plain_rows()
        )
        connection.commit()
    return size_of_file(path) / (PLAIN_METERS * PLAIN_HALF_HOURS)


async def plain_on_postgres(url: str) -> float:
    before = await size(url)
    connection = await asyncpg.connect(url)
    await connection.execute(PLAIN_TABLE)
    await connection.executemany(
        "INSERT INTO readings VALUES ($1, to_timestamp($2::bigint) AT TIME ZONE 'UTC', $3::float8::numeric)",
        plain_rows(),
    )
    await connection.close()
    return (await size(url) - before) / (PLAIN_METERS * PLAIN_HALF_HOURS)


def plain_rows() -> list[tuple[str, int, float]]:
    chance = random.Random(2024)
    meters = sorted(new_id("mtr") for _ in range(PLAIN_METERS))
    return [
        (meter, FIRST_DAY * 86_400 + 1800 * at, chance.randrange(20, 2500) / 1000)
        for meter in meters
        for at in range(PLAIN_HALF_HOURS)
    ]
