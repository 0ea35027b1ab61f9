"""Opaque, prefixed ids that sort by creation time.

An id is `prefix_` and 26 lower-case Crockford base-32 characters: 48 bits of milliseconds, then 80 random bits (the
ULID layout, github.com/ulid/spec). Ids that one process makes in the same millisecond count up, so that rows written
together sort in the order of writing, in whichever threads.
"""

import secrets
import threading
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH: Final = 26
# Two characters at a time for speed: a worker makes an id for each delivery.
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS: Final = range(10 * (_LENGTH // 2 - 1), -1, -10)
_last = 0
_counting: Final = threading.Lock()


def new_id(prefix: str) -> str:
    """A fresh id such as `cus_01jdf3w8q2k7c9v5m1x0a4b6d8`."""
    global _last
    with _counting:
        value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
        if value >> 80 == _last >> 80 or value < _last:
            value = _last + 1 + secrets.randbits(32)
        _last = value
    return f"{prefix}_{_encode(value)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether the text has the shape of an id with this prefix."""
    head, _, tail = text.partition("_")
    return head == prefix and len(tail) == _LENGTH and all(c in _ALPHABET for c in tail)


def _encode(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])
