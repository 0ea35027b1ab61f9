"""The instant from which on the passing of time raises events, moved."""

from datetime import datetime, timedelta

from sqlalchemy import update

from app.core import clock
from app.events.models import RaisedSince
from tests.support import World


async def upgraded_at(world: World, at: datetime | None = None) -> None:
    """Lets the database have been upgraded at this instant, by default a month ago."""
    since = at or clock.now() - timedelta(days=30)
    async with world.database.transaction() as session:
        await session.execute(update(RaisedSince).values(since=since))
