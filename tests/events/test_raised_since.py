"""The upgrade from which on the passing of time raises events."""

import pytest
from sqlalchemy import select

from app.core import clock
from app.db.database import Database
from app.db.migrations import migrate
from app.events.catalogue import event_class
from app.events.models import RaisedSince

pytestmark = pytest.mark.both_databases


async def test_the_upgrade_notes_its_instant_for_each_event_that_time_raises(database_url: str) -> None:
    before = clock.now()
    database = Database(database_url)
    try:
        await migrate(database)
        async with database.reading() as session:
            noted = {one.type: one.since for one in (await session.execute(select(RaisedSince))).scalars()}
    finally:
        await database.dispose()
    assert noted.keys() == {"hosted_consent.expired", "meter_data.overdue"}
    assert all(event_class(name).type == name for name in noted)
    assert all(before <= since <= clock.now() for since in noted.values())
