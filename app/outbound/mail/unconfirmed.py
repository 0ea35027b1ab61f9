"""The limits on mails to addresses that have not confirmed, which deletions do not reset.

Each such mail leaves a row with the mailbox's hash, which stays as long as a limit counts it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, insert, select, text
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.core.ids import new_id
from app.db.sql import is_sqlite
from app.db.types import database_now, seconds_from_now
from app.outbound.mail.addresses import mailbox_hashes
from app.outbound.mail.models import UnconfirmedMail
from app.outbound.mail.rendering import uk_time


class Kind(enum.Enum):
    """INVITATION: asks an address for a confirmation. CODE: asked for by a person on a page."""

    INVITATION = "INVITATION"
    CODE = "CODE"


@dataclass(frozen=True)
class Limit:
    most: int
    within: timedelta
    in_account: bool = False


LIMITS: Final[Mapping[Kind, tuple[Limit, ...]]] = {
    Kind.INVITATION: (Limit(3, timedelta(days=1), in_account=True), Limit(5, timedelta(days=1))),
    Kind.CODE: (Limit(5, timedelta(hours=1)),),
}

SENTENCES: Final[Mapping[Kind, str]] = {
    Kind.INVITATION: "This address has not confirmed the mails it was sent and gets no more of them for now: "
    "have the last one confirmed",
    Kind.CODE: "Several codes were sent to this address within an hour: use the last one",
}


async def count(
    session: AsyncSession, keyring: Keyring, kind: Kind, account_id: str, address: str, *field: str
) -> None:
    """Count a mail that is about to be queued. Raises LIMIT_REACHED, and then counts nothing."""
    hashes = mailbox_hashes(keyring, address)
    await _lock(session, hashes[-1])
    again_at = await _full_until(session, kind, account_id, hashes)
    if again_at is not None:
        raise Refusal(
            ErrorCode.LIMIT_REACHED, f"{SENTENCES[kind]}, or try again after {uk_time(again_at)}.", *field
        )
    values = {"account_id": account_id, "mailbox_hash": hashes[0], "kind": kind.value}
    await session.execute(
        insert(UnconfirmedMail).values(id=new_id("unm"), created_at=database_now(), **values)
    )


def lock_key(keyring: Keyring, address: str) -> str:
    """The key of the lock that `count` takes; a transaction that counts several addresses does so in its order."""
    return mailbox_hashes(keyring, address)[-1]


def is_uncounted(kind: Kind) -> ColumnElement[bool]:
    """Selects the rows of a kind that no limit counts any more."""
    return and_(
        col(UnconfirmedMail.kind) == kind.value,
        col(UnconfirmedMail.created_at) <= seconds_from_now(-_longest(kind)),
    )


async def _full_until(
    session: AsyncSession, kind: Kind, account_id: str, hashes: list[str]
) -> datetime | None:
    """The time when the mailbox may get its next mail of this kind; None: now."""
    statement = (
        select(col(UnconfirmedMail.account_id), col(UnconfirmedMail.created_at))
        .where(
            col(UnconfirmedMail.mailbox_hash).in_(hashes),
            col(UnconfirmedMail.kind) == kind.value,
            col(UnconfirmedMail.created_at) > seconds_from_now(-_longest(kind)),
        )
        .order_by(col(UnconfirmedMail.created_at).desc())
    )
    sent = (await session.execute(statement)).all()
    waits = []
    for limit in LIMITS[kind]:
        counted = [at for account, at in sent if account == account_id or not limit.in_account]
        if len(counted) >= limit.most:
            waits.append(counted[limit.most - 1] + limit.within)
    return max(waits, default=None)


def _longest(kind: Kind) -> float:
    return max(limit.within.total_seconds() for limit in LIMITS[kind])


async def _lock(session: AsyncSession, mailbox: str) -> None:
    """Transactions that mail to one mailbox count one after the other. SQLite has one writer anyway."""
    if not is_sqlite(session):
        await session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:mailbox, 0))"), {"mailbox": mailbox}
        )
