"""The worker raises meter_data.overdue of active meters that have had no new readings for five days.

It looks at a meter at the instant at which a silence would be overdue, and otherwise once in five days: whatever
happens after a look makes the meter overdue five days later at the soonest. So writers of readings have no step more,
and a look costs a few searches of indexes.

The row that says what was told changes in the transaction that appends the event, under the lock of the meter, which
writers of its readings hold as well.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import bindparam, select
from sqlmodel import col

from app.core import clock, failpoints
from app.db.database import Database
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql, rows
from app.events import log as event_log
from app.events.models import RaisedSince
from app.meters.models import Meter
from app.readings.events import MeterDataOverdue
from app.readings.silences.channels import OVERDUE_MS, Silence, silences_of

AT_ONCE: Final = 200
"""Meters of one transaction."""

FIND_FEEDS_EVERY: Final = timedelta(hours=1)

# Looks for which nothing sets the time are spread over a day, by the key.
_SPREAD_MS: Final = 86_400_000
_SPREAD_OVER: Final = 997

_DUE: Final = (
    "SELECT key, meter_id FROM meter_keys WHERE look_ms <= :now_ms ORDER BY look_ms, key LIMIT :limit"
)
_ANY: Final = Sql(_DUE)
# Readings refer to the key, so that a stronger lock would hold up their writers.
_TAKE: Final = Sql(f"{_DUE} FOR NO KEY UPDATE SKIP LOCKED", sqlite=_DUE)
# A meter whose lock another holds is passed over: its readings may be changing.
_LOCK: Final = (
    select(col(Meter.id))
    .where(col(Meter.id).in_(bindparam("ids", expanding=True)))
    .order_by(col(Meter.id))
    .with_for_update(skip_locked=True)
)
_TOLD: Final = Sql("""
    SELECT told_silences.meter_key, told_silences.channel, told_silences.recorded_ms
    FROM @lists(key bigint) JOIN told_silences ON told_silences.meter_key = given.key
""")
_TELL: Final = Sql("""
    INSERT INTO told_silences (meter_key, channel, recorded_ms)
    SELECT given.meter_key, given.channel, given.recorded_ms
    FROM @lists(meter_key bigint, channel bigint, recorded_ms bigint) WHERE TRUE
    ON CONFLICT (meter_key, channel) DO UPDATE SET recorded_ms = excluded.recorded_ms
""")
_LOOK_AGAIN: Final = Sql("""
    UPDATE meter_keys SET look_ms = given.look_ms FROM @lists(key bigint, look_ms bigint)
    WHERE meter_keys.key = given.key
""")
_SINCE: Final = select(col(RaisedSince.since)).where(col(RaisedSince.type) == MeterDataOverdue.type)
_WITHOUT_KEY: Final = """
    SELECT meters.id FROM meter_feeds JOIN meters ON meters.id = meter_feeds.meter_id
    LEFT JOIN meter_keys ON meter_keys.meter_id = meters.id WHERE meter_keys.key IS NULL LIMIT :limit
"""
_ANY_WITHOUT_KEY: Final = Sql(_WITHOUT_KEY)
# A writer of first readings holds the meter's lock, and makes the key itself.
_TAKE_WITHOUT_KEY: Final = Sql(f"{_WITHOUT_KEY} FOR KEY SHARE OF meters SKIP LOCKED", sqlite=_WITHOUT_KEY)
_ADD_KEYS: Final = Sql("""
    INSERT INTO meter_keys (meter_id) SELECT given.meter_id FROM @lists(meter_id text) WHERE TRUE
    ON CONFLICT (meter_id) DO NOTHING
""")

log = structlog.get_logger(__name__)


class Silences:
    """Looks at meters for silences. Any number of workers may do it at once."""

    def __init__(self, database: Database, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._now = now
        self._find_feeds_at = now()

    async def step(self) -> bool:
        """Looks at some meters whose time has come, in one transaction; False if there were none."""
        at = self._now()
        await self._find_feeds(at)
        due = {"now_ms": clock.to_ms(at), "limit": 1}
        if not await self._database.read(_ANY.of(self._database.is_sqlite), due):
            return False
        looked, told = await self._database.transact(lambda transaction: _look(transaction, at))
        failpoints.reach("silences.committed")
        if told:
            log.info("meter_data_overdue", count=told)
        return looked > 0

    async def _find_feeds(self, at: datetime) -> None:
        """Gives keys to meters that have a feed and no readings yet, so that they are looked at."""
        if at < self._find_feeds_at:
            return
        statement = _ANY_WITHOUT_KEY.of(self._database.is_sqlite)
        while await self._database.read(statement, {"limit": 1}):
            if not await self._database.transact(_add_keys):
                break
        self._find_feeds_at = at + FIND_FEEDS_EVERY


def _add_keys(transaction: InTransaction) -> Script[int]:
    """Gives keys to some meters; returns their number."""
    on_sqlite = is_on_sqlite(transaction)
    found = yield _TAKE_WITHOUT_KEY.of(on_sqlite), {"limit": AT_ONCE}
    yield _ADD_KEYS.of(on_sqlite), {"rows": rows(map(tuple, found))}
    return len(found)


def _look(transaction: InTransaction, at: datetime) -> Script[tuple[int, int]]:
    """Gives how many meters were looked at, and how many silences were told of."""
    on_sqlite, now_ms = is_on_sqlite(transaction), clock.to_ms(at)
    found = yield _TAKE.of(on_sqlite), {"now_ms": now_ms, "limit": AT_ONCE}
    meters: dict[int, str] = dict(map(tuple, found))
    silences = yield from silences_of(on_sqlite, meters, at)
    untold = yield from _untold(on_sqlite, silences, now_ms)
    if untold:
        locked = yield from _lock({one.meter_id for one in untold})
        # Meters that others hold stay due.
        busy = {one.key for one in untold if one.meter_id not in locked}
        # Changes from before the locks were taken count.
        meters = {key: meter_id for key, meter_id in meters.items() if key not in busy}
        held = {one.key: one.meter_id for one in untold if one.key not in busy}
        again = yield from silences_of(on_sqlite, held, at)
        silences = [*(one for one in silences if one.key not in held), *again]
        untold = yield from _untold(on_sqlite, again, now_ms)
        yield from _tell(transaction, untold)
    yield _LOOK_AGAIN.of(on_sqlite), {"rows": rows(_next_looks(meters, silences, now_ms))}
    failpoints.reach("silences.before_commit")
    return len(meters), len(untold)


def _untold(on_sqlite: bool, silences: Iterable[Silence], now_ms: int) -> Script[list[Silence]]:
    """The silences that are overdue and that no event has told of, the longest first."""
    overdue = [one for one in silences if one.due_ms <= now_ms]
    if not overdue:
        return []
    [[since]] = yield _SINCE, {}
    found = yield _TOLD.of(on_sqlite), {"rows": rows([key] for key in {one.key for one in overdue})}
    told = {(key, channel): recorded_ms for key, channel, recorded_ms in found}
    untold = [
        one
        for one in overdue
        if one.begins_ms >= clock.to_ms(since) and told.get((one.key, one.channel.code), -1) < one.recorded_ms
    ]
    return sorted(untold, key=lambda one: (one.begins_ms, one.meter_id, one.channel.code))


def _lock(meter_ids: Collection[str]) -> Script[set[str]]:
    found = yield _LOCK, {"ids": pad_to_power_of_two(sorted(meter_ids))}
    return {meter_id for (meter_id,) in found}


def _tell(transaction: InTransaction, silences: Sequence[Silence]) -> Script[None]:
    told = [(one.key, one.channel.code, one.recorded_ms) for one in silences]
    yield _TELL.of(is_on_sqlite(transaction)), {"rows": rows(told)}
    for one in silences:
        event = MeterDataOverdue(
            meter_id=one.meter_id,
            customer_id=one.customer_id,
            channel=one.channel,
            latest_at=None if one.latest_ms is None else clock.from_ms(one.latest_ms),
        )
        event_log.append(transaction, one.account_id, event)


def _next_looks(keys: Iterable[int], silences: Iterable[Silence], now_ms: int) -> list[tuple[int, int]]:
    """When each meter is looked at again: as soon as one of its silences may be overdue."""
    looks = {key: now_ms + OVERDUE_MS - key % _SPREAD_OVER * _SPREAD_MS // _SPREAD_OVER for key in keys}
    for one in silences:
        if one.due_ms > now_ms and one.key in looks:
            looks[one.key] = min(looks[one.key], one.due_ms)
    return list(looks.items())
