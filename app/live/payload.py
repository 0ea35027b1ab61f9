"""What an event became for a group of equal subscriptions, and the memory of those that others can still use."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

SHELF_BYTES: Final = 32 * 1024 * 1024
SHELF_SECONDS: Final = 5.0
# What a payload or a ready-made message weighs beside its bytes.
OVERHEAD: Final = 500
# Ready-made messages that a payload has while it is handed out, and while it is remembered: after that most ids of
# operations are never seen again.
FRAMES_KEPT: Final = 64
FRAMES_REMEMBERED: Final = 1


class Payload:
    """The response to one event, executed and encoded once for all subscriptions of a group."""

    __slots__ = ("begun", "body", "cursor", "frames", "frames_kept", "sequence")

    def __init__(self, sequence: int, cursor: str, body: bytes, begun: float) -> None:
        self.sequence = sequence
        self.cursor = cursor
        self.body = body
        # When its execution began, in loop time: it shows nothing older than that.
        self.begun = begun
        # Ready-made messages by how they begin; made by the transports, which know what that is.
        self.frames: dict[str, Any] = {}
        self.frames_kept = FRAMES_KEPT

    def keep(self, lead: str, message: Any) -> None:
        """Keep a ready-made message if there is room for it."""
        if len(self.frames) < self.frames_kept:
            self.frames[lead] = message

    def remember(self) -> int:
        """From now on it only waits for who still lacks it; gives the bytes that it may come to."""
        self.frames.clear()
        self.frames_kept = FRAMES_REMEMBERED
        return (1 + FRAMES_REMEMBERED) * (len(self.body) + OVERHEAD)


class Batch:
    """Payloads of one group, in order, that are handed over together: what came close after another is one write."""

    __slots__ = ("frames", "payloads")

    def __init__(self, payloads: Sequence[Payload]) -> None:
        self.payloads = payloads
        # As `Payload.frames`, for all of them together.
        self.frames: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Payload]:
        return iter(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def sequence(self) -> int:
        """The last one's."""
        return self.payloads[-1].sequence

    def after(self, sequence: int) -> "Batch":
        """What lies after this sequence."""
        return Batch([one for one in self.payloads if one.sequence > sequence])


class Page:
    """The payloads of a stretch of the log: all that the group takes after one sequence, through another."""

    __slots__ = ("after", "begun", "payloads", "through")

    def __init__(self, after: int, through: int, payloads: Sequence[Payload], begun: float) -> None:
        self.after = after
        self.through = through
        self.payloads = payloads
        self.begun = begun

    def remember(self) -> int:
        """As of its payloads."""
        return OVERHEAD + sum(payload.remember() for payload in self.payloads)


Write = Callable[[bytes], Any]


class Line(NamedTuple):
    """A sink's way past all that is for those who do not keep up: `write` what `encode` makes of a batch.

    What lines of one `key` write is the same.
    """

    key: str
    encode: Callable[[Batch], bytes]
    write: Write


class Sink(Protocol):
    """Where a subscription's payloads go; a transport's own outbox is behind it."""

    @property
    def line(self) -> Line | None:
        """While the consumer takes at once what is written. The subscription is told by `rewire` when it changes."""

    @property
    def has_room(self) -> bool:
        """Whether the consumer keeps up."""

    def push(self, batch: Batch) -> bool:
        """Take the payloads in any case; tell whether the consumer still keeps up."""

    async def send(self, payload: Payload) -> None:
        """Take the payload when there is room for it."""

    async def room(self) -> None:
        """Return when the consumer has caught up with what was sent."""

    def error(self, errors: list[dict[str, Any]]) -> None:
        """The subscription has ended with these errors."""


class Shelf:
    """Bounds what is remembered, in bytes and in seconds; the oldest goes first."""

    def __init__(self, most_bytes: int = SHELF_BYTES, seconds: float = SHELF_SECONDS) -> None:
        self._most = most_bytes
        self._seconds = seconds
        self._kept: deque[tuple[float, int, Callable[[], None]]] = deque()
        self.bytes = 0

    def put(self, now: float, size: int, forget: Callable[[], None]) -> None:
        """`forget` is called once, in the order of putting, when this has to go."""
        self._kept.append((now, size, forget))
        self.bytes += size
        while self.bytes > self._most:
            self._drop()

    def clear_old(self, now: float) -> None:
        while self._kept and now - self._kept[0][0] > self._seconds:
            self._drop()

    def _drop(self) -> None:
        _, size, forget = self._kept.popleft()
        self.bytes -= size
        forget()
