"""File descriptors: the process's limit, and the share of it for connections."""

import os
import resource
from typing import Final

WANTED: Final = 65_536
"""The limit that the process asks for, unless the system's hard limit is lower."""

RESERVED: Final = 2048
"""Files that connections of clients never get, or a quarter if that is less: the database and webhooks need some."""


def raise_limit() -> int:
    """Raises the process's limit, which most shells set to 1,024, and gives the new one."""
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
    """The part of the limit that connections of clients may take."""
    return max(1, limit - min(RESERVED, limit // 4))


def can_open(count: int) -> bool:
    """Whether `count` more files can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True
