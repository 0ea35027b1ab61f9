"""Housekeeping: deletes expired rows, in small transactions that hold up no others.

The log loses a prefix, never past the dispatch position or an unfinished delivery; finished deliveries go with their
event. Stored successes of mutations are kept for a day, records of sent mails for a week, and records of mails to
unconfirmed addresses for as long as a limit counts them.
"""

from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, select, tuple_
from sqlmodel import col

from app.core import clock, failpoints
from app.customers.models import Customer
from app.db.database import Database
from app.db.idempotency import IdempotentMutation
from app.delivery.queue.models import Delivery
from app.events import log as event_log
from app.events.models import Dispatch, EventRecord, Stream
from app.imports import leftovers as imports
from app.outbound.mail import unconfirmed
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.models import TransactionalMail, UnconfirmedMail

EVENTS_AT_ONCE = 2000
ROWS_AT_ONCE = 2000
MUTATIONS_KEPT = timedelta(hours=24)
MAILS_KEPT = timedelta(days=7)

log = structlog.get_logger(__name__)


class Housekeeping:
    """Trims all growing tables. Several workers may do it at once."""

    def __init__(self, database: Database, retention_days: int, mail_files: MailFiles) -> None:
        self._database = database
        self._mail_files = mail_files
        self._retention = timedelta(days=retention_days)

    async def run(self) -> None:
        await self._finish_erasures()
        for account_id in await self._accounts_to_trim():
            await self._trim(account_id)
        await self._remove(Delivery, _old(Delivery, self._retention), _is_finished_test())
        await self._remove(IdempotentMutation, _old(IdempotentMutation, MUTATIONS_KEPT))
        await self._remove(
            TransactionalMail, _old(TransactionalMail, MAILS_KEPT), col(TransactionalMail.due_at).is_(None)
        )
        await imports.keep_house(self._database)
        for kind in unconfirmed.Kind:
            await self._remove(UnconfirmedMail, unconfirmed.is_uncounted(kind))

    async def _finish_erasures(self) -> None:
        """Removes the mails of customers whose deletion was committed by a process that then died."""
        for customer_id in await self._mail_files.noted():
            async with self._database.reading() as session:
                is_there = await session.get(Customer, customer_id) is not None
            await (self._mail_files.forget if is_there else self._mail_files.remove)(customer_id)

    async def _accounts_to_trim(self) -> list[str]:
        """The accounts whose oldest event is past retention."""
        oldest = (col(EventRecord.account_id) == col(Stream.account_id)) & (
            col(EventRecord.sequence) == col(Stream.first_sequence)
        )
        statement = (
            select(col(Stream.account_id))
            .join(EventRecord, oldest)
            .where(col(EventRecord.occurred_at) < clock.now() - self._retention)
        )
        async with self._database.reading() as session:
            return list((await session.execute(statement)).scalars())

    async def _trim(self, account_id: str) -> None:
        removed = 0
        while count := await self._trim_page(account_id):
            removed += count
        if removed:
            log.info("events_removed", account_id=account_id, count=removed)

    async def _trim_page(self, account_id: str) -> int:
        async with self._database.transaction() as session:
            # Under the log's lock no delivery can be revived: a manual retry needs its event.
            await event_log.lock_position(session, account_id)
            first = (await event_log.stream(session, account_id)).first_sequence
            dispatched = select(col(Dispatch.sequence)).where(col(Dispatch.account_id) == account_id)
            through = min((await session.execute(dispatched)).scalar_one(), first - 1 + EVENTS_AT_ONCE)
            waiting = select(func.min(col(Delivery.event_sequence))).where(
                col(Delivery.account_id) == account_id,
                col(Delivery.event_sequence).between(first, through),
                col(Delivery.due_at).is_not(None),
            )
            oldest = (await session.execute(waiting)).scalar_one()
            if oldest is not None:
                through = oldest - 1
            removed = await event_log.trim(session, account_id, self._retention, through)
            kept_from = (await event_log.stream(session, account_id)).first_sequence
            await session.execute(
                delete(Delivery).where(
                    col(Delivery.account_id) == account_id,
                    col(Delivery.event_sequence) < kept_from,
                    col(Delivery.due_at).is_(None),
                )
            )
            failpoints.reach("housekeeping.before_commit")
        return removed

    async def _remove(self, model: Any, *conditions: ColumnElement[bool]) -> None:
        """Deletes the rows that meet all conditions, a batch at a time."""
        keys = list(model.__table__.primary_key)
        key = tuple_(*keys) if len(keys) > 1 else keys[0]
        batch = select(*keys).where(*conditions).limit(ROWS_AT_ONCE)
        while True:
            async with self._database.transaction() as session:
                done = await session.execute(
                    delete(model).where(key.in_(batch)), execution_options={"synchronize_session": False}
                )
            if done.rowcount < ROWS_AT_ONCE:  # type: ignore[attr-defined]
                return


def _old(model: Any, kept: timedelta) -> ColumnElement[bool]:
    return col(model.created_at) < clock.now() - kept


def _is_finished_test() -> ColumnElement[bool]:
    """Finished deliveries of test events, which expire by their own age. By account, for the index."""
    accounts = select(col(Stream.account_id))
    return and_(
        col(Delivery.account_id).in_(accounts),
        col(Delivery.event_sequence).is_(None),
        col(Delivery.due_at).is_(None),
    )
