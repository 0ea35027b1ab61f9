"""A token bucket for each client."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

BUCKETS_KEPT, BUCKET_WEIGHT = 50_000, 300
"""Buckets of one limiter at most, and measured bytes of each."""


class RateLimiter:
    """Gives each client `rate` requests a second, and `burst` at once, or else as many as in a second."""

    def __init__(
        self,
        rate: float,
        capacity: int = BUCKETS_KEPT,
        clock: Callable[[], float] = time.monotonic,
        burst: float | None = None,
    ) -> None:
        self._rate, self._burst = rate, max(burst or rate, 1.0)
        self._capacity, self._clock = capacity, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float | None:
        """Takes a request and returns None, or refuses it and returns the seconds after which it may be tried again."""
        now = self._clock()
        left = self._left(client, now)
        if left < 1:
            return (1 - left) / self._rate
        self._buckets[client] = (left - 1, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return None

    def wait(self, client: str) -> float | None:
        """The result of `take`, without taking a request."""
        left = self._left(client, self._clock())
        return None if left >= 1 else (1 - left) / self._rate

    def give_back(self, client: str) -> None:
        """Returns a request that must not count."""
        if client in self._buckets:
            left, at = self._buckets[client]
            self._buckets[client] = (min(self._burst, left + 1), at)

    def _left(self, client: str, now: float) -> float:
        left, at = self._buckets.get(client, (self._burst, now))
        return min(self._burst, left + (now - at) * self._rate)


def retry_after(seconds: float) -> str:
    """The value of a Retry-After header: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
