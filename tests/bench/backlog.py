"""Puts work into the database of a running Voltwire: many events in one commit, or deliveries that wait long since."""

import asyncio
import itertools
from collections.abc import Sequence

from sqlalchemy import text

from app.database import Database
from app.events import log
from app.meters.events import MeterCreated
from tests.bench.servers import Installation

LABELS = {f"label-{n}": f"value {n} of a meter" for n in range(6)}
"""Metadata as an account may keep it; with it a webhook's body has 1 KB."""

EVENT = MeterCreated.model_validate(MeterCreated.example | {"metadata": LABELS})

WAITING = text("""
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    INSERT INTO deliveries (id, account_id, event_id, event_sequence, event_type, destination_id, replay_id, status,
        lane, attempts_made, schedule_start, due_at, fence, created_at, body)
    SELECT 'dlv_waiting_' || n, streams.account_id, 'evt_waiting_' || n, n, 'meter.created', :endpoint_id, '',
        'PENDING', 0, 0, 0, last_occurred_at, 0, last_occurred_at, CAST(:body AS BYTEA)
    FROM numbers, streams WHERE streams.account_id = :account_id
""")

IS_WAITING = text("SELECT 1 FROM deliveries WHERE due_at IS NOT NULL LIMIT 1")

LOOK_EVERY = 0.02


class Backlog:
    """Writes behind the back of a Voltwire, with its own code where it has some for that."""

    def __init__(self, installation: Installation) -> None:
        self._database = Database(installation.database_url)

    async def commit_events(self, account_ids: Sequence[str], count: int) -> None:
        """So many events of 1 KB in one commit, the accounts by turns. Nobody is told."""
        async with self._database.transaction() as session:
            for account_id in itertools.islice(itertools.cycle(account_ids), count):
                log.append(session, account_id, EVENT)

    async def add_waiting(self, account_id: str, endpoint_id: str, count: int) -> None:
        """So many deliveries to the endpoint that are due."""
        values = {"account_id": account_id, "endpoint_id": endpoint_id, "count": count, "body": b"{}"}
        async with self._database.transaction() as session:
            await session.execute(WAITING, values)

    async def until_recorded(self) -> None:
        """Return when no delivery waits for an outcome."""
        while await self._is_waiting():  # noqa: ASYNC110 - it is another process that works
            await asyncio.sleep(LOOK_EVERY)

    async def _is_waiting(self) -> bool:
        async with self._database.reading() as session:
            return (await session.execute(IS_WAITING)).first() is not None

    async def analyze(self) -> None:
        """What PostgreSQL does by itself within a minute, which is longer than a benchmark has been running."""
        if not self._database.is_sqlite:
            async with self._database.transaction() as session:
                await session.execute(text("ANALYZE"))

    async def __aenter__(self) -> "Backlog":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.dispose()
