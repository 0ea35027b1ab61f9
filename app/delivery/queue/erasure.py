"""Erases what deliveries and mails keep about a deleted customer. A verb takes a session and never commits."""

from collections.abc import Collection
from functools import partial

from sqlalchemy import select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.database import before_commit
from app.delivery.queue.models import Delivery, DeliveryAttempt
from app.events.models import EventRecord
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.mail_queue import forget_mails_to

_UNTRACKED = {"synchronize_session": False}


async def forget_customer(
    session: AsyncSession,
    account_id: str,
    customer_id: str,
    consent_ids: Collection[str],
    addresses: Collection[str],
    mail_files: MailFiles,
) -> None:
    """Let nothing about a deleted customer go out any more, nor be kept.

    Bodies are made anew from the redacted log if they are sent once more, and receivers' answers go, since these may
    have repeated them. The mails with codes for the customer's consents go. Where mails are files, those about the
    customer are noted, for `MailFiles.remove` after the commit.
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
    mail_ids = await forget_mails_to(session, account_id, consent_ids, addresses)
    if mail_files.are_there:
        # A file has the id of a delivery or of a digest; deliveries of other kinds have no file.
        for row in await session.execute(select(col(Delivery.id), col(Delivery.digest_id)).where(*theirs)):
            mail_ids.update(filter(None, row))
        before_commit(session, partial(_note_files, mail_files, customer_id, mail_ids))


async def _note_files(
    mail_files: MailFiles, customer_id: str, mail_ids: Collection[str], _session: AsyncSession
) -> None:
    await mail_files.note(customer_id, mail_ids)
