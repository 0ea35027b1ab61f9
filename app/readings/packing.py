"""Packing of the readings of one UTC day into a few dozen bytes, exactly.

A day has 48 half-hours, numbered from midnight UTC. Amounts are millionths of a kWh. Version 1, little-endian:

    byte 0         version: 1
    byte 1         bits 0-2: scale s. Amounts and total are stored in units of 10**s millionths
                   bits 3-6: bytes of each amount, 0 to 8
    byte 2         bit 0: the bitmap of present half-hours follows; without it all 48 are present
                   bit 1: the bitmap of estimated half-hours follows; without it none is estimated
                   bits 2-5: bytes of the total, 0 to 9
    6 bytes        present half-hours, bit i for half-hour i, if there is this bitmap
    6 bytes        estimated half-hours, if there is this bitmap
    0 to 9 bytes   the total; 48 of the largest amounts are more than 64 bits
    the amounts    of the present half-hours in order. Amounts of 3, 5, 6 or 7 bytes are split into parts of 4, 2 and 1
                   bytes, the lowest first: the first parts of all amounts, then the second ones, then the third ones

The provenance of a day's half-hours, when they were recorded and why, is one pair for all of them, beside the packed
day, or else the bytes of `pack_origins`: runs over the present half-hours in order, each

    byte 0         bits 0-5: how many half-hours, 1 to 48; bit 6: the reason follows, else it is that of the run before
    1 byte         the reason, if it follows
    varint         milliseconds since the run before, zigzag

where the pair beside the day stands before the first run.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from math import gcd
from operator import add
from struct import Struct
from typing import Final, NamedTuple

VERSION: Final = 1
SLOTS: Final = 48
ALL: Final = (1 << SLOTS) - 1
"""The bitmap of all half-hours."""
BITS: Final = tuple(1 << slot for slot in range(SLOTS))
"""The bitmap of each half-hour."""

MOST_SCALE: Final = 6

Origin = tuple[int, int]
"""When a half-hour was recorded, in milliseconds since 1970, and the code of its reason."""


class Day(NamedTuple):
    """A day's half-hours: bitmaps of present and estimated ones, and 48 amounts, 0 where a half-hour is missing."""

    present: int
    estimated: int
    amounts: Sequence[int]


class Summary(NamedTuple):
    """Everything of a packed day but its amounts, of which it has the total."""

    present: int
    estimated: int
    total: int


class Head(NamedTuple):
    """A summary with the layout of the packed amounts: their scale, the bytes of each, and where they begin."""

    present: int
    estimated: int
    total: int
    scale: int
    width: int
    at: int


class Stored(NamedTuple):
    """A day as it is packed: the amounts of its present half-hours in order, in units of 10**scale millionths."""

    present: int
    estimated: int
    scale: int
    amounts: Sequence[int]

    def by_slot(self) -> Sequence[int]:
        """48 amounts, 0 where a half-hour is missing."""
        if self.present == ALL:
            return self.amounts
        found = [0] * SLOTS
        for slot, amount in zip(slots(self.present), self.amounts, strict=True):
            found[slot] = amount
        return found


_PARTS: Final = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
_LETTERS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_STRUCTS: Final = {
    (size, count): Struct(f"<{count}{letter}")
    for size, letter in _LETTERS.items()
    for count in range(1, SLOTS + 1)
}
_BITMAPS_KEPT: Final = 1024
UNITS: Final = tuple(10**scale for scale in range(MOST_SCALE + 1))
"""Millionths of a kWh by the scale."""


def pack(day: Day) -> bytes:
    """The bytes of a day. Raises ValueError for an amount that is negative or 64 bits long."""
    present, estimated, amounts = day
    values = amounts if present == ALL else [amounts[slot] for slot in _slots(present)]
    scale = _scale(values)
    unit = UNITS[scale]
    if scale:
        values = [value // unit for value in values]
    highest = max(values, default=0)
    if highest >> 64 or min(values, default=0) < 0:
        raise ValueError("An amount is 0 or more and fits 64 bits.")
    width = (highest.bit_length() + 7) // 8
    total = sum(values)
    total_bytes = (total.bit_length() + 7) // 8
    head = bytearray((VERSION, scale | width << 3, total_bytes << 2))
    if present != ALL:
        head[2] |= 1
        head += present.to_bytes(6, "little")
    if estimated:
        head[2] |= 2
        head += estimated.to_bytes(6, "little")
    head += total.to_bytes(total_bytes, "little")
    if width:
        parts = _PARTS[width]
        if len(parts) == 1:
            head += _STRUCTS[width, len(values)].pack(*values)
        else:
            for size in parts:
                mask = (1 << 8 * size) - 1
                head += _STRUCTS[size, len(values)].pack(*[value & mask for value in values])
                values = [value >> 8 * size for value in values]
    return bytes(head)


def unpack(packed: bytes) -> Day:
    """The day of these bytes. Raises ValueError for a version that this program does not know."""
    stored = unpack_stored(packed)
    amounts, unit = stored.by_slot(), UNITS[stored.scale]
    return Day(
        stored.present, stored.estimated, amounts if unit == 1 else [amount * unit for amount in amounts]
    )


def unpack_stored(packed: bytes) -> Stored:
    """The same day as it is packed, without a multiplication for each amount."""
    present, estimated, _, scale, width, at = read_head(packed)
    count = present.bit_count()
    if not width:
        return Stored(present, estimated, scale, (0,) * count)
    amounts: Sequence[int] = ()
    shift = 0
    for size in _PARTS[width]:
        part = _STRUCTS[size, count].unpack_from(packed, at)
        amounts = [low | high << shift for low, high in zip(amounts, part, strict=True)] if shift else part
        at += size * count
        shift += 8 * size
    return Stored(present, estimated, scale, amounts)


def summary(packed: bytes) -> Summary:
    """The bitmaps and the total of a packed day, without decoding its amounts."""
    return Summary(*read_head(packed)[:3])


def sum_between(packed: bytes, head: Head, low: int, high: int) -> int:
    """The sum of the half-hours `[low, high)` of a day with this head; no others are decoded."""
    present, _, _, scale, width, at = head
    if present == ALL:
        first, count, every = low, high - low, SLOTS
    else:
        first = (present & (1 << low) - 1).bit_count()
        count = (present & (1 << high) - 1).bit_count() - first
        every = present.bit_count()
    if not width or not count:
        return 0
    total: int = 0
    shift = 0
    for size in _PARTS[width]:
        total += sum(_STRUCTS[size, count].unpack_from(packed, at + size * first)) << shift
        at += size * every
        shift += 8 * size
    unit: int = UNITS[scale]
    return total * unit


def unite(one: Day, other: Day) -> Day:
    """The half-hours of both days. Raises ValueError if they have one in common."""
    if one.present & other.present:
        raise ValueError("A half-hour is in both days.")
    amounts = list(map(add, one.amounts, other.amounts))
    return Day(one.present | other.present, one.estimated | other.estimated, amounts)


def slots(bitmap: int) -> list[int]:
    """The numbers of the half-hours in a bitmap, in order."""
    return list(_slots(bitmap))


@lru_cache(_BITMAPS_KEPT)
def _slots(bitmap: int) -> tuple[int, ...]:
    # The same half-hours of many meters come together.
    return tuple([slot for slot, bit in enumerate(BITS) if bitmap & bit])


def pack_origins(origins: Iterable[Origin], latest: Origin) -> bytes | None:
    """The origins of the present half-hours in order; None if all are `latest`."""
    runs = [(origin, len(list(run))) for origin, run in groupby(origins)]
    if all(origin == latest for origin, _ in runs):
        return None
    packed = bytearray()
    at, why = latest
    for (ms, reason), count in runs:
        packed += bytes((count,)) if reason == why else bytes((count | 0x40, reason))
        packed += _varint(ms - at)
        at, why = ms, reason
    return bytes(packed)


def unpack_origins(packed: bytes | None, latest: Origin, present: int) -> dict[int, Origin]:
    """The origins of a day's present half-hours by their numbers."""
    if packed is None:
        return dict.fromkeys(slots(present), latest)
    origins: list[Origin] = []
    at, (ms, reason) = 0, latest
    while at < len(packed):
        count = packed[at]
        at += 1
        if count & 0x40:
            reason = packed[at]
            at += 1
        difference, shift = 0, 0
        while True:
            byte = packed[at]
            at += 1
            difference |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        ms += (difference >> 1) ^ -(difference & 1)
        origins += [(ms, reason)] * (count & 0x3F)
    return dict(zip(slots(present), origins, strict=True))


def read_head(packed: bytes) -> Head:
    """The head of a packed day. Raises ValueError for a version that this program does not know."""
    if packed[0] != VERSION:
        raise ValueError(f"This version of Voltwire cannot read packed readings of version {packed[0]}.")
    layout, flags = packed[1], packed[2]
    at = 3
    present, estimated = ALL, 0
    if flags & 1:
        present = int.from_bytes(packed[at : at + 6], "little")
        at += 6
    if flags & 2:
        estimated = int.from_bytes(packed[at : at + 6], "little")
        at += 6
    end = at + (flags >> 2)
    scale = layout & 7
    total = int.from_bytes(packed[at:end], "little") * UNITS[scale]
    return Head(present, estimated, total, scale, layout >> 3, end)


def _scale(values: Sequence[int]) -> int:
    divisor = gcd(*values)
    if not divisor:
        return 0
    scale = 0
    while scale < MOST_SCALE and divisor % UNITS[scale + 1] == 0:
        scale += 1
    return scale


def _varint(value: int) -> bytes:
    value = value << 1 if value >= 0 else (-value << 1) - 1
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)
