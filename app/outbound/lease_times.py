"""How long leases of deliveries and of transactional mails last, and how far a queue is counted."""

import time
from typing import Final

RECORDING_SECONDS: Final = 1.0
"""The share of a lease that is kept for writing the outcome into the database."""

COUNTED_DUE: Final = 100_000
"""A longer queue is not counted to its end: it costs too much, and says nothing more."""


def lease_seconds(timeout: float) -> float:
    """The length of a lease: the wait in the queue, one attempt, and its recording."""
    return queue_seconds(timeout) + timeout + RECORDING_SECONDS


def queue_seconds(timeout: float) -> float:
    """The longest wait between a claim and its attempt; a claim that waited longer is given back."""
    return 0.5 * timeout + 2


def is_too_late(expires_at: float, timeout: float) -> bool:
    """Whether an attempt that begins now might outlast its lease, which ends at `expires_at` on the monotonic clock."""
    return expires_at < time.monotonic() + timeout + RECORDING_SECONDS
