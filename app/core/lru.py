"""A bounded memory: what was used last stays."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class WeightedLru(Generic[K, V]):
    """At most `size` values, of at most `limit` bytes by what each is said to weigh; of more, those go that were not
    used for the longest time.
    """

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weights: dict[K, int] = {}
        # Of all together.
        self.weight = 0

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[V]:
        return iter(self._values.values())

    def get(self, key: K) -> V | None:
        """What is kept under the key, which is the last to go from now on."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value, unless it alone weighs more than all may."""
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
    """A function of a text that remembers its answers, of `limit` bytes at most.

    An answer weighs `weight` bytes beside three times its text, of which it is taken to hold as much.
    """

    def decorate(function: Callable[[str], V]) -> Callable[[str], V]:
        kept: WeightedLru[str, V] = WeightedLru(sys.maxsize, limit)

        def answered(text: str) -> V:
            found = kept.get(text)
            if found is None:
                found = function(text)
                kept.put(text, found, weight + 3 * sys.getsizeof(text))
            return found

        return answered

    return decorate
