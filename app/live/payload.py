"""The responses to events, encoded once for a group of equal subscriptions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

# Bytes that a payload or an encoded message takes beside its text.
OVERHEAD: Final = 500
# Payloads are handed over together up to this length: beyond it, a write costs as much as its bytes.
BATCH_BYTES: Final = 16 * 1024
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
    # As `Payload.encoded`, for several payloads together.
    encoded: dict[str, Any] = field(default_factory=dict)
    encoded_limit: int = MAX_ENCODED

    def __iter__(self) -> Iterator[Payload]:
        return iter(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def sequence(self) -> int:
        """The last payload's sequence."""
        return self.payloads[-1].sequence

    def after(self, sequence: int) -> "Batch":
        """The payloads after this sequence; the same object where these are all."""
        if self.payloads[0].sequence > sequence:
            return self
        return Batch([payload for payload in self.payloads if payload.sequence > sequence])

    def keep_encoded(self, prefix: str, messages: Any) -> None:
        """As `Payload.keep_encoded`."""
        if len(self.encoded) < self.encoded_limit:
            self.encoded[prefix] = messages

    def retain(self) -> int:
        """As `Payload.retain`; messages are kept for the batch as a whole."""
        if len(self.payloads) == 1:
            return self.payloads[0].retain()
        self.encoded.clear()
        self.encoded_limit = MAX_RETAINED
        for payload in self.payloads:
            payload.encoded.clear()
            payload.encoded_limit = 0
        return (1 + MAX_RETAINED) * sum(len(payload.body) + OVERHEAD for payload in self.payloads)


def batched(payloads: Sequence[Payload]) -> Iterator[Batch]:
    """The payloads in batches, which end once they are `BATCH_BYTES` long."""
    start = size = 0
    for end, payload in enumerate(payloads, 1):
        size += len(payload.body)
        if size >= BATCH_BYTES or end == len(payloads):
            yield Batch(payloads[start:end])
            start, size = end, 0


class Page(NamedTuple):
    """A stretch of the log: every payload that the group takes after one sequence, through another."""

    after: int
    through: int
    batches: Sequence[Batch]
    # In monotonic time: the page shows nothing older than its beginning.
    started_at: float
    ended_at: float

    def covers(self, position: int) -> bool:
        """Whether it has what comes next after this sequence."""
        return self.after <= position < self.through

    def retain(self) -> int:
        """As `Payload.retain`, for all of them together."""
        return OVERHEAD + sum(batch.retain() for batch in self.batches)
