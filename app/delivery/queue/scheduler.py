"""The scheduler: which destinations a worker claims for and sends to next, by turns of destinations and of accounts.

Turns alone would not do where places are held for long: an account holds `ACCOUNT_SHARE` times the free places at most,
so that some are left for the next account, however many destinations of how many accounts hang.
"""

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator

from app.delivery.queue.destination_queue import FIRST_LIMIT, DestinationQueue
from app.delivery.queue.leases import Claim, Wanted

ACCOUNT_SHARE = 3
"""An account alone may have three quarters of all places, two have three sevenths each, ten have three in 31."""

LANES_AT_ONCE = 64
KEPT_QUEUES, QUEUE_WEIGHT = 5_000, 3700
"""Destinations that a sender knows while it has nothing to send them, and the bytes of each, as measured."""


class Scheduler:
    """The queues of one sender. `most` requests at once go to one destination, `most_in_flight` to all together."""

    def __init__(self, most: int, most_in_flight: int) -> None:
        self._most = most
        self._most_in_flight = most_in_flight
        self._queues: dict[str, DestinationQueue] = {}
        # With deliveries due in the database; the destination last claimed for is at the end.
        self._due: dict[DestinationQueue, None] = {}
        # With something to send, by account; the destination last sent to is at the end, and so is its account.
        self._turns: dict[str, dict[DestinationQueue, None]] = {}
        # Suspects that wait because half of all places are taken by suspects.
        self._aside: list[DestinationQueue] = []
        # With something to send that their rate does not allow yet.
        self._early: set[DestinationQueue] = set()
        self._suspects_in_flight: set[str] = set()
        # With something to send, of accounts whose share is used up; and by account, the deliveries that are held.
        self._over: dict[str, dict[DestinationQueue, None]] = {}
        self._in_flight_of: Counter[str] = Counter()
        self._queued_of: Counter[str] = Counter()
        self._expected_of: Counter[str] = Counter()
        self.in_flight = 0
        self.queued = 0
        self.expected = 0

    def __getitem__(self, destination_id: str) -> DestinationQueue:
        """The destination's queue, made at first use."""
        queue = self._queues.get(destination_id)
        if queue is None:
            # The account is known with the first claim; until then the destination counts as one of its own.
            queue = DestinationQueue(destination_id, destination_id, self._most, min(FIRST_LIMIT, self._most))
            self._queues[destination_id] = queue
        return queue

    @property
    def held(self) -> int:
        return self.in_flight + self.queued + self.expected

    def mark_due(self, destination_id: str, lane: int) -> None:
        """There may be deliveries to claim."""
        queue = self[destination_id]
        queue.due.add(lane)
        self._due[queue] = None

    def plan(
        self, budget: int, now: float, *, room: int | None = None, newcomers: bool = False
    ) -> list[Wanted]:
        """The next claims, `budget` deliveries at most: the accounts by turns, and their destinations by turns.

        `room` is how many more may be held, of which no account gets more than its share; `newcomers`: only for
        accounts of which nothing is held. A lane that is planned counts as done; mark it again if it gave as much as
        was wanted.
        """
        most_of_one = ACCOUNT_SHARE * (budget if room is None else room)
        ready = [
            queue
            for queue in self._due
            if not queue.is_paused(now)
            and self._held_of(queue.account_id) < (1 if newcomers else most_of_one)
            and queue.claimable()
        ]
        chosen = list(itertools.islice(_by_turns(ready), LANES_AT_ONCE))
        lanes = [(queue, lane) for queue in chosen for lane in queue.claimable()]
        most = max(budget // max(len(lanes), 1), 1)
        wanted = []
        planned: Counter[str] = Counter()
        for queue, lane in lanes[:budget]:
            account_id = queue.account_id
            left = most_of_one - self._held_of(account_id) - planned[account_id]
            count = min(queue.room(lane), most, left)
            if count <= 0:
                continue
            planned[account_id] += count
            wanted.append(Wanted(queue.id, lane, count))
            queue.due.discard(lane)
        for queue in chosen:
            del self._due[queue]
            if queue.due:
                self._due[queue] = None
        return wanted

    def next_pause_end(self, now: float) -> float | None:
        """When the first of the paused destinations with deliveries due goes on."""
        ends = [queue.paused_until for queue in self._due if queue.is_paused(now)]
        return min(ends, default=None)

    def has_room(self, destination_id: str) -> bool:
        """Whether a claim for this destination would make sense now."""
        return bool(self[destination_id].claimable())

    def add(self, claim: Claim) -> None:
        """Queue a claimed delivery."""
        queue = self[claim.destination_id]
        queue.account_id = claim.account_id
        queue.lanes[claim.lane].append(claim)
        self.queued += 1
        self._queued_of[claim.account_id] += 1
        self._wait_for_turn(queue)

    def expect(self, claim: Claim, count: int = 1) -> None:
        """A claimed delivery will be added; -1: it is, or it will not be."""
        queue = self[claim.destination_id]
        queue.account_id = claim.account_id
        queue.expected[claim.lane] += count
        self.expected += count
        self._expected_of[claim.account_id] += count
        if not self._expected_of[claim.account_id]:
            del self._expected_of[claim.account_id]

    def next_rate_slot(self) -> float | None:
        """When the first of the destinations that wait for their rate may be sent to."""
        return min(queue.next_at for queue in self._early) if self._early else None

    def next_sends(self, now: float) -> Iterator[Claim]:
        """The deliveries to send now; each counts as in flight from here on, until `finished` or `abandoned`."""
        while (claim := self.next_send(now)) is not None:
            yield claim

    def next_send(self, now: float) -> Claim | None:
        """The next of the deliveries to send now, as in `next_sends`."""
        if self._early:
            for queue in [one for one in self._early if not one.is_early(now)]:
                self._early.discard(queue)
                self._wait_for_turn(queue)
        while self._turns and self.in_flight < self._most_in_flight:
            account_id, queues = next(iter(self._turns.items()))
            free = self._most_in_flight - self.in_flight
            if self._in_flight_of[account_id] >= ACCOUNT_SHARE * free:
                self._over[account_id] = self._turns.pop(account_id)
                continue
            queue = next(iter(queues))
            # Both go to the end of their line.
            del self._turns[account_id], queues[queue]
            claim = None
            if queue.can_send() and not self._put_aside(queue, now):
                claim = queue.take()
                self.queued -= 1
                _less(self._queued_of, account_id)
                self._begin(queue, claim, now)
                if queue.can_send():
                    queues[queue] = None
            if queues:
                self._turns[account_id] = queues
            if claim is not None:
                return claim
        return None

    def finished(
        self, claim: Claim, succeeded: bool, seconds: float, *, slow_down: bool = False
    ) -> list[Claim]:
        """Learn from an attempt. Gives the queued deliveries that are better given back now."""
        queue = self[claim.destination_id]
        self.abandoned(claim)
        queue.finished(succeeded, seconds)
        if slow_down:
            queue.limit = 1.0
        self._wait_for_turn(queue)
        return self._drop(queue) if queue.is_suspect else []

    def pause(self, destination_id: str, until: float) -> list[Claim]:
        """Send nothing there until then. Gives the queued deliveries, to be given back."""
        queue = self[destination_id]
        queue.paused_until = max(queue.paused_until, until)
        return self._drop(queue)

    def abandoned(self, claim: Claim) -> None:
        """A delivery is no longer in flight, and nothing was learned."""
        self.in_flight -= 1
        _less(self._in_flight_of, claim.account_id)
        queue = self[claim.destination_id]
        queue.in_flight -= 1
        if self._over:
            over, self._over = self._over, {}
            for account_id, queues in over.items():
                self._turns.setdefault(account_id, {}).update(queues)
        if claim.id in self._suspects_in_flight:
            self._suspects_in_flight.discard(claim.id)
            aside, self._aside = self._aside, []
            for waiting in aside:
                self._wait_for_turn(waiting)
        self._wait_for_turn(queue)

    def drop_all(self) -> list[Claim]:
        """Take back everything that is queued."""
        return [claim for queue in self._queues.values() for claim in self._drop(queue)]

    def forget_idle(self) -> None:
        """Bound the memory: an idle destination begins anew when it comes back."""
        if len(self._queues) > KEPT_QUEUES:
            kept = {key: one for key, one in self._queues.items() if one.held or one.due}
            self._queues = kept

    def _held_of(self, account_id: str) -> int:
        return self._in_flight_of[account_id] + self._queued_of[account_id] + self._expected_of[account_id]

    def _begin(self, queue: DestinationQueue, claim: Claim, now: float) -> None:
        self.in_flight += 1
        self._in_flight_of[claim.account_id] += 1
        queue.begin(now)
        if queue.is_suspect:
            self._suspects_in_flight.add(claim.id)

    def _put_aside(self, queue: DestinationQueue, now: float) -> bool:
        if queue.is_early(now):
            self._early.add(queue)
            return True
        if queue.is_suspect and len(self._suspects_in_flight) * 2 >= self._most_in_flight:
            self._aside.append(queue)
            return True
        return False

    def _wait_for_turn(self, queue: DestinationQueue) -> None:
        if queue.can_send():
            self._turns.setdefault(queue.account_id, {})[queue] = None

    def _drop(self, queue: DestinationQueue) -> list[Claim]:
        dropped = queue.drop_queued()
        self.queued -= len(dropped)
        for claim in dropped:
            _less(self._queued_of, claim.account_id)
        return dropped


def _less(counts: Counter[str], key: str) -> None:
    """Count one less, and forget a key whose count is 0."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _by_turns(queues: Iterable[DestinationQueue]) -> Iterator[DestinationQueue]:
    """The queues in their order, but one of each account after the other."""
    accounts: dict[str, deque[DestinationQueue]] = defaultdict(deque)
    for queue in queues:
        accounts[queue.account_id].append(queue)
    while accounts:
        for account_id in list(accounts):
            yield accounts[account_id].popleft()
            if not accounts[account_id]:
                del accounts[account_id]
