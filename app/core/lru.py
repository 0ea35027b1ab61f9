"""Caches that are bounded by bytes, and drop the least recently used values first."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class WeightedLru(Generic[K, V]):
    """At most `size` values, whose weights are `limit` bytes at most."""

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weights: dict[K, int] = {}
        # The sum of all weights.
        self.weight = 0

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[V]:
        return iter(self._values.values())

    def get(self, key: K) -> V | None:
        """The value of the key, which becomes the most recently used."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V, weight: int) -> None:
        """Stores a value, unless it alone weighs more than the limit."""
        self._drop(key)
        if weight > self._limit:
            return
        self._values[key] = value
        self._weights[key] = weight
        self.weight += weight
        while len(self._values) > self._size or self.weight > self._limit:
            self._drop(next(iter(self._values)))

    def _drop(self, key: K) -> None:
        if key in self._values:
            del self._values[key]
            self.weight -= self._weights.pop(key)


def memoized(limit: int, weight: int) -> Callable[[Callable[[str], V]], Callable[[str], V]]:
    """Caches the results of a function of a text in `limit` bytes.

    A result weighs `weight` bytes and three times its text, as it may hold copies of that.
    """

    def decorate(function: Callable[[str], V]) -> Callable[[str], V]:
        cache: WeightedLru[str, V] = WeightedLru(sys.maxsize, limit)

        def cached(text: str) -> V:
            found = cache.get(text)
            if found is None:
                found = function(text)
                cache.put(text, found, weight + 3 * sys.getsizeof(text))
            return found

        return cached

    return decorate
