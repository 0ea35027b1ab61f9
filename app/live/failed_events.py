"""Events that cannot be executed for a fault of ours wait, and are retried with growing delays.

An event whose nested objects cannot be read must not be shown without them, because null also means "deleted". While
the database is away the event waits for as long as that takes. An event that fails again and again while the database
answers is a bug, which would hold up its stream for ever: after `MAX_ATTEMPTS` the subscription ends with the error,
its cursor before the event.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.graphql.failures import internal_error, is_outage

FIRST_DELAY: Final = 0.1
MAX_DELAY: Final = 5.0
MAX_ATTEMPTS: Final = 6
"""Together they take three seconds."""

Errors = Sequence[dict[str, Any]]


class EventFailed(Exception):
    """An event cannot be executed now; `sequence` 0: the log cannot be read."""

    def __init__(self, sequence: int, errors: Errors) -> None:
        super().__init__(errors[0]["message"])
        self.sequence = sequence
        self.errors = errors

    @property
    def is_outage(self) -> bool:
        """Whether the database is away."""
        return any(map(is_outage, self.errors))

    @classmethod
    def of(cls, fault: Exception) -> "EventFailed":
        """The failure behind an exception on reading the log."""
        return fault if isinstance(fault, cls) else cls(0, [internal_error(fault)])


class Retry:
    """The next attempt at a failed event of one group, shared by the subscriptions that wait for it."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.errors: Errors = ()
        # In monotonic time.
        self.due_at = 0.0
        self._delay = FIRST_DELAY
        self._attempts = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the event fails whatever the database does."""
        return self._attempts >= MAX_ATTEMPTS

    def note(self, failure: EventFailed, now: float) -> None:
        """Count a failed attempt, unless a subscription that knew nothing of the delay has made it too early."""
        if now < self.due_at:
            return
        self.errors = failure.errors
        self._attempts += not failure.is_outage
        self.due_at = now + self._delay
        self._delay = min(self._delay * 2, MAX_DELAY)
