"""What this worker holds, by destination: who may be claimed for, who is sent to next, and how much at once.

A destination earns its share. It begins with a few requests at once, each success allows one more, each failure halves
them. So one that is dead or hangs is soon only probed, one request at a time with growing pauses between them, and is
not stormed when it comes back. Claims and sends go round the destinations, and round the accounts that they belong to.

Turns alone would not do where places are held for long: an account holds `ACCOUNT_SHARE` times what is free at most,
so that something is left for whoever comes next, however many destinations of how many accounts hang.
"""

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from app.delivery.queue.leases import Claim, Wanted
from app.delivery.queue.models import Lane

FIRST_LIMIT = 4.0
CLAIMED_AHEAD_SECONDS = 1.0
"""Deliveries are claimed as far ahead as a destination works off in this time."""

MOST_AHEAD = 40
"""… but at most so many for each request at once."""

FIRST_PROBE_PAUSE = 0.05
LONGEST_PROBE_PAUSE = 5.0
PROBE_SHARE = 0.1
"""Pauses between probes are at most this part of the delay before the delivery's own next attempt."""

ACCOUNT_SHARE = 3
"""One account alone may have three quarters of all places, two have three sevenths each, ten have three in 31."""

LANES_AT_ONCE = 64
KEPT_CHANNELS, CHANNEL_WEIGHT = 5_000, 3700
"""Destinations that a sender knows while it has nothing to send them, and the bytes of each, as measured."""

_PACE_WEIGHT = 0.2


@dataclass(eq=False, slots=True)
class Channel:
    """One destination as this worker sees it."""

    id: str
    account_id: str
    most: int
    limit: float
    # Mean seconds of an exchange; None before the first.
    pace: float | None = None
    failures_in_a_row: int = 0
    in_flight: int = 0
    # Lanes that may have deliveries due in the database.
    due: set[int] = field(default_factory=set)
    queues: tuple[deque[Claim], ...] = field(default_factory=lambda: tuple(deque() for _ in Lane))
    # By lane, what is claimed and will be queued once its body is written.
    expected: Counter[int] = field(default_factory=Counter)
    next_lane: int = 0
    paused_until: float = 0.0
    # Requests a second, evenly spread; None for no limit. Nothing begins before `next_at`.
    rate: int | None = None
    next_at: float = 0.0

    @property
    def queued(self) -> int:
        return sum(len(queue) for queue in self.queues)

    @property
    def held(self) -> int:
        return self.in_flight + self.queued + self.expected.total()

    @property
    def is_suspect(self) -> bool:
        """Whether its last exchanges failed, so that it is only probed."""
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

        0 until half of what the lane may hold is free, so that claims are batches.
        """
        # Of each lane one is at hand when a place is free, except where it might wait for long.
        most = max(self.window - self.in_flight, 0 if self.is_suspect else 1)
        free = most - len(self.queues[lane]) - self.expected[lane]
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
        return self.in_flight < int(self.limit) and any(self.queues)

    def take(self) -> Claim:
        """The next delivery to send: the lanes by turns. There must be one."""
        for turn in range(len(self.queues)):
            lane = (self.next_lane + turn) % len(self.queues)
            if self.queues[lane]:
                self.next_lane = (lane + 1) % len(self.queues)
                return self.queues[lane].popleft()
        raise LookupError("nothing is queued")

    def drop_queued(self) -> list[Claim]:
        """Take everything that was claimed and not yet sent."""
        dropped = [claim for queue in self.queues for claim in queue]
        for queue in self.queues:
            queue.clear()
        return dropped

    def probe_pause(self, delay: float) -> float:
        """Seconds until the next request to a destination whose last ones failed; 0 for one in good standing.

        `delay` is how long the delivery that failed waits for its own next attempt.
        """
        if not self.is_suspect or not self.failures_in_a_row:
            return 0.0
        growing = FIRST_PROBE_PAUSE * 2 ** min(self.failures_in_a_row, 10)
        return float(min(growing, LONGEST_PROBE_PAUSE, delay * PROBE_SHARE))

    def finished(self, succeeded: bool, seconds: float) -> None:
        """Learn from an exchange."""
        self.limit = min(self.limit + 1, self.most) if succeeded else max(self.limit / 2, 1.0)
        self.failures_in_a_row = 0 if succeeded else self.failures_in_a_row + 1
        self.pace = seconds if self.pace is None else self.pace + _PACE_WEIGHT * (seconds - self.pace)


class Channels:
    """All channels of one sender. `most` is the limit of each, `most_in_flight` of all together."""

    def __init__(self, most: int, most_in_flight: int) -> None:
        self._most = most
        self._most_in_flight = most_in_flight
        self._channels: dict[str, Channel] = {}
        # Those with deliveries due in the database; who was claimed for goes to the end.
        self._due: dict[Channel, None] = {}
        # Those with something to send, by account; who was served goes to the end, the account as well.
        self._turns: dict[str, dict[Channel, None]] = {}
        # Suspects that wait because half of all places are taken by suspects.
        self._aside: list[Channel] = []
        # Those that could send, were it not for their rate.
        self._early: set[Channel] = set()
        self._suspects_in_flight: set[str] = set()
        # Those with something to send whose share is used up; and by account, what is held.
        self._over: dict[str, dict[Channel, None]] = {}
        self._in_flight_of: Counter[str] = Counter()
        self._queued_of: Counter[str] = Counter()
        self._expected_of: Counter[str] = Counter()
        self.in_flight = 0
        self.queued = 0
        self.expected = 0

    def __getitem__(self, destination_id: str) -> Channel:
        """The destination's channel, made at first use."""
        channel = self._channels.get(destination_id)
        if channel is None:
            # The account is known with the first claim; until then the destination counts as one of its own.
            channel = Channel(destination_id, destination_id, self._most, min(FIRST_LIMIT, self._most))
            self._channels[destination_id] = channel
        return channel

    @property
    def held(self) -> int:
        return self.in_flight + self.queued + self.expected

    def mark_due(self, destination_id: str, lane: int) -> None:
        """There may be deliveries to claim."""
        channel = self[destination_id]
        channel.due.add(lane)
        self._due[channel] = None

    def plan(
        self, budget: int, now: float, *, room: int | None = None, newcomers: bool = False
    ) -> list[Wanted]:
        """What to claim next, `budget` deliveries at most: the accounts by turns, and their destinations by turns.

        `room` is how many more may be held, of which no account gets more than its share; `newcomers`: only for
        accounts of which nothing is held. A lane that is planned counts as done; mark it again if it gave as much as
        was wanted.
        """
        most_of_one = ACCOUNT_SHARE * (budget if room is None else room)
        ready = [
            channel
            for channel in self._due
            if not channel.is_paused(now)
            and self._held_of(channel.account_id) < (1 if newcomers else most_of_one)
            and channel.claimable()
        ]
        chosen = list(itertools.islice(_by_turns(ready), LANES_AT_ONCE))
        lanes = [(channel, lane) for channel in chosen for lane in channel.claimable()]
        most = max(budget // max(len(lanes), 1), 1)
        wanted = []
        planned: Counter[str] = Counter()
        for channel, lane in lanes[:budget]:
            account_id = channel.account_id
            left = most_of_one - self._held_of(account_id) - planned[account_id]
            count = min(channel.room(lane), most, left)
            if count <= 0:
                continue
            planned[account_id] += count
            wanted.append(Wanted(channel.id, lane, count))
            channel.due.discard(lane)
        for channel in chosen:
            del self._due[channel]
            if channel.due:
                self._due[channel] = None
        return wanted

    def next_pause_end(self, now: float) -> float | None:
        """When the first of the paused destinations with deliveries due goes on."""
        ends = [channel.paused_until for channel in self._due if channel.is_paused(now)]
        return min(ends, default=None)

    def has_room(self, destination_id: str) -> bool:
        """Whether a claim for this destination would make sense now."""
        return bool(self[destination_id].claimable())

    def add(self, claim: Claim) -> None:
        """Queue a claimed delivery."""
        channel = self[claim.destination_id]
        channel.account_id = claim.account_id
        channel.queues[claim.lane].append(claim)
        self.queued += 1
        self._queued_of[claim.account_id] += 1
        self._wait_for_turn(channel)

    def expect(self, claim: Claim, count: int = 1) -> None:
        """A claimed delivery will be added; -1: it is, or it will not be."""
        channel = self[claim.destination_id]
        channel.account_id = claim.account_id
        channel.expected[claim.lane] += count
        self.expected += count
        self._expected_of[claim.account_id] += count
        if not self._expected_of[claim.account_id]:
            del self._expected_of[claim.account_id]

    def next_in_pace(self) -> float | None:
        """When the first of the destinations that have a rate may be sent to."""
        return min((channel.next_at for channel in self._early), default=None)

    def next_sends(self, now: float) -> Iterator[Claim]:
        """The deliveries to send now; each counts as in flight from here on, until `finished` or `abandoned`."""
        while (claim := self.next_send(now)) is not None:
            yield claim

    def next_send(self, now: float) -> Claim | None:
        """The first of them."""
        if self._early:
            for channel in [one for one in self._early if not one.is_early(now)]:
                self._early.discard(channel)
                self._wait_for_turn(channel)
        while self._turns and self.in_flight < self._most_in_flight:
            account_id, channels = next(iter(self._turns.items()))
            free = self._most_in_flight - self.in_flight
            if self._in_flight_of[account_id] >= ACCOUNT_SHARE * free:
                self._over[account_id] = self._turns.pop(account_id)
                continue
            channel = next(iter(channels))
            # Both go to the end of their line.
            del self._turns[account_id], channels[channel]
            claim = None
            if channel.can_send() and not self._put_aside(channel, now):
                claim = channel.take()
                self.queued -= 1
                _less(self._queued_of, account_id)
                self._begin(channel, claim, now)
                if channel.can_send():
                    channels[channel] = None
            if channels:
                self._turns[account_id] = channels
            if claim is not None:
                return claim
        return None

    def finished(
        self, claim: Claim, succeeded: bool, seconds: float, *, slow_down: bool = False
    ) -> list[Claim]:
        """Learn from an exchange. Gives the queued deliveries that are better given back now."""
        channel = self[claim.destination_id]
        self.abandoned(claim)
        channel.finished(succeeded, seconds)
        if slow_down:
            channel.limit = 1.0
        self._wait_for_turn(channel)
        return self._drop(channel) if channel.is_suspect else []

    def pause(self, destination_id: str, until: float) -> list[Claim]:
        """Send nothing there until then. Gives the queued deliveries, to be given back."""
        channel = self[destination_id]
        channel.paused_until = max(channel.paused_until, until)
        return self._drop(channel)

    def abandoned(self, claim: Claim) -> None:
        """A delivery is no longer in flight, and nothing was learned."""
        self.in_flight -= 1
        _less(self._in_flight_of, claim.account_id)
        channel = self[claim.destination_id]
        channel.in_flight -= 1
        over, self._over = self._over, {}
        for account_id, channels in over.items():
            self._turns.setdefault(account_id, {}).update(channels)
        if claim.id in self._suspects_in_flight:
            self._suspects_in_flight.discard(claim.id)
            aside, self._aside = self._aside, []
            for waiting in aside:
                self._wait_for_turn(waiting)
        self._wait_for_turn(channel)

    def drop_all(self) -> list[Claim]:
        """Take back everything that is queued."""
        return [claim for channel in self._channels.values() for claim in self._drop(channel)]

    def forget_idle(self) -> None:
        """Bound the memory: what is not in use begins anew when it comes back."""
        if len(self._channels) > KEPT_CHANNELS:
            kept = {key: one for key, one in self._channels.items() if one.held or one.due}
            self._channels = kept

    def _held_of(self, account_id: str) -> int:
        return self._in_flight_of[account_id] + self._queued_of[account_id] + self._expected_of[account_id]

    def _begin(self, channel: Channel, claim: Claim, now: float) -> None:
        self.in_flight += 1
        self._in_flight_of[claim.account_id] += 1
        channel.begin(now)
        if channel.is_suspect:
            self._suspects_in_flight.add(claim.id)

    def _put_aside(self, channel: Channel, now: float) -> bool:
        if channel.is_early(now):
            self._early.add(channel)
            return True
        if channel.is_suspect and len(self._suspects_in_flight) * 2 >= self._most_in_flight:
            self._aside.append(channel)
            return True
        return False

    def _wait_for_turn(self, channel: Channel) -> None:
        if channel.can_send():
            self._turns.setdefault(channel.account_id, {})[channel] = None

    def _drop(self, channel: Channel) -> list[Claim]:
        dropped = channel.drop_queued()
        self.queued -= len(dropped)
        for claim in dropped:
            _less(self._queued_of, claim.account_id)
        return dropped


def _less(counts: Counter[str], key: str) -> None:
    """One less; what is at nothing is forgotten."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _by_turns(channels: Iterable[Channel]) -> Iterator[Channel]:
    """The channels in their order, but one of each account after the other."""
    accounts: dict[str, deque[Channel]] = defaultdict(deque)
    for channel in channels:
        accounts[channel.account_id].append(channel)
    while accounts:
        for account_id in list(accounts):
            yield accounts[account_id].popleft()
            if not accounts[account_id]:
                del accounts[account_id]
