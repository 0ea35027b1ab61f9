"""Settlement days: the half-hours of a day in the United Kingdom, numbered from 1, 46 to 50 of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from app.core import clock
from app.feeds.amounts import NO_VALUE
from app.feeds.half_hours import HalfHours, half_hour_of, start_of
from app.feeds.source import Json
from app.readings.enums import ReadingChannel

PERIODS: Final = 50
"""Settlement periods of the longest day, on which the clocks go back."""

TOO_MANY: Final = "The source gave more settlement periods than the day has, so that none of them is certain."
UNKNOWN_FLAG: Final = "The source marked these half-hours by a flag that is not known."
_DAY: Final = timedelta(days=1)
_NO_CAUSES: Final[Mapping[int, str]] = {}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class Flags:
    """The flags of a source that tell measured, estimated and missing values apart."""

    actual: frozenset[str]
    estimated: frozenset[str]
    missing: frozenset[str] = frozenset()


class SettlementDays:
    """Puts settlement days into the half-hours of a window."""

    def __init__(self, into: HalfHours, flags: Flags) -> None:
        self._into = into
        self._flags = flags
        self.first_day = clock.uk_date(start_of(into.first))
        self.last_day = clock.uk_date(start_of(into.after - 1))

    def add(
        self,
        channel: ReadingChannel,
        day: date,
        values: Mapping[int, Json],
        flags: Mapping[int, Json],
        causes: Mapping[int, str] = _NO_CAUSES,
    ) -> None:
        """Takes a day's values in kWh and their flags, each by its settlement period; a day outside is left out.

        A value without a flag is missing, as is one whose flag is not known, or that `causes` speaks of. A day with a
        value other than 0 for a period that it does not have is missing as a whole: its periods may be those of
        another clock.
        """
        if not self.first_day <= day <= self.last_day:
            return
        first, count = half_hour_of(clock.start_of_uk_day(day)), clock.half_hours_in_uk_day(day)
        if any(value for period, value in values.items() if period > count):
            for at in range(first, first + count):
                self._into.miss(channel, at, TOO_MANY)
            return
        for period in range(1, count + 1):
            at, value, flag = first + period - 1, values.get(period), flags.get(period)
            if (cause := causes.get(period)) is not None:
                self._into.miss(channel, at, cause)
            elif value is None or flag is None or self._is(flag, self._flags.missing):
                self._into.miss(channel, at, NO_VALUE)
            elif self._is(flag, self._flags.actual):
                self._into.add(channel, at, value)
            elif self._is(flag, self._flags.estimated):
                self._into.add(channel, at, value, is_estimated=True)
            else:
                self._into.miss(channel, at, UNKNOWN_FLAG)

    def miss_outside(self, channel: ReadingChannel, first: date, last: date) -> None:
        """Notes that the source has no day before the first and none after the last."""
        cause = f"The source has readings from {clock.long_date(first)} to {clock.long_date(last)} only."
        begins = min(max(first, self.first_day), self.last_day + _DAY)
        ends = min(max(last, self.first_day - _DAY), self.last_day) + _DAY
        before, after = (half_hour_of(clock.start_of_uk_day(day)) for day in (begins, ends))
        self._into.miss_period(channel, self._into.first, before, cause)
        self._into.miss_period(channel, after, self._into.after, cause)

    @staticmethod
    def _is(flag: Json, flags: frozenset[str]) -> bool:
        return isinstance(flag, str) and flag in flags


def read_date(text: Json) -> date | None:
    """The date of `2024-10-27`; None for anything else."""
    if not isinstance(text, str) or _DATE.fullmatch(text) is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
