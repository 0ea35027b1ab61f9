"""The way from a subscription to its consumer, which each transport provides."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from app.live.payload import Batch

HIGH_WATER: Final = 1024 * 1024
"""Unsent bytes at which a consumer is behind: further events stay in the log until it has taken some of them."""
LOW_WATER: Final = HIGH_WATER // 2
"""Unsent bytes below which it has caught up."""

Write = Callable[[bytes], Any]


class DirectWriter(NamedTuple):
    """A short cut to a consumer that keeps up: `write` takes the bytes that `encode` makes of a batch.

    Writers of one `key` encode alike, so a batch is encoded once for all of them.
    """

    key: str
    encode: Callable[[Batch], bytes]
    write: Write


class Sink(Protocol):
    """Takes a subscription's payloads; a transport's own send queue is behind it."""

    @property
    def direct_writer(self) -> DirectWriter | None:
        """None unless written bytes are taken at once. The sink calls `Subscription.update_writer` when it changes."""

    @property
    def has_room(self) -> bool:
        """Whether the consumer keeps up."""

    def push(self, batch: Batch) -> bool:
        """Take the payloads in any case; tell whether the consumer still keeps up."""

    async def wait_for_room(self) -> None:
        """Return when the consumer has caught up with everything that was sent."""

    def error(self, errors: list[dict[str, Any]]) -> None:
        """The subscription has ended with these errors."""
