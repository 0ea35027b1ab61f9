"""Named points on the way of an event.

Nothing happens at a point. A test may watch them to stop or kill the process exactly there, which is how it is shown
that no event is lost whatever crashes when.
"""

from collections.abc import Callable

watchers: list[Callable[[str], None]] = []


def reach(name: str) -> None:
    """Tell the watchers, if there are any, that the process is at this point."""
    for watcher in watchers:
        watcher(name)
