"""The queue of transactional mails: mails that are not about an event. The functions never commit."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

import orjson
from sqlalchemy import delete, func, or_, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.crypto import Keyring
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.rendering import Mail


def enqueue(
    session: AsyncSession,
    keyring: Keyring,
    account_id: str,
    recipient: str,
    mail: Mail,
    about_id: str | None = None,
) -> TransactionalMail:
    """Queue a mail, encrypted as it may hold a token."""
    queued = TransactionalMail(
        account_id=account_id,
        recipient=recipient,
        content_encrypted=keyring.encrypt(orjson.dumps(asdict(mail)).decode()),
        about_id=about_id,
    )
    session.add(queued)
    return queued


async def mails_since(session: AsyncSession, about_id: str, recipient: str, since: datetime) -> int:
    """How many mails about a subject were queued for an address since then; they are kept for a week."""
    statement = select(func.count()).where(
        col(TransactionalMail.about_id) == about_id,
        col(TransactionalMail.recipient) == recipient,
        col(TransactionalMail.created_at) > since,
    )
    count: int = (await session.execute(statement)).scalar_one()
    return count


async def forget_mails_about(session: AsyncSession, about_id: str) -> None:
    """Delete the mails about a subscription, user or endpoint that is deleted; those still queued are not sent."""
    await session.execute(
        delete(TransactionalMail).where(col(TransactionalMail.about_id) == about_id),
        execution_options={"synchronize_session": False},
    )


async def forget_mails_to(
    session: AsyncSession, account_id: str, about_ids: Collection[str], addresses: Collection[str]
) -> set[str]:
    """Delete the account's mails about these subjects to a person with these addresses; gives the mails' ids."""
    recipient = func.lower(col(TransactionalMail.recipient))
    deleted = await session.execute(
        delete(TransactionalMail)
        .where(
            col(TransactionalMail.account_id) == account_id,
            or_(
                col(TransactionalMail.about_id).in_(about_ids),
                # Queued by an earlier version, which stored no subject.
                col(TransactionalMail.about_id).is_(None) & recipient.in_({one.lower() for one in addresses}),
            ),
        )
        .returning(col(TransactionalMail.id)),
        execution_options={"synchronize_session": False},
    )
    return set(deleted.scalars())
