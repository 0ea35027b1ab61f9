"""Puts work into the database of a running Voltwire: many events in one commit, or deliveries that wait long since."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from scripts.benchmarks.harness.api import Api, mpan
from scripts.benchmarks.harness.copies import Copies, copy, some_ids
from scripts.benchmarks.harness.servers import Installation

LABELS = {f"label-{n}": f"value {n} of a meter" for n in range(6)}
"""Metadata as an account may keep it; with it a webhook's body has 1 KB."""

NUMBERS = text("""
    UPDATE streams SET last_sequence = last_sequence + :count WHERE account_id = :account_id RETURNING last_sequence
""")
LOOK_EVERY = 0.02


async def make_template(api: Api) -> None:
    """The event that `commit_events` copies: a meter of one customer, with metadata."""
    (customer,) = await api.customers(1)
    await api.mutate(
        "createMeter", "meter { id }", {"customerId": customer, "number": mpan(0), "metadata": LABELS}
    )


class Backlog(Copies):
    """Writes behind the back of a Voltwire."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(installation.database_url)

    async def commit_events(self, account_ids: Sequence[str], count: int) -> None:
        """Commits `count` events of 1 KB of each account at once, without a notice to anybody."""
        async with self.engine.begin() as connection:
            for number, account_id in enumerate(sorted(account_ids)):
                share = count // len(account_ids) + (number < count % len(account_ids))
                await self._append(connection, account_id, share)

    async def _append(self, connection: AsyncConnection, account_id: str, count: int) -> None:
        taken = await connection.execute(NUMBERS, {"account_id": account_id, "count": count})
        changed = {
            "id": some_ids("evt"),
            "sequence": f"{taken.scalar_one() - count + 1} + n",
            "occurred_at": "(SELECT last_occurred_at FROM streams WHERE account_id = :account_id)",
        }
        where = (
            "copied.account_id = :account_id AND copied.sequence = (SELECT min(sequence) FROM events"
            " WHERE account_id = :account_id AND type = 'meter.created')"
        )
        await copy(connection, "events", count, changed, where, {"account_id": account_id})

    async def add_waiting(self, endpoint_id: str, count: int) -> None:
        """Adds `count` due deliveries to the endpoint, copies of the one it has."""
        changed = {
            "id": some_ids("dlv"),
            "event_id": some_ids("evt"),
            "event_sequence": "n + 1",
            "status": "'PENDING'",
            "lane": "0",
            "attempts_made": "0",
            "due_at": "copied.created_at",
            "leased_until": "NULL",
            "fence": "0",
        }
        async with self.engine.begin() as connection:
            where = "copied.destination_id = :endpoint_id"
            await copy(connection, "deliveries", count, changed, where, {"endpoint_id": endpoint_id})

    async def until_recorded(self) -> None:
        """Return when no delivery waits for an outcome."""
        await self._until("NOT EXISTS (SELECT 1 FROM deliveries WHERE due_at IS NOT NULL)")

    async def until_delivering(self, endpoint_id: str) -> None:
        """Return when the endpoint has a delivery, whatever became of it."""
        await self._until(f"EXISTS (SELECT 1 FROM deliveries WHERE destination_id = '{endpoint_id}')")

    async def _until(self, condition: str) -> None:
        while not await self.ask(f"SELECT 1 WHERE {condition}"):  # noqa: ASYNC110 - it is another process that works
            await asyncio.sleep(LOOK_EVERY)
