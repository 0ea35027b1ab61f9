"""Puts back half-hours as they were before a write, inside a transaction that holds the locks of their meters.

The write is told by the time at which it recorded them. Where something newer has replaced them, that stays. What is
put back is recorded as a correction, and the values that go become revisions.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from app.db.raw_statements import Script
from app.db.sql import Sql, rows
from app.readings.day_rows import Change, MeterDay
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.merging import StoredDay
from app.readings.packing import Day, Origin, pack, pack_origins, slots, unpack, unpack_origins


class Written(NamedTuple):
    """The half-hours of a day, as a bitmap, that a write recorded at `at_ms`."""

    of: MeterDay
    changed: int
    at_ms: int


class Restored(NamedTuple):
    """A day after an undo, None if nothing is left of it; `was` are the half-hours that went, as they were."""

    stored: StoredDay | None
    was: StoredDay
    replaced_ms: int
    changed: int
    estimated: int


_FOUND: Final = Sql("""
    SELECT given.place, meter_keys.key, days.packed, days.recorded_ms, days.reason, days.origins, revisions.packed
    FROM @rows(place bigint, meter_id text, day bigint, at_ms bigint)
    JOIN meter_keys ON meter_keys.meter_id = given.meter_id
    JOIN reading_days AS days ON days.meter_key = meter_keys.key AND days.channel = :channel AND days.day = given.day
    LEFT JOIN reading_revisions AS revisions ON revisions.meter_key = meter_keys.key
        AND revisions.channel = :channel AND revisions.replaced_ms = given.at_ms AND revisions.day = given.day
""")
_KEEP: Final = Sql("""
    UPDATE reading_days SET packed = :packed, recorded_ms = :recorded_ms, reason = :reason, origins = :origins
    WHERE meter_key = :meter_key AND channel = :channel AND day = :day
""")
_DELETE: Final = Sql(
    "DELETE FROM reading_days WHERE meter_key = :meter_key AND channel = :channel AND day = :day"
)
_REVISE: Final = Sql("""
    INSERT INTO reading_revisions (meter_key, channel, day, reason, recorded_ms, packed, origins, replaced_ms)
    VALUES (:meter_key, :channel, :day, :reason, :recorded_ms, :packed, :origins, :replaced_ms)
""")


def restore_days(
    on_sqlite: bool, written: Sequence[Written], channel: ReadingChannel, reason: ReadingReason, now_ms: int
) -> Script[list[Change]]:
    """Undoes writes of locked meters, each by its days of one channel; gives what that changed."""
    given = rows(
        {"place": place, "meter_id": one.of.meter_id, "day": one.of.day, "at_ms": one.at_ms}
        for place, one in enumerate(written)
    )
    found = yield _FOUND.of(on_sqlite), {"rows": given, "channel": channel.code}
    changes, kept, deleted, revised = [], [], [], []
    for place, key, packed, recorded_ms, why, origins, before in sorted(found, key=lambda row: row[0]):
        one = written[place]
        stored = StoredDay(packed, (recorded_ms, why), origins)
        restored = restore(stored, one, reason, None if before is None else unpack(before), now_ms)
        if restored is None:
            continue
        day = {"meter_key": key, "channel": channel.code, "day": one.of.day}
        if restored.stored is None:
            deleted.append(day)
        else:
            kept.append({**day, **_values(restored.stored)})
        revised.append({**day, **_values(restored.was), "replaced_ms": restored.replaced_ms})
        changes.append(Change(one.of, restored.changed, restored.estimated, restored.replaced_ms))
    yield _KEEP.of(on_sqlite), kept
    yield _DELETE.of(on_sqlite), deleted
    yield _REVISE.of(on_sqlite), revised
    return changes


def restore(
    stored: StoredDay, written: Written, reason: ReadingReason, before: Day | None, now_ms: int
) -> Restored | None:
    """The day as it was before the write; None where something newer has replaced all of it.

    `before` are the half-hours that the write replaced; the others that it changed were absent.
    """
    day = unpack(stored.packed)
    known = unpack_origins(stored.origins, stored.latest, day.present)
    mine = sum(
        1 << slot
        for slot in slots(written.changed & day.present)
        if known[slot] == (written.at_ms, reason.code)
    )
    if not mine:
        return None
    at = max(now_ms, stored.latest[0] + 1)
    latest = at, ReadingReason.CORRECTION.code
    was = _some(day, mine, known)
    back = 0 if before is None else mine & before.present
    amounts, estimated = list(day.amounts), day.estimated & ~mine
    for slot in slots(mine):
        amounts[slot] = 0
    if before is not None:
        estimated |= before.estimated & back
        for slot in slots(back):
            amounts[slot] = before.amounts[slot]
    present = day.present & ~mine | back
    known.update(dict.fromkeys(slots(back), latest))
    left = None
    if present:
        origins = pack_origins((known[slot] for slot in slots(present)), latest)
        left = StoredDay(pack(Day(present, estimated, amounts)), latest, origins)
    return Restored(left, was, at, mine, estimated & back)


def _some(day: Day, half_hours: int, known: dict[int, Origin]) -> StoredDay:
    origins = [known[slot] for slot in slots(half_hours)]
    latest = max(origins)
    packed = pack(Day(half_hours, day.estimated & half_hours, day.amounts))
    return StoredDay(packed, latest, pack_origins(origins, latest))


def _values(day: StoredDay) -> dict[str, Any]:
    recorded_ms, reason = day.latest
    return {"packed": day.packed, "recorded_ms": recorded_ms, "reason": reason, "origins": day.origins}
