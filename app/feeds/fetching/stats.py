"""Counts of a worker's fetches by the kinds of feeds, for its metrics."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from app.core import clock
from app.db.database import Database
from app.db.sql import Sql
from app.feeds.fetching.leases import SORTS_OF_DUE_WORK

COUNTED_DUE: Final = 10_000
"""Due pieces of work that are counted of one feed and sort of work."""
COUNT_EVERY: Final = 15.0
"""Seconds between two counts, or 100 times as long as one takes."""

_COUNTED: Final = " + ".join(
    f"(SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {table}.feed_id = feeds.id AND {due} LIMIT :most) AS counted)"  # noqa: S608
    for table, _, due in SORTS_OF_DUE_WORK
)
_OLDEST: Final = ", ".join(
    f"MIN((SELECT @ms({column}) FROM {table} WHERE {table}.feed_id = feeds.id AND {due} ORDER BY {column} LIMIT 1))"  # noqa: S608
    for table, column, due in SORTS_OF_DUE_WORK
)
_COUNT: Final = Sql(f"""
    SELECT feeds.kind, SUM({_COUNTED}), {_OLDEST} FROM feeds WHERE feeds.status = 'ACTIVE' GROUP BY feeds.kind
""")  # noqa: S608 - our own text


@dataclass
class FeedStats:
    """Counts by kind; failures by kind and meaning."""

    in_flight: Counter[str] = field(default_factory=Counter)
    half_hours: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    leases_lost: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    due: dict[str, int] = field(default_factory=dict)
    oldest_due_seconds: dict[str, float] = field(default_factory=dict)
    _count_at: float = 0.0

    async def count_due(self, database: Database) -> None:
        """Counts what is due, now and then, so that it takes a small part of the time however much it is."""
        started = time.monotonic()
        if started < self._count_at:
            return
        found = await database.read(_COUNT.of(database.is_sqlite), {"most": COUNTED_DUE})
        now_ms = clock.to_ms(clock.now())
        self.due = {kind: int(count) for kind, count, *_ in found}
        self.oldest_due_seconds = {
            kind: max((now_ms - one for one in oldest if one is not None), default=0) / 1000
            for kind, _, *oldest in found
        }
        ended = time.monotonic()
        self._count_at = ended + max(COUNT_EVERY, 100 * (ended - started))
