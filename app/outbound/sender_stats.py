"""Figures of one sender, for its worker's metrics."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class SenderStats:
    """Attempts by outcome and by fate since the start, and the sender's present backlog."""

    outcomes: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    # Attempts that were not recorded, because another worker had taken the delivery over.
    leases_lost: int = 0
    # As of the worker's last count, and of the sender's last look at its queue.
    due: int = 0
    oldest_due_seconds: float = 0.0
    observe_seconds: Callable[[float], None] | None = None

    def ended(self, outcome: str, fate: str, count: int = 1) -> None:
        """Count attempts that ended alike."""
        self.outcomes[outcome] += count
        self.fates[fate] += count

    def took(self, seconds: float) -> None:
        """Observe the duration of one attempt."""
        if self.observe_seconds is not None:
            self.observe_seconds(seconds)
