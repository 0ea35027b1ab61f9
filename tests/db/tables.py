"""Tables for tests of the database, and short ways to use them."""

import asyncio

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, select, update

from app.db.database import Database
from app.db.types import Text, UtcDateTime

METADATA = MetaData()
COUNTERS = Table("counters", METADATA, Column("id", Integer, primary_key=True), Column("value", Integer))
PARTS = Table(
    "parts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("counter_id", ForeignKey("counters.id", deferrable=True, initially="DEFERRED")),
)
INSTANTS = Table("instants", METADATA, Column("id", Integer, primary_key=True), Column("at", UtcDateTime))
NAMES = Table("names", METADATA, Column("name", Text, primary_key=True), Column("note", String))


class Undone(Exception):
    """Ends a transaction that a test does not want."""


async def counter(database: Database) -> int:
    async with database.reading() as session:
        value: int = (await session.execute(select(COUNTERS.c.value))).scalar_one()
        return value


async def add_one(database: Database) -> None:
    """A read, a wait, and a write of what was read and one more."""
    async with database.transaction() as session:
        value = (await session.execute(select(COUNTERS.c.value).with_for_update())).scalar_one()
        await asyncio.sleep(0)
        await session.execute(update(COUNTERS).values(value=value + 1))
