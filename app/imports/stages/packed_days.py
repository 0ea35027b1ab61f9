"""Days of a meter's channel in one value: those that wait to be written, and those that a write changed.

Waiting days are, each in turn, little-endian: the day counted from 1970 (4 bytes), its first line in the file (4
bytes), how many bytes follow (2 bytes), and the day as `app.readings.packing` packs it. Changed days are each the day
(4 bytes) and the bitmap of its changed half-hours (6 bytes).
"""

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

_HEAD: Final = Struct("<iIH")
_DAY: Final = Struct("<i")
_CHANGED: Final = 10


class WaitingDay(NamedTuple):
    day: int
    line: int
    packed: bytes


def pack_waiting(days: Iterable[WaitingDay]) -> bytes:
    parts: list[bytes] = []
    for day, line, packed in days:
        parts += (_HEAD.pack(day, line, len(packed)), packed)
    return b"".join(parts)


def unpack_waiting(packed: bytes) -> Iterator[WaitingDay]:
    at = 0
    while at < len(packed):
        day, line, length = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        yield WaitingDay(day, line, packed[at : at + length])
        at += length


def pack_changed(days: Iterable[tuple[int, int]]) -> bytes:
    return b"".join([_DAY.pack(day) + changed.to_bytes(6, "little") for day, changed in days])


def unpack_changed(packed: bytes) -> Iterator[tuple[int, int]]:
    for at in range(0, len(packed), _CHANGED):
        [day] = _DAY.unpack_from(packed, at)
        yield day, int.from_bytes(packed[at + 4 : at + _CHANGED], "little")
