"""The responses to events, encoded once for a group of equal subscriptions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

# Bytes that a payload or an encoded message takes beside its text.
OVERHEAD: Final = 500
# Encoded messages that a payload keeps while it is handed out, and afterwards, when most operation ids never recur.
MAX_ENCODED: Final = 64
MAX_RETAINED: Final = 1


@dataclass(slots=True, eq=False)
class Payload:
    """The response to one event, executed and encoded once for all subscriptions of a group."""

    sequence: int
    cursor: str
    body: bytes
    # The monotonic time at which its execution began: it shows nothing older than that.
    started_at: float
    # Whole messages of the transports, by the prefix before the body.
    encoded: dict[str, Any] = field(default_factory=dict)
    encoded_limit: int = MAX_ENCODED

    def keep_encoded(self, prefix: str, message: Any) -> None:
        """Keep an encoded message if there is room for it."""
        if len(self.encoded) < self.encoded_limit:
            self.encoded[prefix] = message

    def retain(self) -> int:
        """Keep only the body, for late subscriptions. Gives the bytes that the payload may take from now on."""
        self.encoded.clear()
        self.encoded_limit = MAX_RETAINED
        return (1 + MAX_RETAINED) * (len(self.body) + OVERHEAD)


@dataclass(slots=True, eq=False)
class Batch:
    """Payloads of one group, in order, that are handed over together, so that each socket gets them in one write."""

    payloads: Sequence[Payload]
    # As `Payload.encoded`, for all of them together.
    encoded: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Payload]:
        return iter(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def sequence(self) -> int:
        """The last payload's sequence."""
        return self.payloads[-1].sequence

    def after(self, sequence: int) -> "Batch":
        """The payloads after this sequence."""
        return Batch([payload for payload in self.payloads if payload.sequence > sequence])


class Page(NamedTuple):
    """A stretch of the log: every payload that the group takes after one sequence, through another."""

    after: int
    through: int
    payloads: Sequence[Payload]
    started_at: float

    def retain(self) -> int:
        """As `Payload.retain`, for all of them together."""
        return OVERHEAD + sum(payload.retain() for payload in self.payloads)
