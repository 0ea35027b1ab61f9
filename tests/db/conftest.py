"""A database with the tables of `tables`."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert

from app.db.database import Database
from tests.db.tables import COUNTERS, METADATA


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    async with opened.transaction() as session:
        await (await session.connection()).run_sync(METADATA.create_all)
        await session.execute(insert(COUNTERS).values(id=1, value=0))
    yield opened
    await opened.dispose()
