"""Merging of new half-hours into a stored day, and the revision of those that they replace."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.readings.packing import (
    SLOTS,
    Day,
    Origin,
    pack,
    pack_origins,
    slots,
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


def merge(stored: StoredDay | None, new: Day, origin: Origin) -> Merged | None:
    """The stored day with the new half-hours in it; None if that changes nothing.

    A replacement is recorded later than all that the day held before, whatever this process's clock says, so that
    revisions of a half-hour have an order.
    """
    if stored is None:
        return Merged(StoredDay(pack(new), origin, None), new.present, new.estimated, None)
    old = unpack(stored.packed)
    changed = _difference(old, new)
    if not changed:
        return None
    replaced = changed & old.present
    at, reason = origin
    if replaced:
        at = max(at, stored.latest[0] + 1)
    amounts = list(old.amounts)
    for slot in slots(changed):
        amounts[slot] = new.amounts[slot]
    day = Day(old.present | changed, old.estimated & ~changed | new.estimated & changed, amounts)
    known = unpack_origins(stored.origins, stored.latest, old.present)
    was = dict(known)
    known.update(dict.fromkeys(slots(changed), (at, reason)))
    latest = max(at, stored.latest[0]), reason
    merged = StoredDay(pack(day), latest, pack_origins((known[slot] for slot in sorted(known)), latest))
    return Merged(
        merged, changed, new.estimated & changed, _revision(old, replaced, was, at) if replaced else None
    )


def days_of(starts: Iterable[int], amounts: Iterable[int], estimated: Iterable[bool]) -> dict[int, Day]:
    """Groups half-hours, counted from 1970, by their days."""
    days: dict[int, tuple[list[int], list[int]]] = {}
    for start, amount, is_estimated in zip(starts, amounts, estimated, strict=True):
        day, slot = divmod(start, SLOTS)
        found = days.get(day)
        if found is None:
            found = days[day] = [0, 0], [0] * SLOTS
        found[1][slot] = amount
        found[0][0] |= 1 << slot
        if is_estimated:
            found[0][1] |= 1 << slot
    return {day: Day(bitmaps[0], bitmaps[1], values) for day, (bitmaps, values) in days.items()}


def add_half_hours(days: dict[int, bytes], half_hours: Sequence[tuple[int, int, bool]]) -> None:
    """Puts half-hours, as (half-hour counted from 1970, amount, estimated), into packed days."""
    for day, new in days_of(*zip(*half_hours, strict=True)).items():
        stored = StoredDay(days[day], (0, 0), None) if day in days else None
        merged = merge(stored, new, (0, 0))
        if merged is not None:
            days[day] = merged.stored.packed


def _difference(old: Day, new: Day) -> int:
    """The bitmap of new half-hours that the old day does not have just so."""
    changed = new.present & (~old.present | (old.estimated ^ new.estimated))
    before, after = old.amounts, new.amounts
    for slot in slots(new.present & ~changed):
        if before[slot] != after[slot]:
            changed |= 1 << slot
    return changed


def _revision(old: Day, replaced: int, was: dict[int, Origin], at: int) -> Revision:
    kept = [was[slot] for slot in slots(replaced)]
    latest = max(kept)
    day = Day(replaced, old.estimated & replaced, old.amounts)
    return Revision(StoredDay(pack(day), latest, pack_origins(kept, latest)), at)
