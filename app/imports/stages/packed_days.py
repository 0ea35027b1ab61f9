"""Days of a meter's channel in one value: those that wait to be written, and those that a write changed.

Waiting days are, each in turn, little-endian: the day counted from 1970 (4 bytes), its first line in the file (4
bytes), how many bytes follow (2 bytes), and the day as `app.readings.packing` packs it. Changed days are each the day
(4 bytes), the bitmap of its changed half-hours (6 bytes), and when they were recorded, in milliseconds since the time
beside the value (5 bytes).
"""

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

_HEAD: Final = Struct("<iIH")
_DAY: Final = Struct("<i")
_CHANGED: Final = 15


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


class ChangedDay(NamedTuple):
    day: int
    changed: int
    recorded_ms: int


def pack_changed(days: Iterable[ChangedDay], since_ms: int) -> bytes:
    return b"".join(
        [
            _DAY.pack(day) + changed.to_bytes(6, "little") + (recorded_ms - since_ms).to_bytes(5, "little")
            for day, changed, recorded_ms in days
        ]
    )


def unpack_changed(packed: bytes, since_ms: int) -> Iterator[ChangedDay]:
    for at in range(0, len(packed), _CHANGED):
        [day] = _DAY.unpack_from(packed, at)
        changed = int.from_bytes(packed[at + 4 : at + 10], "little")
        yield ChangedDay(day, changed, since_ms + int.from_bytes(packed[at + 10 : at + 15], "little"))
