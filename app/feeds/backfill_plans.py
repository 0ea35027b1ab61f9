"""Backfills: which parts they have, when they begin, and how they end before all is fetched."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlmodel import col

from app.consents.coverage import effective_consents, meters_with_valid_consent
from app.consents.models import ConsentFlowType
from app.core import clock
from app.db.raw_statements import Rows, Script, pad_to_power_of_two
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.db.types import UtcDateTime
from app.events.publisher import work_due
from app.feeds.enums import UNFINISHED, BackfillStatus
from app.feeds.models import Backfill, BackfillPart, MeterFeed
from app.meters.models import Meter
from app.readings.buckets import Lookback

MONTHS: Final = 13
"""The months that a backfill goes back unless it is asked for others."""
METERS_PER_STATEMENT: Final = 400

Period = tuple[datetime, datetime]
"""`[start, end)` in UTC."""

_BACKFILLS: Final = Table(Backfill)
_PARTS: Final = Table(BackfillPart)
_METERS: Final = Table(Meter)
_GIVEN: Final[Any] = bindparam("meter_ids", expanding=True)
_AT: Final[Any] = bindparam("at", type_=UtcDateTime())
_LOCK: Final = (
    select(col(Meter.id)).where(col(Meter.id).in_(_GIVEN)).order_by(col(Meter.id)).with_for_update()
)
# Meters with a feed, and whether a backfill of theirs is under way.
_FED: Final = (
    select(
        *_METERS.columns,
        col(MeterFeed.feed_id),
        select(col(Backfill.id))
        .where(col(Backfill.meter_id) == col(Meter.id), col(Backfill.completed_at).is_(None))
        .correlate(Meter)
        .scalar_subquery()
        .label("unfinished_id"),
    )
    .join(MeterFeed, col(MeterFeed.meter_id) == col(Meter.id))
    .where(col(Meter.id).in_(_GIVEN))
    .order_by(col(Meter.id))
)
_DUE: Final = (
    update(MeterFeed)
    .where(col(MeterFeed.meter_id) == bindparam("wanted_id"), col(MeterFeed.due_at).is_(None))
    .values(due_at=bindparam("daily_at", type_=UtcDateTime()))
)
_REST: Final = (
    update(MeterFeed).where(col(MeterFeed.meter_id).in_(_GIVEN)).values(due_at=None, repair_at=None)
)
_UNFINISHED_OF: Final = (
    select(col(Backfill.id))
    .where(col(Backfill.meter_id).in_(_GIVEN), col(Backfill.completed_at).is_(None))
    .order_by(col(Backfill.id))
    .with_for_update()
)
_UNFINISHED_OF_FEED: Final = (
    select(col(Backfill.id))
    .where(col(Backfill.feed_id) == bindparam("feed_id"), col(Backfill.completed_at).is_(None))
    .order_by(col(Backfill.id))
    .limit(METERS_PER_STATEMENT)
    .with_for_update()
)
_BACKFILL_IDS: Final[Any] = bindparam("backfill_ids", expanding=True)
_END_PARTS: Final = (
    update(BackfillPart)
    .where(col(BackfillPart.backfill_id).in_(_BACKFILL_IDS), col(BackfillPart.status).in_(UNFINISHED))
    .values(status=bindparam("end_status"))
)
_END: Final = (
    update(Backfill)
    .where(col(Backfill.id).in_(_BACKFILL_IDS))
    .values(status=bindparam("end_status"), completed_at=_AT)
)


def start_of_today() -> datetime:
    """The start of today in the UK, at which every period that is fetched ends at the latest."""
    return clock.start_of_uk_day(clock.uk_date(clock.now()))


def months_before(instant: datetime, months: int) -> datetime:
    """The instant so many months earlier by the UK's calendar, at its time of day; days are clamped."""
    return Lookback(months, "m").before(instant)


def plan(flow_type: ConsentFlowType, to: datetime, start: datetime | None = None) -> list[Period]:
    """The parts of a backfill up to `to`, the newest first: months for homes, all at once for businesses.

    `start` is 13 months before unless given; the oldest part may be shorter than a month.
    """
    if start is None:
        start = months_before(to, MONTHS)
    if flow_type is ConsentFlowType.GB_COMMERCIAL_BLANKET:
        return [(start, to)]
    parts: list[Period] = []
    while (end := months_before(to, len(parts))) > start:
        parts.append((max(months_before(to, len(parts) + 1), start), end))
    return parts


def daily_due(meter_id: str, day: date) -> datetime:
    """The time of a UK day at which a meter is fetched: by a hash of its id, so that all are spread over the day."""
    start, end = clock.to_ms(clock.start_of_uk_day(day)), clock.to_ms(clock.end_of_uk_day(day))
    place = int.from_bytes(hashlib.blake2b(meter_id.encode(), digest_size=8).digest()) / 2**64
    return clock.from_ms(start + int((end - start) * place))


def begin_backfill(
    transaction: InTransaction,
    meter: Meter,
    feed_id: str,
    starts_at: datetime,
    ends_at: datetime,
    parts: Sequence[Period],
) -> Script[Backfill]:
    """Begins a backfill of a meter that has none under way; the caller has locked the meter."""
    backfill = _new(meter, feed_id, starts_at, ends_at)
    yield from _insert(transaction, [(backfill, parts)])
    return backfill


def begin_where_consented(transaction: InTransaction, meter_ids: Collection[str]) -> Script[None]:
    """Begins a backfill of 13 months, which daily fetches follow, of those meters that have a feed and a valid consent.

    Called when a consent has become valid or a feed was set. The meters are locked, so that of a feed and a consent
    that come at the same time one sees the other. A backfill that is under way goes on instead.
    """
    to = start_of_today()
    for chunk in _chunks(meter_ids):
        yield _LOCK, {"meter_ids": chunk}
        now = clock.now()
        consents = yield from effective_consents(chunk, now)
        begun: list[tuple[Backfill, Sequence[Period]]] = []
        for *values, feed_id, unfinished_id in (yield _FED, {"meter_ids": chunk}):
            meter = _METERS.row(values)
            consent = consents.get(meter.id)
            if consent is not None and consent.is_valid(now) and unfinished_id is None:
                parts = plan(ConsentFlowType[consent.flow_type], to)
                begun.append((_new(meter, feed_id, parts[-1][0], to), parts))
        if begun:
            yield from _insert(transaction, begun)


def _new(meter: Meter, feed_id: str, starts_at: datetime, ends_at: datetime) -> Backfill:
    return _BACKFILLS.new(
        account_id=meter.account_id,
        meter_id=meter.id,
        feed_id=feed_id,
        starts_at=starts_at,
        ends_at=ends_at,
    )


def _insert(transaction: InTransaction, begun: Sequence[tuple[Backfill, Sequence[Period]]]) -> Script[None]:
    """Inserts backfills with their parts, and wakes a worker once they are committed."""
    yield from _BACKFILLS.insert([backfill for backfill, _ in begun])
    yield from _PARTS.insert(
        [
            _PARTS.new(backfill_id=backfill.id, number=number, starts_at=start, ends_at=end)
            for backfill, parts in begun
            for number, (start, end) in enumerate(parts, 1)
        ]
    )
    work_due(transaction, begun[0][0].account_id)


def end_where_not_consented(meter_ids: Collection[str], at: datetime | None = None) -> Script[None]:
    """Ends the backfills and daily fetches of those meters that have no valid consent any more, now unless given.

    Called when a consent has ended. The meters are locked: what a worker records afterwards sees the consent's end.
    """
    for chunk in _chunks(meter_ids):
        yield _LOCK, {"meter_ids": chunk}
        consented = yield from meters_with_valid_consent(chunk, at or clock.now())
        if ended := [one for one in chunk if one not in consented]:
            yield _REST, {"meter_ids": pad_to_power_of_two(ended)}
            yield from end_backfills(ended)


def end_backfills(
    meter_ids: Collection[str], status: BackfillStatus = BackfillStatus.CANCELLED
) -> Script[None]:
    """Ends the backfills of these meters that are under way, with their parts that have not ended."""
    for chunk in _chunks(meter_ids):
        yield from _end((yield _UNFINISHED_OF, {"meter_ids": chunk}), status)


def end_backfills_of_feed(feed_id: str) -> Script[None]:
    """Ends the backfills that a feed has under way."""
    while found := (yield _UNFINISHED_OF_FEED, {"feed_id": feed_id}):
        yield from _end(found, BackfillStatus.CANCELLED)


def cancel_backfill(meter_id: str) -> Script[None]:
    """Ends the backfill of a meter that is under way, as a person asks for. Daily fetches go on, from tomorrow on."""
    yield from end_backfills([meter_id])
    tomorrow = clock.uk_date(clock.now()) + timedelta(days=1)
    yield _DUE, {"wanted_id": meter_id, "daily_at": daily_due(meter_id, tomorrow)}


def _end(found: Rows, status: BackfillStatus) -> Script[None]:
    if found:
        ids = pad_to_power_of_two([backfill_id for (backfill_id,) in found])
        yield _END_PARTS, {"backfill_ids": ids, "end_status": status.name}
        yield _END, {"backfill_ids": ids, "end_status": status.name, "at": clock.now()}


def _chunks(meter_ids: Collection[str]) -> Iterator[list[str]]:
    """The ids in their order, some at a time."""
    rest = iter(sorted(set(meter_ids)))
    while chunk := list(islice(rest, METERS_PER_STATEMENT)):
        yield pad_to_power_of_two(chunk)
