"""Events that could not be executed for a fault of ours: they wait, and are tried again ever more slowly.

An event whose nested objects could not be read must not be shown without them, for null also means "deleted". While
the database is away it waits for as long as that takes. What fails again and again while the database answers is a bug
that would hold up its stream for ever: after `TRIES` the subscription ends with the error, its cursor before the event.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.graphql.failures import internal_error, is_outage

FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 5.0
TRIES: Final = 6
"""They take three seconds together."""

Errors = Sequence[dict[str, Any]]


class Faulty(Exception):
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
    def of(cls, fault: Exception) -> "Faulty":
        """Of the log, which cannot be read."""
        return fault if isinstance(fault, cls) else cls(0, [internal_error(fault)])


class Waiting:
    """A faulty event of one group, shared by the subscriptions that wait for it."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.errors: Errors = ()
        # In the hub's time.
        self.retry_at = 0.0
        self._delay = FIRST_DELAY
        self._tries = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether it fails whatever the database does."""
        return self._tries >= TRIES

    def failed(self, fault: Faulty, now: float) -> None:
        """It failed. A try before its time does not count: somebody else who did not know of it has met it as well."""
        if now < self.retry_at:
            return
        self.errors = fault.errors
        self._tries += not fault.is_outage
        self.retry_at = now + self._delay
        self._delay = min(self._delay * 2, LAST_DELAY)
