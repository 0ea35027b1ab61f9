"""The window of one destination: how many deliveries a worker holds for it, and how many it sends at once.

A destination earns its share. It begins with a few requests at once, each success allows one more, each failure halves
them. A destination that is down or hangs is soon only probed, one request at a time with growing pauses between them,
and gets no storm of requests when it comes back.
"""

from collections import Counter, deque
from dataclasses import dataclass, field

from app.delivery.queue.leases import Claim
from app.delivery.queue.models import Lane

FIRST_LIMIT = 4.0
CLAIMED_AHEAD_SECONDS = 1.0
"""Deliveries are claimed as far ahead as a destination takes them in this time."""

MOST_AHEAD = 40
"""The most deliveries claimed ahead for each request at once."""

FIRST_PROBE_PAUSE = 0.05
LONGEST_PROBE_PAUSE = 5.0
PROBE_SHARE = 0.1
"""Pauses between probes are at most this part of the delay before the delivery's own next attempt."""

_PACE_WEIGHT = 0.2


@dataclass(eq=False, slots=True)
class DestinationQueue:
    """The deliveries that this worker holds for one destination, and its window."""

    id: str
    account_id: str
    most: int
    limit: float
    # Mean seconds of an attempt; None before the first.
    pace: float | None = None
    failures_in_a_row: int = 0
    in_flight: int = 0
    # Lanes that may have deliveries due in the database.
    due: set[int] = field(default_factory=set)
    lanes: tuple[deque[Claim], ...] = field(default_factory=lambda: tuple(deque() for _ in Lane))
    # By lane, claimed deliveries that will be queued once their body is made.
    expected: Counter[int] = field(default_factory=Counter)
    next_lane: int = 0
    paused_until: float = 0.0
    # Requests a second, evenly spread; None for no limit. Nothing begins before `next_at`.
    rate: int | None = None
    next_at: float = 0.0

    @property
    def queued(self) -> int:
        return sum(len(queue) for queue in self.lanes)

    @property
    def held(self) -> int:
        return self.in_flight + self.queued + self.expected.total()

    @property
    def is_suspect(self) -> bool:
        """Whether its last attempts failed, so that it is only probed."""
        return self.limit < 2

    @property
    def window(self) -> int:
        """How many deliveries to hold, sent ones included."""
        window = int(self.limit)
        if not self.is_suspect and self.pace is not None:
            ahead = min(max(CLAIMED_AHEAD_SECONDS / max(self.pace, 0.001), 1), MOST_AHEAD)
            window = int(self.limit * ahead)
        if self.rate is not None:
            window = min(window, self.in_flight + max(int(self.rate * CLAIMED_AHEAD_SECONDS), 1))
        return window

    def room(self, lane: int) -> int:
        """How many deliveries to claim for a lane now, whatever the other lanes hold.

        0 until half of the lane's places are free, so that claims are batches.
        """
        # Of each lane one is at hand when a place is free, except where it might wait for long.
        most = max(self.window - self.in_flight, 0 if self.is_suspect else 1)
        free = most - len(self.lanes[lane]) - self.expected[lane]
        return free if free * 2 >= most else 0

    def claimable(self) -> list[int]:
        """The lanes to claim for."""
        return [lane for lane in sorted(self.due) if self.room(lane) > 0]

    def is_paused(self, now: float) -> bool:
        return now < self.paused_until

    def is_early(self, now: float) -> bool:
        """Whether its rate does not allow another request yet."""
        return self.rate is not None and now < self.next_at

    def begin(self, now: float) -> None:
        """A request begins."""
        self.in_flight += 1
        if self.rate is not None:
            self.next_at = max(self.next_at, now) + 1 / self.rate

    def can_send(self) -> bool:
        return self.in_flight < int(self.limit) and any(self.lanes)

    def take(self) -> Claim:
        """The next delivery to send: the lanes by turns. There must be one."""
        for turn in range(len(self.lanes)):
            lane = (self.next_lane + turn) % len(self.lanes)
            if self.lanes[lane]:
                self.next_lane = (lane + 1) % len(self.lanes)
                return self.lanes[lane].popleft()
        raise LookupError("nothing is queued")

    def drop_queued(self) -> list[Claim]:
        """Take out everything that was claimed and not yet sent."""
        dropped = [claim for queue in self.lanes for claim in queue]
        for queue in self.lanes:
            queue.clear()
        return dropped

    def probe_pause(self, delay: float) -> float:
        """Seconds until the next request to a destination whose last attempts failed; 0 for a healthy one.

        `delay` is the time until the failed delivery's own next attempt.
        """
        if not self.is_suspect or not self.failures_in_a_row:
            return 0.0
        growing = FIRST_PROBE_PAUSE * 2 ** min(self.failures_in_a_row, 10)
        return float(min(growing, LONGEST_PROBE_PAUSE, delay * PROBE_SHARE))

    def finished(self, succeeded: bool, seconds: float) -> None:
        """Learn from an attempt."""
        self.limit = min(self.limit + 1, self.most) if succeeded else max(self.limit / 2, 1.0)
        self.failures_in_a_row = 0 if succeeded else self.failures_in_a_row + 1
        self.pace = seconds if self.pace is None else self.pace + _PACE_WEIGHT * (seconds - self.pace)
