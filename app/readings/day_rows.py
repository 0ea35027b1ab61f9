"""Writing of day rows, inside a transaction that holds the locks of their meters.

Half-hours that a version before days stored, and that the worker has not carried over yet, are merged into each day
that is touched, before anything newer.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from app.consents.coverage import HAS_VALID
from app.db.raw_statements import Parameters, Rows, Script
from app.db.scripts import InTransaction, erasing, is_on_sqlite
from app.db.sql import Sql, rows
from app.events import log
from app.events.log import Write
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import days_of
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.merging import Revision, StoredDay, merge, sort_out
from app.readings.packing import SLOTS, pack

_DAY_MS = SLOTS * HALF_HOUR_MS


class MeterDay(NamedTuple):
    """A day of a meter, counted from 1970 in UTC."""

    meter_id: str
    day: int


class Change(NamedTuple):
    """The half-hours of a meter's day that a write changed, as bitmaps, and when it recorded them."""

    of: MeterDay
    changed: int
    estimated: int
    recorded_ms: int


def _touching(*further: str) -> Sql:
    """Selects given days as they are stored, with further columns."""
    columns = """
        SELECT given.meter_id, given.day, meter_keys.key, stored.packed, stored.recorded_ms, stored.reason,
            stored.origins, EXISTS (
                SELECT 1 FROM readings WHERE readings.meter_id = given.meter_id
                AND readings.start_ms >= given.day * 86400000 AND readings.start_ms < (given.day + 1) * 86400000
            )
    """
    selected = f"""{", ".join((columns, *further))}
        FROM @rows(meter_id text, day bigint) LEFT JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    """
    # Each day is looked up by its whole key: a plain join on PostgreSQL may read all days of a meter for each of them.
    # The bounds leave out partitions.
    return Sql(
        f"""{selected} LEFT JOIN LATERAL (
            SELECT packed, recorded_ms, reason, origins FROM reading_days
            WHERE meter_key = meter_keys.key AND channel = :channel AND day = CAST(given.day AS int)
                AND day BETWEEN CAST(:first_day AS int) AND CAST(:last_day AS int) OFFSET 0
        ) AS stored ON TRUE""",  # noqa: S608 - our own statement
        sqlite=f"""{selected} LEFT JOIN reading_days AS stored ON stored.meter_key = meter_keys.key
            AND stored.channel = :channel AND stored.day = given.day
            AND stored.day BETWEEN :first_day AND :last_day""",
    )


_TOUCHED = _touching()
_TOUCHED_WITH_CONSENT = _touching(HAS_VALID)
_TAKEN = "RETURNING meter_id, start_ms, micro_kwh, estimated, @ms(recorded_at)"
# By their places, because PostgreSQL would rather read a table of some million half-hours as a whole.
_TAKE_HALF_HOURS = Sql(
    f"""DELETE FROM readings WHERE ctid = ANY(ARRAY(
        SELECT old.ctid FROM @rows(meter_id text, day bigint) CROSS JOIN LATERAL (
            SELECT ctid FROM readings WHERE meter_id = given.meter_id
                AND start_ms >= given.day * 86400000 AND start_ms < (given.day + 1) * 86400000 OFFSET 0
        ) AS old
    )) {_TAKEN}""",  # noqa: S608 - our own statement
    sqlite=f"""DELETE FROM readings WHERE (meter_id, start_ms) IN (
        SELECT readings.meter_id, readings.start_ms FROM @rows(meter_id text, day bigint)
        JOIN readings ON readings.meter_id = given.meter_id
            AND readings.start_ms >= given.day * 86400000 AND readings.start_ms < (given.day + 1) * 86400000
    ) {_TAKEN}""",  # noqa: S608
)
_NEW_KEYS = Sql("""
    INSERT INTO meter_keys (meter_id) SELECT given.meter_id FROM @rows(meter_id text)
    WHERE TRUE ON CONFLICT (meter_id) DO NOTHING
""")
_KEYS = Sql("""
    SELECT meter_keys.meter_id, meter_keys.key FROM @rows(meter_id text)
    JOIN meter_keys ON meter_keys.meter_id = given.meter_id
""")
_STORED = ("meter_key", "channel", "day", "reason", "recorded_ms", "packed", "origins")
_REVISED = (*_STORED, "replaced_ms")
_TYPES = {
    "meter_key": "int",
    "channel": "smallint",
    "day": "int",
    "reason": "smallint",
    "recorded_ms": "bigint",
    "packed": "bytea",
    "origins": "bytea",
    "replaced_ms": "bigint",
}


def _inserting(table: str, columns: Sequence[str], conflict: str = "") -> Sql:
    """Inserts rows given as one array for each column; on SQLite, row by row."""
    names = ", ".join(columns)
    arrays = ", ".join(f"CAST(:{name} AS {_TYPES[name]}[])" for name in columns)
    values = ", ".join(f":{name}" for name in columns)
    return Sql(
        f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) {conflict}",  # noqa: S608 - our own names
        sqlite=f"INSERT INTO {table} ({names}) VALUES ({values}) {conflict}",  # noqa: S608
    )


_WRITE_DAYS = _inserting(
    "reading_days",
    _STORED,
    "ON CONFLICT (meter_key, channel, day) DO UPDATE SET reason = excluded.reason, "
    "recorded_ms = excluded.recorded_ms, packed = excluded.packed, origins = excluded.origins",
)
_WRITE_REVISIONS = _inserting("reading_revisions", _REVISED)


def write_days(
    on_sqlite: bool,
    new: Mapping[MeterDay, bytes],
    channel: ReadingChannel,
    reason: ReadingReason,
    now_ms: int,
) -> Script[list[Change]]:
    """Merges packed days of locked meters into those that are stored; gives what that changed."""
    days = _TouchedDays(on_sqlite, channel)
    yield from days.load(new)
    changes = days.merge_all(new, now_ms, reason)
    yield from days.write()
    return changes


def write_fetched(
    on_sqlite: bool,
    new: Mapping[MeterDay, bytes],
    channel: ReadingChannel,
    reasons: tuple[ReadingReason, ReadingReason],
    now_ms: int,
    *,
    insists: bool,
) -> Script[dict[ReadingReason, list[Change]]]:
    """The same for days that a source gave, whose estimated values replace actual ones only where it `insists`.

    `reasons` are that of half-hours that were missing and that of corrections, by which the changes are given.
    """
    days = _TouchedDays(on_sqlite, channel)
    yield from days.load(new)
    changes: dict[ReadingReason, list[Change]] = {}
    for of, packed in new.items():
        for reason, part in zip(reasons, days.sort_out(of, packed, insists=insists), strict=True):
            if part is not None and (change := days.merge(of, part, now_ms, reason)) is not None:
                changes.setdefault(reason, []).append(change)
    yield from days.write()
    return changes


def record_days(
    transaction: InTransaction, meter_id: str, new: Mapping[int, bytes], channel: ReadingChannel, now_ms: int
) -> Script[list[Change] | None]:
    """The same for a few days of one meter that are pushed, in the fewest round trips.

    Nothing is written, and None is given, if the meter has no valid consent.
    """
    days = _TouchedDays(is_on_sqlite(transaction), channel)
    found = {MeterDay(meter_id, day): packed for day, packed in new.items()}
    consented = yield from days.load(found, {"meter_id": meter_id, "consent_at": now_ms})
    if not consented:
        return None
    changes = days.merge_all(found, now_ms, ReadingReason.PUSH)
    for write in days.writes():
        yield from log.write_along(transaction, write)
    return changes


def carry_over(on_sqlite: bool, half_hours: Rows) -> Script[None]:
    """Merges half-hours of locked meters, which their table has just lost, into their days.

    They are rows of meter id, start in milliseconds, micro-kWh, estimated, and when they were recorded.
    """
    days = _TouchedDays(on_sqlite, ReadingChannel.IMPORT)
    yield from days.load({MeterDay(row[0], row[1] // _DAY_MS) for row in half_hours})
    days.merge_half_hours(half_hours)
    yield from days.write()


class _TouchedDays:
    """The days that a write touches: loaded by one statement, merged with new half-hours, written by one statement."""

    def __init__(self, on_sqlite: bool, channel: ReadingChannel) -> None:
        self._on_sqlite = on_sqlite
        self._channel = channel
        self._keys: dict[str, int | None] = {}
        self._stored: dict[MeterDay, StoredDay] = {}
        self._merged: set[MeterDay] = set()
        self._revisions: list[tuple[MeterDay, Revision]] = []

    def load(self, days: Collection[MeterDay], consent: Parameters | None = None) -> Script[bool]:
        """Gives whether their meter has a valid consent, if parameters of `HAS_VALID` are given; if not, it ends."""
        given = [{"meter_id": meter_id, "day": day} for meter_id, day in days]
        touched = [one.day for one in days]
        parameters = {
            "rows": rows(given),
            "channel": self._channel.code,
            "first_day": min(touched, default=0),
            "last_day": max(touched, default=0),
        }
        if consent is None:
            found = yield _TOUCHED, parameters
        else:
            found = yield _TOUCHED_WITH_CONSENT, {**parameters, **consent}
            if not all(row[-1] for row in found):
                return False
        older = []
        for meter_id, day, key, packed, recorded_ms, reason, origins, has_half_hours, *_ in found:
            self._keys[meter_id] = key
            if packed is not None:
                self._stored[MeterDay(meter_id, day)] = StoredDay(packed, (recorded_ms, reason), origins)
            if has_half_hours:
                older.append({"meter_id": meter_id, "day": day})
        yield from self._make_keys()
        if older and self._channel is ReadingChannel.IMPORT:
            self.merge_half_hours((yield from erasing(self._on_sqlite, _take(rows(older)))))
        return True

    def merge_all(
        self, new: Mapping[MeterDay, bytes], recorded_ms: int, reason: ReadingReason
    ) -> list[Change]:
        """Gives what the packed days change."""
        changes = (self.merge(of, packed, recorded_ms, reason) for of, packed in new.items())
        return [change for change in changes if change is not None]

    def sort_out(self, of: MeterDay, packed: bytes, *, insists: bool) -> tuple[bytes | None, bytes | None]:
        return sort_out(self._stored.get(of), packed, insists=insists)

    def merge(self, of: MeterDay, packed: bytes, recorded_ms: int, reason: ReadingReason) -> Change | None:
        merged = merge(self._stored.get(of), packed, (recorded_ms, reason.code))
        if merged is None:
            return None
        self._stored[of] = merged.stored
        self._merged.add(of)
        if merged.revision is not None:
            self._revisions.append((of, merged.revision))
        # A replacement may have to be recorded later than asked for.
        at = recorded_ms if merged.revision is None else merged.revision.replaced_ms
        return Change(of, merged.changed, merged.estimated, at)

    def merge_half_hours(self, half_hours: Rows) -> None:
        """Merges rows of meter id, start in milliseconds, micro-kWh, estimated, recorded; the oldest record first."""
        by_origin: dict[tuple[int, str], list[Any]] = {}
        for meter_id, start_ms, micro_kwh, estimated, recorded_ms in half_hours:
            reading = start_ms // HALF_HOUR_MS, micro_kwh, bool(estimated)
            by_origin.setdefault((recorded_ms, meter_id), []).append(reading)
        for (recorded_ms, meter_id), readings in sorted(by_origin.items()):
            for day, new in days_of(*zip(*readings, strict=True)):
                self.merge(MeterDay(meter_id, day), pack(new), recorded_ms, ReadingReason.PUSH)

    def write(self) -> Script[None]:
        yield from self.writes()

    def writes(self) -> Iterator[Write]:
        """The statements that write the merged days, and the half-hours that they replaced."""
        if days := [self._row(of, self._stored[of]) for of in self._merged]:
            yield _WRITE_DAYS, self._columns(_STORED, days)
        if revisions := [(*self._row(of, one.was), one.replaced_ms) for of, one in self._revisions]:
            yield _WRITE_REVISIONS, self._columns(_REVISED, revisions)

    def _columns(
        self, names: Sequence[str], values: Sequence[tuple[Any, ...]]
    ) -> Parameters | Sequence[Parameters]:
        """The parameters of `_inserting`."""
        if self._on_sqlite:
            return [dict(zip(names, row, strict=True)) for row in values]
        return dict(zip(names, zip(*values, strict=True), strict=True))

    def _row(self, of: MeterDay, day: StoredDay) -> tuple[Any, ...]:
        recorded_ms, reason = day.latest
        key = self._keys[of.meter_id]
        return key, self._channel.code, of.day, reason, recorded_ms, day.packed, day.origins

    def _make_keys(self) -> Script[None]:
        given = rows({"meter_id": meter_id} for meter_id, key in self._keys.items() if key is None)
        if given != "[]":
            yield _NEW_KEYS, {"rows": given}
            # Also a key that another writer of the meter has made since this transaction looked for it.
            made: Any = yield _KEYS, {"rows": given}
            self._keys.update(dict(made))


def _take(days: str) -> Script[Rows]:
    return (yield _TAKE_HALF_HOURS, {"rows": days})
