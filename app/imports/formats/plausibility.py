"""Half-hours that cannot be true, because they are far above all others of their meter."""

from array import array
from collections.abc import Sequence
from statistics import median_low
from typing import Final

TIMES: Final = 100
"""A half-hour of more than so many medians of its meter is impossible."""
ORDINARY: Final = 12_000_000
"""A single-phase supply of 100 A gives 11.5 kWh in half an hour, however little its house uses otherwise."""
ORDINARY_GAS: Final = 35_000_000
"""A domestic gas meter passes 6 m³ an hour, 33 kWh in half an hour, and hardly anything in summer."""

_SAMPLES: Final = 48


class Medians:
    """The typical half-hour of each meter's channel, from a sample of 48 that moves along with its days."""

    def __init__(self) -> None:
        self._samples: dict[int, array[int]] = {}

    def suspects(self, stream: int, amounts: Sequence[int], ordinary: int) -> list[int]:
        """Adds the half-hours of a day. Returns the positions of those that may be impossible."""
        samples = self._samples.get(stream)
        if samples is None:
            self._samples[stream] = array("q", [*amounts[:_SAMPLES], 0, 1])
        else:
            self._sample(samples, amounts)
        top = max(amounts)
        if top <= ordinary:
            return []
        limit = max(ordinary, TIMES * min(_median(amounts), self.median(stream)))
        if top <= limit:
            return []
        return [at for at, amount in enumerate(amounts) if amount > limit]

    def _sample(self, samples: "array[int]", amounts: Sequence[int]) -> None:
        """Replaces the oldest samples: a half of them on the second day, a third on the third, and at least one."""
        place, days = samples[-2], samples[-1] + 1
        size, length = len(samples) - 2, len(amounts)
        taken = size // days or 1
        for number in range(taken):
            samples[place] = amounts[(number * length // taken + days * 7) % length]
            place = (place + 1) % size
        samples[-2], samples[-1] = place, days

    def median(self, stream: int) -> int:
        """Of what is above zero: export and generation are zero at night."""
        return _median(self._samples[stream][:-2])

    def is_impossible(self, stream: int, amount: int, ordinary: int) -> bool:
        """Decides once the file is known."""
        return amount > max(ordinary, TIMES * self.median(stream))


def _median(amounts: Sequence[int]) -> int:
    return median_low([amount for amount in amounts if amount > 0] or [0])
