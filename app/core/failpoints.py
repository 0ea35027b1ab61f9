"""Failpoints: named points on the way of an event.

Nothing happens there in production. A test may watch them to stop or kill the process at an exact point, which shows
that no crash loses an event.
"""

from collections.abc import Callable

watchers: list[Callable[[str], None]] = []


def reach(name: str) -> None:
    """Calls the watchers, if there are any, with the name of this point."""
    for watcher in watchers:
        watcher(name)
