"""A database of many meters with years of days, written behind the application's back in seconds."""

import random
from datetime import date
from typing import Final, NamedTuple

from sqlalchemy import insert, text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.ids import new_id
from app.db.database import Database
from app.db.sql import is_sqlite
from app.meters.models import Meter
from app.readings.packing import ALL, SLOTS, Day, pack
from tests.meters.asking import make_consent, make_customer
from tests.support import TestAccount, World

FIRST_DAY: Final = (date(2022, 1, 1) - date(1970, 1, 1)).days
DAYS: Final = 3 * 365 + 1


class Filled(NamedTuple):
    """An account's meters, whose keys in their order are 1, 2, 3 …"""

    account: TestAccount
    customer_id: str
    meters: list[str]


async def fill(world: World, count: int) -> Filled:
    """So many meters with a consent, each with three years of days from 2022-01-01 on."""
    account, customer_id, meters = await insert_meters(world, count)
    async with world.database.transaction() as session:
        await without_foreign_keys(session)
        await session.execute(
            text("INSERT INTO meter_keys (meter_id) VALUES (:meter_id)"),
            [{"meter_id": one} for one in meters],
        )
        await session.execute(
            text(
                "INSERT INTO reading_days (meter_key, channel, day, reason, recorded_ms, packed) "
                f"SELECT one.n, 0, {FIRST_DAY} + day.n, 0, {clock.to_ms(clock.now())}, {a_day(session)} "
                f"FROM {numbers(session, 'one', 1, count)}, {numbers(session, 'day', 0, DAYS - 1)} "
                "WHERE TRUE ORDER BY one.n, day.n"
            )
        )
    return Filled(account, customer_id, meters)


async def insert_meters(world: World, count: int) -> tuple[TestAccount, str, list[str]]:
    """So many meters of a new account and a customer who consents; their numbers count from 0."""
    account = await world.account()
    customer_id = await make_customer(world, account)
    meters = sorted(new_id("mtr") for _ in range(count))
    now = clock.now()
    common = {"account_id": account.id, "customer_id": customer_id, "type": "ELECTRICITY", "labels": {}}
    common |= {"data_source": "API", "is_disabled": False, "has_invalid_number": False}
    common |= {"created_at": now, "updated_at": now}
    rows = [{"id": one, "number": f"{at:013d}", **common} for at, one in enumerate(meters)]
    async with world.database.transaction() as session:
        await session.execute(insert(Meter), rows)
    await make_consent(world, account, customer_id)
    return account, customer_id, meters


async def without_foreign_keys(session: AsyncSession) -> None:
    """Checking a foreign key for each row takes PostgreSQL longer than writing it."""
    if not is_sqlite(session):
        await session.execute(text("SET LOCAL session_replication_role = replica"))


async def analyze(database: Database) -> None:
    """Does at once what PostgreSQL does by itself within a minute."""
    if not database.is_sqlite:
        async with database.transaction() as session:
            await session.execute(text("ANALYZE"))


def a_day(session: AsyncSession) -> str:
    """A packed day of values with three decimals, as SQL."""
    chance = random.Random(1)
    packed = pack(Day(ALL, 0, [1000 * chance.randrange(60, 900) for _ in range(SLOTS)])).hex()
    return f"x'{packed}'" if is_sqlite(session) else f"CAST('\\x{packed}' AS bytea)"


def numbers(session: AsyncSession, name: str, first: int, last: int) -> str:
    """A table `name(n)` of the numbers from first to last."""
    if not is_sqlite(session):
        return f"generate_series({first}, {last}) AS {name}(n)"
    recursive = f"SELECT {first} AS n UNION ALL SELECT n + 1 FROM counted WHERE n < {last}"
    return f"(WITH RECURSIVE counted(n) AS ({recursive}) SELECT n FROM counted) AS {name}"


def at_day(day: int) -> str:
    """The start of a day, counted from 1970, as the API takes it."""
    return clock.format_utc(clock.from_ms(day * 86_400_000))
