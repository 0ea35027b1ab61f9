"""Leases of credentials, in the database's time: one worker at a time asks a source with the same credentials.

Each claim has a fence of its own, which everything that a worker records asks for. Due work is found by three index
searches for each feed that may fetch, and never by a scan: half a million meters that are overdue behind a source that
is away slow no other feed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.db.database import Database
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.db.sql import Sql
from app.feeds.enums import FeedStatus
from app.feeds.models import Feed

LEASE_SECONDS: Final = 30.0
"""A credential whose worker has died is claimed by another after so long."""

_FEEDS: Final = Table(Feed)

BACKFILL_DUE: Final = "backfills.completed_at IS NULL AND backfills.due_at <= (SELECT @now)"
DAILY_DUE: Final = "meter_feeds.due_at IS NOT NULL AND meter_feeds.due_at <= (SELECT @now)"
REPAIR_DUE: Final = "meter_feeds.repair_at IS NOT NULL AND meter_feeds.repair_at <= (SELECT @now)"
SORTS_OF_DUE_WORK: Final = (
    ("backfills", "due_at", BACKFILL_DUE),
    ("meter_feeds", "due_at", DAILY_DUE),
    ("meter_feeds", "repair_at", REPAIR_DUE),
)
"""The table, its column, and the condition of each sort, for which the column has a partial index behind `feed_id`."""

_PROBES: Final = tuple(
    f"SELECT 1 FROM {table} WHERE {table}.feed_id = feeds.id AND {due} ORDER BY {column} LIMIT 1"  # noqa: S608
    for table, column, due in SORTS_OF_DUE_WORK
)
_IS_FREE: Final = """
    (feed_credentials.leased_until IS NULL OR feed_credentials.leased_until <= (SELECT @now))
    AND (feed_credentials.rests_until IS NULL OR feed_credentials.rests_until <= (SELECT @now))
"""
_CANDIDATES: Final = """
    SELECT feeds.credential_key, feeds.account_id FROM feeds
    LEFT JOIN feed_credentials ON feed_credentials.key = feeds.credential_key {probe}
    WHERE feeds.status = 'ACTIVE' AND feeds.credential_key > :after AND {free} {due}
    ORDER BY feeds.credential_key LIMIT :limit
"""
# PostgreSQL may turn EXISTS into a scan of all that is due, and a search without an order into one for each feed.
_DUE: Final = Sql(
    _CANDIDATES.format(
        probe=f"CROSS JOIN LATERAL ({' UNION ALL '.join(f'({one})' for one in _PROBES)} LIMIT 1) AS due",
        free=_IS_FREE,
        due="",
    ),
    sqlite=_CANDIDATES.format(
        probe="", free=_IS_FREE, due=f"AND ({' OR '.join(f'EXISTS ({one})' for one in _PROBES)})"
    ),
)
_CLAIM: Final = Sql(f"""
    INSERT INTO feed_credentials (key, leased_until, rests_until, fence, failures)
    VALUES (:key, @later(:seconds), NULL, 1, 0)
    ON CONFLICT (key) DO UPDATE SET leased_until = @later(:seconds), fence = feed_credentials.fence + 1
    WHERE {_IS_FREE} RETURNING fence, failures
""")  # noqa: S608 - our own text
_ACTIVE: Final = (
    select(*_FEEDS.columns)
    .where(col(Feed.credential_key) == bindparam("key"), col(Feed.status) == FeedStatus.ACTIVE.name)
    .order_by(col(Feed.id))
)
_RENEW: Final = Sql("""
    UPDATE feed_credentials SET leased_until = @later(:seconds) WHERE key = :key AND fence = :fence RETURNING key
""")
_RELEASE: Final = Sql("""
    UPDATE feed_credentials SET leased_until = NULL, rests_until = NULL, failures = :failures
    WHERE key = :key AND fence = :fence RETURNING key
""")
_REST: Final = Sql("""
    UPDATE feed_credentials SET leased_until = NULL, rests_until = @later(:seconds), failures = :failures
    WHERE key = :key AND fence = :fence RETURNING key
""")
_RAN: Final = Sql("UPDATE feeds SET last_run_at = @now WHERE id = :id")


class LeaseLost(Exception):
    """Another worker holds the credential."""


class Candidate(NamedTuple):
    """A free credential with due work, and an account whose feed has it."""

    key: str
    account_id: str


@dataclass
class Claim:
    """A credential that this worker holds, with the feeds that may fetch by it.

    `failures` counts the source's failures in a row. `asked` are the feeds that fetched.
    """

    key: str
    fence: int
    failures: int
    feeds: Sequence[Feed]
    asked: set[str] = field(default_factory=set)

    @property
    def place(self) -> dict[str, Any]:
        """Its key and fence, as parameters of statements."""
        return {"key": self.key, "fence": self.fence}


async def due_credentials(database: Database, after: str, limit: int) -> list[Candidate]:
    """Free credentials with due work, in the order of their keys, behind `after`."""
    found = await database.read(_DUE.of(database.is_sqlite), {"after": after, "limit": limit})
    return [Candidate(*row) for row in found]


async def claim(database: Database, key: str) -> Claim | None:
    """Claims a credential; None if another worker has it, or it rests."""

    def act(_: InTransaction) -> Script[Claim | None]:
        found = yield _CLAIM, {"key": key, "seconds": LEASE_SECONDS}
        if not found:
            return None
        [(fence, failures)] = found
        feeds = [_FEEDS.row(row) for row in (yield _ACTIVE, {"key": key})]
        return Claim(key, fence, failures, feeds)

    return await database.transact(act)


async def renew(database: Database, claim: Claim) -> None:
    """Holds the credential for longer. Raises LeaseLost."""

    def act(_: InTransaction) -> Script[Any]:
        return (yield _RENEW, {**claim.place, "seconds": LEASE_SECONDS})

    if not await database.transact(act):
        raise LeaseLost


async def release(database: Database, claim: Claim, rest_seconds: float = 0.0) -> None:
    """Gives the credential back, for anyone to claim after its rest."""

    def act(_: InTransaction) -> Script[None]:
        values: dict[str, Any] = {**claim.place, "failures": claim.failures}
        if rest_seconds > 0:
            held = yield _REST, {**values, "seconds": rest_seconds}
        else:
            held = yield _RELEASE, values
        if held:
            for feed_id in sorted(claim.asked):
                yield _RAN, {"id": feed_id}

    await database.transact(act)
