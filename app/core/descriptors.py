"""File descriptors: how many this process may open, and how many of them are for connections."""

import os
import resource
from typing import Final

WANTED: Final = 65_536
"""As many as the system allows are asked for, up to this."""

KEPT_AT_MOST: Final = 2048
"""Files that are never given to connections, or a quarter if that is less: the database and webhooks need some too."""


def raise_limit() -> int:
    """Ask for as many as may be, and answer how many the process may open. Most shells give it 1,024 unasked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def for_connections(limit: int) -> int:
    """How many of so many may be connections of clients."""
    return max(1, limit - min(KEPT_AT_MOST, limit // 4))


def can_open(count: int) -> bool:
    """Whether so many files more can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        for one in opened:
            os.close(one)
    return True
