"""Erases what deliveries and mails keep about a deleted customer. A verb takes a session and never commits."""

import asyncio
from collections.abc import Collection
from functools import partial
from pathlib import Path

from sqlalchemy import delete, func, or_, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.database import before_commit
from app.delivery.queue.models import Delivery, DeliveryAttempt, EmailSubscription
from app.events.models import EventRecord
from app.outbound.mail.models import TransactionalMail

_UNTRACKED = {"synchronize_session": False}


async def forget_customer(
    session: AsyncSession,
    account_id: str,
    customer_id: str,
    consent_ids: Collection[str],
    addresses: Collection[str],
    mail_folder: Path,
) -> None:
    """A deleted customer's data must not go out any more, nor be kept.

    Bodies are made anew from the redacted log should they be sent once more, and what receivers answered goes, since
    they may have repeated it. Of mails the codes for the customer's consents go, and the files of all mails about the
    customer, where mails are files.
    """
    about = select(col(EventRecord.sequence)).where(
        col(EventRecord.account_id) == account_id, col(EventRecord.customer_id) == customer_id
    )
    theirs = [col(Delivery.account_id) == account_id, col(Delivery.event_sequence).in_(about)]
    await session.execute(update(Delivery).where(*theirs).values(body=None), execution_options=_UNTRACKED)
    await session.execute(
        update(DeliveryAttempt)
        .where(col(DeliveryAttempt.delivery_id).in_(select(col(Delivery.id)).where(*theirs)))
        .values(response_body=None, request_digest=None),
        execution_options=_UNTRACKED,
    )
    gone = await session.execute(
        delete(TransactionalMail)
        .where(
            col(TransactionalMail.account_id) == account_id,
            or_(
                col(TransactionalMail.about_id).in_(consent_ids),
                # Queued by an earlier version, which did not say what they are about.
                col(TransactionalMail.about_id).is_(None)
                & func.lower(col(TransactionalMail.recipient)).in_({one.lower() for one in addresses}),
            ),
        )
        .returning(col(TransactionalMail.id)),
        execution_options=_UNTRACKED,
    )
    mail_ids = set(gone.scalars())
    mailed = select(col(Delivery.id), col(Delivery.digest_id)).where(
        *theirs, col(Delivery.destination_id).in_(select(col(EmailSubscription.id)))
    )
    for row in await session.execute(mailed):
        mail_ids.update(filter(None, row))
    # Before the commit: a customer that is gone never leaves a file behind.
    before_commit(session, partial(_unlink, mail_folder, mail_ids))


async def _unlink(mail_folder: Path, mail_ids: Collection[str], _session: AsyncSession) -> None:
    await asyncio.to_thread(_remove_files, mail_folder, mail_ids)


def _remove_files(mail_folder: Path, mail_ids: Collection[str]) -> None:
    """Files are named `<id>@<domain>.eml`."""
    if mail_ids and mail_folder.is_dir():
        for path in mail_folder.iterdir():
            if path.name.partition("@")[0] in mail_ids:
                path.unlink(missing_ok=True)
