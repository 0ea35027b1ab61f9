"""Generated households: how much each of their meters counts in any half-hour, as a pure function of number and seed.

The shape is that of British homes: nights, mornings, evenings, weekends and seasons in local time. A half-hour costs
well under a microsecond, so that a stand-in serves thousands of meters.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Final

from app.core import clock
from app.feeds.source import Window
from app.meters.enums import MeterType
from app.meters.units import converter, factor
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

SLOTS: Final = 48
YEARS: Final = range(1996, 2061)
_NOISE_VALUES: Final = 4096
_MIX: Final = 2_654_435_761
_THURSDAY: Final = 3
"""The weekday of the first day of 1970, counted from Monday."""

# Wh of each local half-hour from 00:00, in spring and autumn.
_ELECTRICITY: Final = (
    110, 95, 85, 80, 78, 76, 75, 76, 78, 80, 90, 105, 140, 210, 280, 310, 290, 240, 200, 180, 170, 165, 170, 185,
    210, 205, 190, 180, 175, 180, 195, 230, 290, 370, 450, 520, 540, 530, 500, 460, 420, 390, 350, 310,
    260, 210, 170, 135,
)  # fmt: skip
_GAS: Final = (
    60, 50, 45, 45, 45, 45, 50, 60, 80, 120, 300, 900, 1500, 1900, 1800, 1400, 900, 600, 450, 400, 380, 360, 350, 340,
    340, 330, 320, 320, 340, 380, 500, 800, 1200, 1600, 1800, 1850, 1750, 1500, 1200, 950, 800, 650, 500, 350, 220, 150,
    100, 75,
)  # fmt: skip
_PEAK_SUN: Final = 700
"""Wh that a roof gives to the grid in the best half-hour of a clear midsummer day."""


def half_hour(instant: datetime) -> int:
    """The number of the half-hour, counted from 1970, in which an instant falls."""
    return clock.to_ms(instant) // HALF_HOUR_MS


def instant_of(half_hour: int) -> datetime:
    """The instant at which a half-hour begins."""
    return clock.from_ms(half_hour * HALF_HOUR_MS)


@dataclass(frozen=True)
class Household:
    """A meter's use. `unit` is that of the source (kwh or m3), whose values have so many `decimals`."""

    number: str
    type: MeterType = MeterType.ELECTRICITY
    channels: tuple[ReadingChannel, ...] = (ReadingChannel.IMPORT,)
    seed: int = 1
    decimals: int = 3
    unit: str = "kwh"

    def amounts(self, first: int, after: int, channel: ReadingChannel = ReadingChannel.IMPORT) -> list[int]:
        """Millionths of the unit that each half-hour of `[first, after)` counts."""
        step = int(10 ** (6 - self.decimals))
        size, phase = self._traits
        found: list[int] = []
        for start, end, shift in _local_parts(first, after):
            at = start
            while at < end:
                day, slot = divmod(at + shift, SLOTS)
                stop = min(end, at - slot + SLOTS)
                shape, scale = self._day(day, channel)
                scale *= size
                found += [
                    # Wh by three factors of a thousandth each.
                    shape[slot + one - at]
                    * scale
                    * _NOISE[(one * _MIX + phase >> 9) % _NOISE_VALUES]
                    // 1_000_000
                    // step
                    * step
                    for one in range(at, stop)
                ]
                at = stop
        return found

    def truth(self, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """The readings that Voltwire has to have of a window: millionths of a kWh, all of them actual."""
        first, after = half_hour(window.start), half_hour(window.end)
        starts = list(range(first, after))
        return Columns(starts, self.in_kwh(self.amounts(first, after, channel)), [False] * len(starts))

    def in_kwh(self, amounts: list[int]) -> list[int]:
        """Millionths of a kWh of millionths of the unit."""
        return amounts if self.unit == "kwh" else list(map(converter(factor(self.unit)), amounts))

    @cached_property
    def _traits(self) -> tuple[int, int]:
        """The size in thousandths of a usual household's, and the phase of its chances."""
        digest = hashlib.blake2b(f"{self.seed}:{self.number}".encode(), digest_size=12).digest()
        return 600 + int.from_bytes(digest[:4]) % 900, int.from_bytes(digest[4:])

    def _day(self, day: int, channel: ReadingChannel) -> tuple[tuple[int, ...], int]:
        """The shape of a local day, counted from 1970, and its scale in thousandths."""
        of_year = (day - day // 1461) % 365
        if channel is not ReadingChannel.IMPORT:
            clouds = _NOISE[(day * _MIX + self._traits[1] >> 5) % _NOISE_VALUES]
            return _SUN[of_year], clouds
        weekday = (day + _THURSDAY) % 7
        if self.type is MeterType.GAS:
            scale = _HEATING[of_year]
            return _GAS, scale if self.unit == "kwh" else scale // 11
        return (_WEEKEND if weekday >= 5 else _ELECTRICITY), _LIGHTING[of_year]


def _local_parts(first: int, after: int) -> Iterator[tuple[int, int, int]]:
    """Parts of `[first, after)` with a constant offset of local time, in half-hours."""
    at = first
    while at < after:
        place = bisect_right(_CHANGES, at)
        end = min(after, _CHANGES[place]) if place < len(_CHANGES) else after
        yield at, end, 2 * (place % 2)
        at = end


def _clock_changes() -> list[int]:
    """The half-hours that begin with a change of the clocks: the odd ones to summer time, the even ones back."""
    hours = (datetime(year, month, 31, 1, tzinfo=UTC) for year in YEARS for month in (3, 10))
    # The last Sunday of a month with 31 days, at 01:00 UTC.
    return [half_hour(hour - timedelta(days=(hour.weekday() + 1) % 7)) for hour in hours]


def _sun(of_year: int) -> tuple[int, ...]:
    """Wh of each local half-hour of a clear day."""
    height = math.cos(2 * math.pi * (of_year - 172) / 365)
    half_day = 8.2 + 4.1 * height
    noon, peak = 25.0, _PEAK_SUN * (0.6 + 0.4 * height)
    return tuple(
        round(peak * max(0.0, math.cos(math.pi * (slot + 0.5 - noon) / (4 * half_day))))
        for slot in range(SLOTS)
    )


def _season(strength: float) -> tuple[int, ...]:
    """Thousandths for each day of the year, highest in the middle of January."""
    return tuple(
        round(1000 * (1 + strength * math.cos(2 * math.pi * (of_year - 15) / 365))) for of_year in range(365)
    )


def _noise() -> tuple[int, ...]:
    """Thousandths from 550 to 1,450, the same in every process."""
    digests = (hashlib.blake2b(number.to_bytes(2), digest_size=4).digest() for number in range(_NOISE_VALUES))
    return tuple(550 + int.from_bytes(digest) % 901 for digest in digests)


_CHANGES: Final = _clock_changes()
assert all(one < other for one, other in pairwise(_CHANGES))  # noqa: S101 - bisect needs it
_WEEKEND: Final = tuple(
    (2 * _ELECTRICITY[(slot - 2) % SLOTS] + (200 if 16 <= slot < 44 else 90)) // 2 for slot in range(SLOTS)
)
_LIGHTING: Final = _season(0.25)
_HEATING: Final = _season(0.85)
_SUN: Final = tuple(_sun(of_year) for of_year in range(365))
_NOISE: Final = _noise()
