"""The event log: appended in the transaction of the change, read in order.

`append` only buffers. At the transaction's very end one UPDATE takes the account's next numbers under its row lock,
one INSERT writes the events, and COMMIT follows with nothing between. So commit order is sequence order, a missing
number is a proof of loss, and accounts never wait for each other. The price: one account commits one event-making
transaction at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import NoResultFound
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.selectable import TextualSelect
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.core import clock, failpoints
from app.core.ids import new_id
from app.db.database import run_script
from app.db.raw_statements import Parameters, Script, pad_to_power_of_two
from app.db.rows import Table as RowTable
from app.db.scripts import InTransaction, announce, is_on_sqlite, write_before_commit
from app.db.sql import Sql, rows
from app.db.types import POSTGRES_NOW, UtcDateTime, database_now
from app.events.catalogue import EventData, event_class
from app.events.models import Dispatch, EventMeter, EventRecord, Stream
from app.events.record_filter import RecordFilter

Write = tuple[Sql, Parameters | Sequence[Parameters]]
"""A statement with its parameters, on PostgreSQL those of one execution."""

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
_METERS_NAMED: Final = select(col(EventMeter.sequence), col(EventMeter.meter_id)).where(
    col(EventMeter.account_id) == bindparam("account"),
    col(EventMeter.sequence).in_(bindparam("sequences", expanding=True)),
)
_RECORDS: Final = RowTable(EventRecord)
_NO_LOG: Final = "No row was found: the account has no log."


@cache
def _writing(along: tuple[Sql, ...]) -> TextualSelect:
    """The statement that writes the log's rows on PostgreSQL, and executes others along with that.

    PostgreSQL alone takes writes within WITH. The UPDATE waits for the row's lock and then has its latest version.
    """
    others = "".join(f"along_{number} AS ({one.as_part(number)}), " for number, one in enumerate(along))
    return text(f"""
        WITH {others} taken AS (
            UPDATE streams SET
                last_sequence = last_sequence + CAST(:count AS bigint),
                last_occurred_at = greatest(last_occurred_at, {POSTGRES_NOW})
            WHERE account_id = :account
            RETURNING last_sequence, last_occurred_at
        ), given AS (
            SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS given(
                place bigint, id text, type text, subject_id text, customer_id text, data jsonb, meters jsonb
            )
        ), written AS (
            INSERT INTO events (account_id, sequence, id, type, occurred_at, subject_id, customer_id, data)
            SELECT :account, last_sequence + place, id, type, last_occurred_at, subject_id, customer_id, data
            FROM taken, given
        ), named AS (
            INSERT INTO event_meters (account_id, meter_id, sequence)
            SELECT DISTINCT CAST(:account AS text), meter_id, last_sequence + place
            FROM taken, given, jsonb_array_elements_text(meters) AS named(meter_id)
        )
        SELECT last_sequence, last_occurred_at FROM taken
    """).columns(last_sequence=BigInteger, last_occurred_at=UtcDateTime)  # noqa: S608 - our own words


@dataclass(frozen=True)
class Appended:
    """A committed event, as listeners of the database are told it."""

    record: EventRecord
    meter_ids: tuple[str, ...]
    # What listeners have read of it in its transaction and made of that, each by a key of its own.
    early: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    payloads: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def is_seen_by(self, actor: Actor) -> bool:
        """The same rule as `EventRecord.seen_by`, for an event that is at hand."""
        if self.record.account_id != actor.account_id:
            return False
        return actor.sees_whole_account or self.record.customer_id == actor.customer_id


async def open_stream(session: AsyncSession, account_id: str) -> None:
    """Begin an account's log."""
    session.add(Stream(account_id=account_id, last_occurred_at=clock.now()))
    session.add(Dispatch(account_id=account_id))
    await session.flush()


def append(transaction: InTransaction, account_id: str, event: EventData) -> None:
    """Record the event when, and only when, this transaction commits."""
    transaction.info.setdefault("events", {}).setdefault(account_id, []).append(event)
    write_before_commit(transaction, _write)


def write_along(transaction: InTransaction, write: Write) -> Script[None]:
    """Executes a short write that gives no rows. This transaction neither reads nor changes its rows again.

    On PostgreSQL the statement that writes the transaction's events executes it as well, which saves a round trip.
    """
    if is_on_sqlite(transaction):
        yield write
    else:
        transaction.info.setdefault("along", []).append(write)
        write_before_commit(transaction, _write)


def _write(transaction: InTransaction) -> Script[None]:
    failpoints.reach("log.before_write")
    on_sqlite = is_on_sqlite(transaction)
    along: list[Write] = transaction.info.pop("along", [])
    # Accounts in the order of their ids, so that two transactions over the same ones cannot deadlock.
    for account_id, events in sorted(transaction.info.pop("events", {}).items()):
        new = [_New(account_id, event) for event in events]
        if on_sqlite:
            last, occurred_at = yield from _write_account(account_id, new)
        else:
            last, occurred_at = yield from _write_account_at_once(account_id, new, along)
            along = []
        for sequence, one in enumerate(new, last - len(new) + 1):
            one.values |= {"sequence": sequence, "occurred_at": occurred_at}
        announce(transaction, [Appended(_RECORDS.of(one.values), one.meter_ids) for one in new])
    for write in along:  # noqa: UP028 - a list takes no rows
        yield write
    failpoints.reach("log.written")


class _New:
    """An event that has no number yet."""

    def __init__(self, account_id: str, event: EventData) -> None:
        self.meter_ids = tuple(event.about_meters())
        self.values: dict[str, Any] = {
            "account_id": account_id,
            "id": new_id("evt"),
            "type": event.type,
            "subject_id": event.subject_id(),
            "customer_id": event.about_customer(),
            "data": event.data(),
        }


def _write_account(account_id: str, new: list[_New]) -> Script[tuple[int, datetime]]:
    """Write the events; returns the last one's number, and their time."""
    taken = yield _TAKE, {"account": account_id, "count": len(new)}
    if not taken:
        raise NoResultFound(_NO_LOG)
    last, occurred_at = taken[0]
    numbered = list(enumerate(new, last - len(new) + 1))
    yield (
        _INSERT,
        [{**one.values, "sequence": sequence, "occurred_at": occurred_at} for sequence, one in numbered],
    )
    named = [
        {"account_id": account_id, "meter_id": meter_id, "sequence": sequence}
        for sequence, one in numbered
        for meter_id in dict.fromkeys(one.meter_ids)
    ]
    yield _INSERT_METERS, named
    return last, occurred_at


def _write_account_at_once(
    account_id: str, new: list[_New], along: Sequence[Write]
) -> Script[tuple[int, datetime]]:
    """The same by one statement, and so one round trip, with other writes."""
    given = [
        {**one.values, "place": place, "meters": one.meter_ids} for place, one in enumerate(new, 1 - len(new))
    ]
    parameters: dict[str, Any] = {"account": account_id, "count": len(new), "rows": rows(given)}
    for number, (_, values) in enumerate(along):
        assert isinstance(values, Mapping)  # noqa: S101 - as `Write` has it
        parameters |= {f"{name}_{number}": value for name, value in values.items()}
    written = yield _writing(tuple(statement for statement, _ in along)), parameters
    if not written:
        raise NoResultFound(_NO_LOG)
    last, occurred_at = written[0]
    return last, occurred_at


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
    return await run_script(session, find_meters_named(account_id, sequences))


def find_meters_named(account_id: str, sequences: Sequence[int]) -> Script[dict[int, list[str]]]:
    """The meters that these events name, by sequence."""
    named: dict[int, list[str]] = {sequence: [] for sequence in sequences}
    if sequences:
        wanted = pad_to_power_of_two(list(sequences))
        for sequence, meter_id in (yield _METERS_NAMED, {"account": account_id, "sequences": wanted}):
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
