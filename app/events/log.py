"""The event log: appended in the transaction of the change, read in order.

`append` only buffers. At the transaction's very end one UPDATE takes the account's next numbers under its row lock,
one INSERT writes the events, and COMMIT follows with nothing between. So commit order is sequence order, a missing
number is a proof of loss, and accounts never wait for each other. The price: one account commits one event-making
transaction at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import (
    CursorResult,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import NoResultFound
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.core import clock, failpoints
from app.core.ids import new_id
from app.db.database import announce, before_commit, run_script
from app.db.raw_statements import Script
from app.db.types import database_now
from app.events.catalogue import EventData, event_class
from app.events.models import Dispatch, EventMeter, EventRecord, Stream
from app.events.record_filter import RecordFilter

_STREAMS: Final[Table] = Stream.__table__  # type: ignore[attr-defined]
_EVENTS: Final[Table] = EventRecord.__table__  # type: ignore[attr-defined]
_METERS: Final[Table] = EventMeter.__table__  # type: ignore[attr-defined]


def _take() -> ReturningUpdate[tuple[int, datetime]]:
    """Take the account's next numbers and their time, which is read under the row's lock and never runs backwards."""
    now, stream = database_now(), _STREAMS.c
    at = case((stream.last_occurred_at > now, stream.last_occurred_at), else_=now)
    return (
        update(_STREAMS)
        .where(stream.account_id == bindparam("account"))
        .values(last_sequence=stream.last_sequence + bindparam("count"), last_occurred_at=at)
        .returning(stream.last_sequence, stream.last_occurred_at)
    )


# Every change that matters runs these, and building them takes longer than their execution.
_TAKE: Final = _take()
_INSERT: Final = insert(_EVENTS)
_INSERT_METERS: Final = insert(_METERS)


@dataclass(frozen=True)
class Appended:
    """A committed event, as listeners of the database are told it."""

    record: EventRecord
    meter_ids: tuple[str, ...]


async def open_stream(session: AsyncSession, account_id: str) -> None:
    """Begin an account's log."""
    session.add(Stream(account_id=account_id, last_occurred_at=clock.now()))
    session.add(Dispatch(account_id=account_id))
    await session.flush()


def append(session: AsyncSession, account_id: str, event: EventData) -> None:
    """Record the event when, and only when, this transaction commits."""
    session.info.setdefault("events", {}).setdefault(account_id, []).append(event)
    before_commit(session, _write)


async def _write(session: AsyncSession) -> None:
    failpoints.reach("log.before_write")
    # Accounts in the order of their ids, so that two transactions over the same ones cannot deadlock.
    for account_id, events in sorted(session.info.pop("events", {}).items()):
        await _write_account(session, account_id, events)
    failpoints.reach("log.written")


async def _write_account(session: AsyncSession, account_id: str, events: list[EventData]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "account_id": account_id,
            "id": new_id("evt"),
            "type": event.type,
            "subject_id": event.subject_id(),
            "customer_id": event.about_customer(),
            "data": event.data(),
        }
        for event in events
    ]
    meter_ids = [tuple(event.about_meters()) for event in events]
    await run_script(session, _writing(account_id, rows, meter_ids))
    announce(
        session, [Appended(EventRecord(**row), named) for row, named in zip(rows, meter_ids, strict=True)]
    )


def _writing(
    account_id: str, rows: list[dict[str, Any]], meter_ids: Sequence[tuple[str, ...]]
) -> Script[None]:
    """Write the rows, which get their numbers and their time."""
    taken = yield _TAKE, {"account": account_id, "count": len(rows)}
    if not taken:
        raise NoResultFound("No row was found: the account has no log.")
    last, occurred_at = taken[0]
    for sequence, row in enumerate(rows, last - len(rows) + 1):
        row |= {"sequence": sequence, "occurred_at": occurred_at}
    yield _INSERT, rows
    named = [
        {"account_id": account_id, "meter_id": meter_id, "sequence": row["sequence"]}
        for row, ids in zip(rows, meter_ids, strict=True)
        for meter_id in dict.fromkeys(ids)
    ]
    if named:
        yield _INSERT_METERS, named


async def lock_position(session: AsyncSession, account_id: str) -> int:
    """The account's last sequence, read under its lock: later commits have higher numbers."""
    statement = (
        select(col(Stream.last_sequence)).where(col(Stream.account_id) == account_id).with_for_update()
    )
    position: int = (await session.execute(statement)).scalar_one()
    return position


async def stream(session: AsyncSession, account_id: str) -> Stream:
    """The epoch, beginning and end of an account's log, fresh from the database."""
    statement = select(Stream).where(col(Stream.account_id) == account_id)
    fresh = {"populate_existing": True}
    found: Stream = (await session.execute(statement, execution_options=fresh)).scalar_one()
    return found


async def page(
    session: AsyncSession,
    actor: Actor,
    after: int,
    through: int,
    limit: int,
    filter: RecordFilter | None = None,
) -> list[EventRecord]:
    """At most `limit` events that the actor may see and the filter takes, after one sequence through another."""
    statement = visible(select(EventRecord), actor).where(
        col(EventRecord.sequence) > after, col(EventRecord.sequence) <= through
    )
    if filter is not None:
        statement = filter.narrow(statement)
    statement = statement.order_by(col(EventRecord.sequence)).limit(limit)
    return list((await session.execute(statement)).scalars())


async def meters_named(
    session: AsyncSession, account_id: str, sequences: Sequence[int]
) -> dict[int, list[str]]:
    """The meters that these events name, by sequence."""
    statement = select(col(EventMeter.sequence), col(EventMeter.meter_id)).where(
        col(EventMeter.account_id) == account_id, col(EventMeter.sequence).in_(sequences)
    )
    named: dict[int, list[str]] = {sequence: [] for sequence in sequences}
    for sequence, meter_id in await session.execute(statement):
        named[sequence].append(meter_id)
    return named


async def redact(session: AsyncSession, account_id: str, customer_id: str) -> None:
    """Remove a deleted customer's personal data from what the log recorded; ids stay."""
    after = 0
    while True:
        statement = (
            select(EventRecord)
            .where(
                col(EventRecord.account_id) == account_id,
                col(EventRecord.customer_id) == customer_id,
                col(EventRecord.sequence) > after,
            )
            .order_by(col(EventRecord.sequence))
            .limit(500)
        )
        records = list((await session.execute(statement)).scalars())
        if not records:
            return
        for record in records:
            record.data = event_class(record.type).redacted(record.data)
        await session.flush()
        after = records[-1].sequence


async def trim(session: AsyncSession, account_id: str, before: timedelta, through: int) -> int:
    """Remove events older than `before`, a prefix of the log and never past `through`; returns their number."""
    # Locked first: an event that commits after its time was compared must not go with the old ones.
    position = await lock_position(session, account_id)
    limit = clock.now() - before
    kept = select(func.min(col(EventRecord.sequence))).where(
        col(EventRecord.account_id) == account_id, col(EventRecord.occurred_at) >= limit
    )
    first_kept = (await session.execute(kept)).scalar_one_or_none()
    cut = min(through, (first_kept - 1) if first_kept is not None else position)
    return await _remove_through(session, account_id, cut)


async def _remove_through(session: AsyncSession, account_id: str, sequence: int) -> int:
    await session.execute(
        delete(EventMeter).where(
            col(EventMeter.account_id) == account_id, col(EventMeter.sequence) <= sequence
        )
    )
    removed = await session.execute(
        delete(EventRecord).where(
            col(EventRecord.account_id) == account_id, col(EventRecord.sequence) <= sequence
        )
    )
    await session.execute(
        update(Stream)
        .where(col(Stream.account_id) == account_id, col(Stream.first_sequence) <= sequence)
        .values(first_sequence=sequence + 1),
        execution_options={"synchronize_session": False},
    )
    return cast(CursorResult[Any], removed).rowcount
