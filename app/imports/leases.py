"""Leases of imports, in the database's time: a worker holds an import for a while, and renews it while it works.

Each claim has a fence of its own. Everything that a worker writes of an import is in a transaction that asks for its
fence, so that a worker that was taken for dead changes nothing any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.accounts.models import Account
from app.db.database import Database
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql
from app.imports.models import FileImport

LEASE_SECONDS: Final = 30.0
RUNNING_OF_ACCOUNT: Final = 2
"""Imports of one account that are worked on at the same time, by all workers together."""
CANDIDATES: Final = 50

IMPORTS: Final = Table(FileImport)


class LeaseLost(Exception):
    """Another worker holds the import, or nobody may work on it any more."""


@dataclass(frozen=True)
class Claim:
    """An import that this worker holds, as it was claimed."""

    row: FileImport
    fence: int

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def account_id(self) -> str:
        return self.row.account_id


_FREE = "queued_at IS NOT NULL AND (leased_until IS NULL OR leased_until <= (SELECT @now))"
_UNDER_WAY = """
    SELECT COUNT(*) FROM file_imports AS others WHERE others.account_id = file_imports.account_id
    AND others.queued_at IS NOT NULL AND others.leased_until > (SELECT @now)
"""
# Imports of accounts that have the fewest under way come first, then the longest waiting.
_CANDIDATES: Final = Sql(f"""
    SELECT id, account_id FROM (
        SELECT id, account_id, queued_at, leased_until,
            COUNT(*) FILTER (WHERE leased_until > (SELECT @now)) OVER (PARTITION BY account_id) AS under_way
        FROM file_imports WHERE queued_at IS NOT NULL
    ) AS queued WHERE under_way < :most AND {_FREE} ORDER BY under_way, queued_at, id LIMIT :limit
""")  # noqa: S608 - our own text
_CLAIM: Final = Sql(f"""
    UPDATE file_imports SET leased_until = @later(:seconds), fence = fence + 1, tries = tries + 1
    WHERE id = :id AND {_FREE} AND ({_UNDER_WAY}) < :most RETURNING fence
""")  # noqa: S608 - our own text
_LOCK_ACCOUNT: Final = (
    select(col(Account.id)).where(col(Account.id) == bindparam("id")).with_for_update(key_share=True)
)
_ROW: Final = select(*IMPORTS.columns).where(col(FileImport.id) == bindparam("id"))
_HELD: Final = (
    select(*IMPORTS.columns)
    .where(
        col(FileImport.id) == bindparam("id"),
        col(FileImport.fence) == bindparam("fence"),
        col(FileImport.queued_at).is_not(None),
    )
    .with_for_update()
)
_RENEW: Final = Sql("""
    UPDATE file_imports SET leased_until = @later(:seconds), progress = :progress
    WHERE id = :id AND fence = :fence AND queued_at IS NOT NULL RETURNING id
""")
_RELEASE: Final = Sql("""
    UPDATE file_imports SET leased_until = @later(:seconds), queued_at = @now, tries = tries * :counts
    WHERE id = :id AND fence = :fence AND queued_at IS NOT NULL
""")


async def claim_next(database: Database, passed_over: Sequence[str] = ()) -> Claim | None:
    """Claims a waiting import by a fair choice; None if there is none."""
    found = await database.read(
        _CANDIDATES.of(database.is_sqlite), {"most": RUNNING_OF_ACCOUNT, "limit": CANDIDATES}
    )
    for import_id, account_id in found:
        if import_id in passed_over:
            continue
        if (claim := await database.transact(lambda _: _claim(import_id, account_id))) is not None:  # noqa: B023
            return claim
    return None


def _claim(import_id: str, account_id: str) -> Script[Claim | None]:
    # The account's lock makes sure that two workers do not exceed its number together.
    yield _LOCK_ACCOUNT, {"id": account_id}
    values = {"id": import_id, "seconds": LEASE_SECONDS, "most": RUNNING_OF_ACCOUNT}
    claimed = yield _CLAIM, values
    if not claimed:
        return None
    [row] = yield _ROW, {"id": import_id}
    return Claim(IMPORTS.row(row), claimed[0][0])


def held(claim: Claim) -> Script[FileImport]:
    """The import's row, locked. Raises LeaseLost."""
    found = yield _HELD, {"id": claim.id, "fence": claim.fence}
    if not found:
        raise LeaseLost(claim.id)
    return IMPORTS.row(found[0])


async def renew(database: Database, claim: Claim, progress: float) -> None:
    """Holds the import for longer, and writes how far it is. Raises LeaseLost."""
    values: dict[str, Any] = {**_place(claim), "seconds": LEASE_SECONDS, "progress": progress}

    def act(_: InTransaction) -> Script[Any]:
        return (yield _RENEW, values)

    if not await database.transact(act):
        raise LeaseLost(claim.id)


async def release(
    database: Database, claim: Claim, rest_seconds: float = 0.0, *, has_failed: bool = False
) -> None:
    """Gives the import back, for anyone to claim after a rest; it goes behind those that wait already.

    A try that has failed counts.
    """

    def act(transaction: InTransaction) -> Script[None]:
        values = {**_place(claim), "seconds": rest_seconds, "counts": int(has_failed)}
        yield _RELEASE.of(is_on_sqlite(transaction)), values

    await database.transact(act)


def _place(claim: Claim) -> dict[str, Any]:
    return {"id": claim.id, "fence": claim.fence}
