"""Merging of new half-hours into a stored day, and the revision of those that they replace."""

from collections.abc import Sequence
from itertools import compress
from operator import ne
from typing import NamedTuple

from app.readings.columns import days_of
from app.readings.packing import (
    BITS,
    Day,
    Origin,
    pack,
    pack_origins,
    slots,
    summary,
    unpack,
    unpack_origins,
)


class StoredDay(NamedTuple):
    """A packed day with the provenance of its half-hours: `latest` for all of them, unless there are `origins`."""

    packed: bytes
    latest: Origin
    origins: bytes | None


class Revision(NamedTuple):
    """The half-hours that a write replaced, as they were, and when that was in milliseconds since 1970."""

    was: StoredDay
    replaced_ms: int


class Merged(NamedTuple):
    """A day after a write; `changed` is the bitmap of half-hours that are new or differ from before."""

    stored: StoredDay
    changed: int
    estimated: int
    """Which of the changed half-hours are estimated."""
    revision: Revision | None


def merge(stored: StoredDay | None, packed: bytes, origin: Origin) -> Merged | None:
    """The stored day with the half-hours of a packed one in it; None if that changes nothing.

    A replacement is recorded later than all that the day held before, whatever this process's clock says, so that
    revisions of a half-hour have an order.
    """
    if stored is None:
        added = summary(packed)
        return Merged(StoredDay(packed, origin, None), added.present, added.estimated, None)
    if stored.packed == packed:
        return None
    old, new = unpack(stored.packed), unpack(packed)
    changed = _difference(old, new)
    if not changed:
        return None
    replaced = changed & old.present
    at, reason = origin
    if replaced:
        at = max(at, stored.latest[0] + 1)
    latest = max(at, stored.latest[0]), reason
    was = unpack_origins(stored.origins, stored.latest, old.present)
    if replaced == old.present and changed == new.present:
        # Nothing of the old day is left.
        merged = StoredDay(packed, latest, None)
    else:
        amounts = list(old.amounts)
        for slot in slots(changed):
            amounts[slot] = new.amounts[slot]
        day = Day(old.present | changed, old.estimated & ~changed | new.estimated & changed, amounts)
        known = was | dict.fromkeys(slots(changed), (at, reason))
        origins = pack_origins([known[slot] for slot in slots(day.present)], latest)
        merged = StoredDay(pack(day), latest, origins)
    revision = None
    if replaced == old.present:
        revision = Revision(stored, at)
    elif replaced:
        revision = Revision(_part(old, replaced, was), at)
    return Merged(merged, changed, new.estimated & changed, revision)


def sort_out(stored: StoredDay | None, packed: bytes, *, insists: bool) -> tuple[bytes | None, bytes | None]:
    """The half-hours of a packed day that a stored one lacks, and those that correct it; None where there are none.

    An estimated value corrects an actual one only where its source insists.
    """
    if stored is None:
        return packed, None
    if stored.packed == packed:
        return None, None
    old, new = unpack(stored.packed), unpack(packed)
    lacking = new.present & ~old.present
    correcting = _difference(old, new) & old.present
    if not insists:
        correcting &= old.estimated | ~new.estimated
    return _only(new, lacking, packed), _only(new, correcting, packed)


def _only(day: Day, half_hours: int, packed: bytes) -> bytes | None:
    if half_hours == day.present:
        return packed
    return pack(Day(half_hours, day.estimated & half_hours, day.amounts)) if half_hours else None


def add_half_hours(days: dict[int, bytes], half_hours: Sequence[tuple[int, int, bool]]) -> None:
    """Puts half-hours, as (half-hour counted from 1970, amount, estimated), into packed days."""
    for day, new in days_of(*zip(*half_hours, strict=True)):
        stored = StoredDay(days[day], (0, 0), None) if day in days else None
        merged = merge(stored, pack(new), (0, 0))
        if merged is not None:
            days[day] = merged.stored.packed


def _difference(old: Day, new: Day) -> int:
    """The bitmap of new half-hours that the old day does not have just so."""
    differing = sum(compress(BITS, map(ne, old.amounts, new.amounts)))
    return new.present & (~old.present | (old.estimated ^ new.estimated) | differing)


def _part(day: Day, present: int, origins: dict[int, Origin]) -> StoredDay:
    """Some of a day's half-hours."""
    kept = [origins[slot] for slot in slots(present)]
    latest = max(kept)
    part = Day(present, day.estimated & present, day.amounts)
    return StoredDay(pack(part), latest, pack_origins(kept, latest))
