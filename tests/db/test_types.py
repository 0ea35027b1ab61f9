"""Column types and clocks, alike on SQLite and PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import (
    insert,
    select,
)

from app.core import clock
from app.customers.models import Customer
from app.db.database import Database
from app.db.types import database_now, seconds_from_now
from tests.db.tables import INSTANTS, NAMES

pytestmark = pytest.mark.both_databases

MOMENTS = [
    datetime(1900, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 3, 31, 1, 0, 0, 1_000, UTC),
    datetime(2026, 11, 24, 22, 29, 55, 123_000, UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC),
]


async def stored(database: Database, value: datetime | None) -> Any:
    async with database.transaction() as session:
        await session.execute(insert(INSTANTS).values(at=value))
    async with database.reading() as session:
        newest = select(INSTANTS.c.at).order_by(INSTANTS.c.id.desc()).limit(1)
        return (await session.execute(newest)).scalar_one()


async def test_instants_come_back_as_they_were(database: Database) -> None:
    for moment in MOMENTS:
        back = await stored(database, moment)
        assert back == moment
        assert back.tzinfo is UTC
    assert await stored(database, None) is None
    async with database.reading() as session:
        ordered = select(INSTANTS.c.at).where(INSTANTS.c.at.is_not(None)).order_by(INSTANTS.c.at)
        assert list((await session.execute(ordered)).scalars()) == MOMENTS
        exact = select(INSTANTS.c.id).where(INSTANTS.c.at == MOMENTS[4])
        assert (await session.execute(exact)).scalar_one() == 5


async def test_instants_are_truncated_to_milliseconds_and_become_utc(database: Database) -> None:
    late = datetime(2026, 11, 24, 22, 29, 55, 123_999, UTC)
    assert await stored(database, late) == late.replace(microsecond=123_000)
    early = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    assert await stored(database, early) == early.replace(microsecond=999_000)
    there = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    back = await stored(database, there)
    assert (back, back.tzinfo) == (there, UTC)


async def test_a_naive_instant_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="Only aware datetimes are stored"):
        await stored(database, datetime(2026, 11, 24))  # noqa: DTZ001 - the mistake that is refused


async def test_the_databases_clock_moves_within_a_transaction(
    database: Database,
) -> None:
    async with database.transaction() as session:
        before = clock.now()
        first = (await session.execute(select(database_now()))).scalar_one()
        after = clock.now()
        # SQLite rounds to the millisecond, `clock.now` truncates.
        assert before <= first <= after + timedelta(milliseconds=1)
        assert first.microsecond % 1000 == 0
        await asyncio.sleep(0.005)
        assert (await session.execute(select(database_now()))).scalar_one() > first


@pytest.mark.parametrize("seconds", [0, 0.25, 90, 1_000_000.5, -3600])
async def test_seconds_from_now(database: Database, seconds: float) -> None:
    statement = select(database_now(), seconds_from_now(seconds), database_now())
    async with database.transaction() as session:
        before, later, after = (await session.execute(statement)).one()
        await session.execute(insert(INSTANTS).values(at=seconds_from_now(seconds)))
    delta = timedelta(seconds=seconds)
    assert before + delta <= later <= after + delta + timedelta(milliseconds=1)
    async with database.reading() as session:
        kept = (await session.execute(select(INSTANTS.c.at))).scalar_one()
    assert later <= kept <= later + timedelta(minutes=1)


async def test_texts_sort_by_byte(database: Database) -> None:
    names = ["B", "a", "Z", "z", "_", "é", "ab", "a b", "A"]
    async with database.transaction() as session:
        await session.execute(insert(NAMES), [{"name": name} for name in names])
    async with database.reading() as session:
        ordered = list((await session.execute(select(NAMES.c.name).order_by(NAMES.c.name))).scalars())
    assert ordered == sorted(names, key=str.encode)


def test_a_new_row_was_created_and_updated_at_one_time() -> None:
    for _ in range(5000):
        made = Customer(account_id="acc_1", name="Ada", email="ada@example.com")
        assert made.created_at == made.updated_at
    at, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    known = Customer(account_id="acc_1", name="Ada", email="a@example.com", created_at=at, updated_at=later)
    assert (known.created_at, known.updated_at) == (at, later)
