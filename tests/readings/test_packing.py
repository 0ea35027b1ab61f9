"""The packed form of a day, beside its plain meaning: any amounts, any half-hours missing or estimated, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.readings.packing import (
    ALL,
    SLOTS,
    VERSION,
    Day,
    Origin,
    pack,
    pack_origins,
    read_head,
    slots,
    sum_between,
    summary,
    unpack,
    unpack_origins,
)

LARGEST = 10**18 - 1
"""999,999,999,999.999999 kWh, which is the largest amount that the API takes."""

AMOUNTS = st.one_of(
    st.just(0),
    st.integers(0, LARGEST),
    # Amounts of few digits, at every scale.
    st.builds(
        lambda digits, scale: min(digits * 10**scale, LARGEST), st.integers(0, 5000), st.integers(0, 18)
    ),
)
Reading = tuple[int, bool]
"""Millionths of a kWh, and whether they are estimated."""

DAYS = st.dictionaries(st.integers(0, SLOTS - 1), st.tuples(AMOUNTS, st.booleans()))
ORIGINS = st.tuples(st.integers(-(2**43), 2**43), st.integers(0, 255))


def day_of(readings: dict[int, Reading]) -> Day:
    amounts = [readings[slot][0] if slot in readings else 0 for slot in range(SLOTS)]
    return Day(
        bitmap(readings), bitmap({slot for slot, (_, estimated) in readings.items() if estimated}), amounts
    )


def bitmap(of: set[int] | dict[int, Reading]) -> int:
    return sum(1 << slot for slot in of)


def meaning(packed: bytes) -> dict[int, Reading]:
    day = unpack(packed)
    assert len(day.amounts) == SLOTS
    assert not any(day.amounts[slot] for slot in range(SLOTS) if not day.present >> slot & 1)
    return {slot: (day.amounts[slot], bool(day.estimated >> slot & 1)) for slot in slots(day.present)}


@given(DAYS, st.integers(0, SLOTS), st.integers(0, SLOTS))
def test_a_part_of_a_day_is_summed_up_exactly(readings: dict[int, Reading], low: int, high: int) -> None:
    packed = pack(day_of(readings))
    expected = sum(amount for slot, (amount, _) in readings.items() if low <= slot < high)
    assert sum_between(packed, read_head(packed), min(low, high), high) == expected


@given(DAYS)
def test_a_day_goes_in_and_comes_out_exactly(readings: dict[int, Reading]) -> None:
    packed = pack(day_of(readings))
    assert meaning(packed) == readings
    estimated = {slot for slot, (_, is_estimated) in readings.items() if is_estimated}
    assert summary(packed) == (
        bitmap(readings),
        bitmap(estimated),
        sum(amount for amount, _ in readings.values()),
    )


@given(st.integers(0, 18), st.integers(1, 9999), st.booleans())
def test_a_full_day_of_every_size(scale: int, digits: int, is_estimated: bool) -> None:
    amount = min(digits * 10**scale, LARGEST)
    readings = {
        slot: (amount - slot if slot % 2 and amount > SLOTS else amount, is_estimated)
        for slot in range(SLOTS)
    }
    assert meaning(pack(day_of(readings))) == readings


def test_the_total_of_the_largest_day_passes_64_bits() -> None:
    packed = pack(Day(ALL, 0, [LARGEST] * SLOTS))
    assert summary(packed).total == SLOTS * LARGEST > 2**64


@pytest.mark.parametrize(
    ("amounts", "size"),
    [
        # Version, layout and flags, and the total; then each amount in the fewest bytes that take the largest.
        ([0] * SLOTS, 3),
        ([5_000_000] * SLOTS, 3 + 1 + SLOTS),
        ([255_000, 1_000] * 24, 3 + 2 + SLOTS),
        ([2_999_000, 1_000] * 24, 3 + 3 + 2 * SLOTS),
        ([65_536_000, 1_000] * 24, 3 + 3 + 3 * SLOTS),
        ([LARGEST, 0] * 24, 3 + 9 + 8 * SLOTS),
    ],
)
def test_a_day_takes_few_bytes(amounts: list[int], size: int) -> None:
    assert len(pack(Day(ALL, 0, amounts))) == size
    # The bitmaps are there only where they say something.
    assert len(pack(Day(ALL, 1, amounts))) == size + 6
    assert len(pack(Day(ALL - 1, 2, [0, *amounts[1:]]))) <= size + 12


def test_the_format_of_version_1() -> None:
    """Rows that are stored keep their meaning in every later version."""
    amounts = [0] * SLOTS
    amounts[0], amounts[47] = 1_000, 300_000
    packed = pack(Day(1 | 1 << 47, 1, amounts))
    assert packed.hex(" ") == "01 13 0b 01 00 00 00 00 80 01 00 00 00 00 00 2d 01 01 00 2c 01"
    wide = [0] * SLOTS
    wide[3], wide[4] = 0x123456, 1
    packed = pack(Day(0b11000, 0, wide))
    assert packed.hex(" ") == "01 18 0d 18 00 00 00 00 00 57 34 12 56 34 01 00 12 00"


def test_bytes_of_another_version_are_refused() -> None:
    packed = bytes([VERSION + 1]) + pack(Day(ALL, 0, [1] * SLOTS))[1:]
    for read in (unpack, summary):
        with pytest.raises(
            ValueError, match=r"^This version of Voltwire cannot read packed readings of version 2\.$"
        ):
            read(packed)


@pytest.mark.parametrize("amount", [-1, 2**64])
def test_amounts_that_the_format_cannot_hold_are_refused(amount: int) -> None:
    with pytest.raises(ValueError, match=r"^An amount is 0 or more and fits 64 bits\.$"):
        pack(Day(1, 0, [amount] + [0] * 47))


@given(st.dictionaries(st.integers(0, SLOTS - 1), ORIGINS, min_size=1), ORIGINS)
def test_origins_go_in_and_come_out_exactly(origins: dict[int, Origin], latest: Origin) -> None:
    present = sum(1 << slot for slot in origins)
    packed = pack_origins((origins[slot] for slot in sorted(origins)), latest)
    assert unpack_origins(packed, latest, present) == origins
    assert (packed is None) == (set(origins.values()) == {latest})


def test_half_hours_recorded_one_by_one_take_few_bytes() -> None:
    origins = [(1_800_000 * slot, 0) for slot in range(SLOTS)]
    packed = pack_origins(origins, origins[-1])
    assert packed is not None
    assert len(packed) <= 5 * SLOTS + 1
