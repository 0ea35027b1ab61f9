"""Counts of a worker's imports, for its metrics."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from app.db.database import Database
from app.db.sql import Sql

COUNTED_WAITING: Final = 10_000
COUNT_EVERY: Final = 15.0

_COUNT: Final = Sql("""
    SELECT COUNT(*) FROM (
        SELECT 1 FROM file_imports WHERE queued_at IS NOT NULL
        AND (leased_until IS NULL OR leased_until <= (SELECT @now)) LIMIT :most
    ) AS counted
""")


@dataclass
class ImportStats:
    """`ended` counts by status, `half_hours` those that imports have changed; `waiting` are all workers' imports."""

    under_way: int = 0
    waiting: int = 0
    half_hours: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    _count_at: float = 0.0

    async def count_waiting(self, database: Database) -> None:
        """Counts the imports that no worker has taken up, now and then."""
        started = time.monotonic()
        if started < self._count_at:
            return
        [[self.waiting]] = await database.read(_COUNT.of(database.is_sqlite), {"most": COUNTED_WAITING})
        self._count_at = started + COUNT_EVERY
