"""Merging of half-hours into a day, beside a plain dictionary: values, origins, changes and revisions."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from app.readings.columns import days_of
from app.readings.merging import StoredDay, add_half_hours, merge, sort_out
from app.readings.packing import SLOTS, Day, pack, slots, unpack, unpack_origins


class Known(NamedTuple):
    """All that is known of a half-hour."""

    amount: int
    is_estimated: bool
    recorded_ms: int
    reason: int


# Few half-hours and few values, so that writes meet.
VALUES = st.tuples(st.sampled_from([0, 1, 1_000, 10**18 - 1]), st.booleans())
NEW = st.dictionaries(st.sampled_from([0, 1, 2, 20, 47]), VALUES, min_size=1)
WRITES = st.lists(st.tuples(NEW, st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6)


def day_of(readings: dict[int, tuple[int, bool]]) -> Day:
    (found,) = days_of(
        readings,
        [amount for amount, _ in readings.values()],
        [estimated for _, estimated in readings.values()],
    )
    return found[1]


def meaning(stored: StoredDay) -> dict[int, Known]:
    day = unpack(stored.packed)
    origins = unpack_origins(stored.origins, stored.latest, day.present)
    return {
        slot: Known(day.amounts[slot], bool(day.estimated >> slot & 1), *origins[slot])
        for slot in slots(day.present)
    }


@given(WRITES)
def test_writes_leave_the_latest_value_and_keep_what_they_replace(
    writes: list[tuple[dict[int, tuple[int, bool]], int, int]],
) -> None:
    stored: StoredDay | None = None
    model: dict[int, Known] = {}
    replaced_at: list[int] = []
    for new, now_ms, reason in writes:
        merged = merge(stored, pack(day_of(new)), (now_ms, reason))
        differing = {slot: value for slot, value in new.items() if model.get(slot, ())[:2] != value}
        if merged is None:
            assert not differing
            continue
        assert slots(merged.changed) == sorted(differing)
        assert slots(merged.estimated) == sorted(
            slot for slot, (_, estimated) in differing.items() if estimated
        )
        replaced = {slot: model[slot] for slot in differing if slot in model}
        at = now_ms
        if replaced:
            assert merged.revision is not None
            assert meaning(merged.revision.was) == replaced
            at = merged.revision.replaced_ms
            # Later than all before, also where the clock went back.
            assert at >= now_ms
            assert at > max(one.recorded_ms for one in model.values())
            replaced_at.append(at)
        else:
            assert merged.revision is None
        model |= {slot: Known(*value, at, reason) for slot, value in differing.items()}
        stored = merged.stored
        assert meaning(stored) == model
        assert stored.latest[0] == max(one.recorded_ms for one in model.values())
    assert replaced_at == sorted(set(replaced_at))


def test_a_day_that_is_replaced_as_a_whole_has_one_origin() -> None:
    stored = StoredDay(pack(day_of(dict.fromkeys(range(SLOTS), (1, False)))), (5, 0), None)
    merged = merge(stored, pack(day_of(dict.fromkeys(range(SLOTS), (2, False)))), (9, 5))
    assert merged is not None
    assert (merged.stored.latest, merged.stored.origins) == ((9, 5), None)


def test_half_hours_take_the_place_of_those_in_a_packed_day() -> None:
    days = {7: pack(day_of({0: (1, True), 1: (2, False)}))}
    add_half_hours(days, [(7 * 48 + 1, 20, True), (8 * 48, 30, False)])
    assert {day: dict(enumerate(unpack(packed).amounts[:2])) for day, packed in days.items()} == {
        7: {0: 1, 1: 20},
        8: {0: 30, 1: 0},
    }
    assert unpack(days[7]).estimated == 0b11


@given(st.none() | NEW, NEW, st.booleans())
def test_what_a_source_gives_is_missing_or_corrects_and_an_estimate_corrects_no_actual_value(
    old: dict[int, tuple[int, bool]] | None, new: dict[int, tuple[int, bool]], insists: bool
) -> None:
    known = old or {}
    stored = None if old is None else StoredDay(pack(day_of(old)), (1, 0), None)
    lacking, correcting = sort_out(stored, pack(day_of(new)), insists=insists)
    assert given_by(lacking) == {slot: value for slot, value in new.items() if slot not in known}
    assert given_by(correcting) == {
        slot: value
        for slot, value in new.items()
        if slot in known and value != known[slot] and (insists or known[slot][1] or not value[1])
    }


def given_by(packed: bytes | None) -> dict[int, tuple[int, bool]]:
    if packed is None:
        return {}
    day = unpack(packed)
    return {slot: (day.amounts[slot], bool(day.estimated >> slot & 1)) for slot in slots(day.present)}
