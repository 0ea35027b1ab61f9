"""Watches the execution of subscriptions, to take the database away at that moment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core import failpoints


class Attempts:
    """Counts executions of subscriptions, and acts at the first."""

    def __init__(self, at_first: Callable[[], None] | None = None) -> None:
        self.count = 0
        self._at_first = at_first

    def __call__(self, name: str) -> None:
        if name == "subscription.execute":
            self.count += 1
            if self.count == 1 and self._at_first is not None:
                self._at_first()


@contextmanager
def watched(attempts: Attempts) -> Iterator[Attempts]:
    failpoints.watchers.append(attempts)
    try:
        yield attempts
    finally:
        failpoints.watchers.remove(attempts)
