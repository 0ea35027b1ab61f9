"""The queue of transactional mails: mails that are not about an event. The functions never commit."""

from dataclasses import asdict

import orjson
from sqlalchemy import delete
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


async def forget_mails_about(session: AsyncSession, about_id: str) -> None:
    """Delete the mails about a subscription, user or endpoint that is deleted; those still queued are not sent."""
    await session.execute(
        delete(TransactionalMail).where(col(TransactionalMail.about_id) == about_id),
        execution_options={"synchronize_session": False},
    )
