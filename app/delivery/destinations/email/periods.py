"""When digests are due: at the next full hour, or at seven in the morning in the United Kingdom."""

from datetime import datetime, time, timedelta
from typing import Final

from app.core.clock import UK
from app.delivery.destinations.email.models import Digest

MORNING: Final = time(7)


def next_digest(digest: str, now: datetime) -> datetime | None:
    """When an event of this moment is sent; None where each event is sent at once."""
    if digest == Digest.IMMEDIATE.value:
        return None
    if digest == Digest.HOURLY.value:
        return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    there = now.astimezone(UK)
    morning = datetime.combine(there.date(), MORNING, UK)
    if there >= morning:
        morning = datetime.combine(there.date() + timedelta(days=1), MORNING, UK)
    return morning.astimezone(now.tzinfo)
