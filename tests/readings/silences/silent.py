"""Meters that have been silent for five days."""

from datetime import timedelta

from app.core import clock
from app.readings.silences.channels import OVERDUE_AFTER
from app.readings.silences.worker import Silences
from tests.support import World


async def silent_meters(world: World) -> None:
    """Looks at all meters as a worker will in five days, if nothing happens until then."""
    later = clock.now() + OVERDUE_AFTER + timedelta(hours=1)
    assert await Silences(world.database, lambda: later).step()
