"""The meters of a stand-in: a household each, seen through a scenario and the present day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from app.core import clock
from app.feeds.source import Window
from app.feeds.stand_ins.households import SLOTS, Household, half_hour, instant_of
from app.feeds.stand_ins.scenarios import EXCHANGED_DAYS_AGO, TEST_METERS, Loss, Scenario
from app.meters.enums import MeterType
from app.meters.numbers import mpan_check_digit, mprn_check_digits
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

HISTORY_DAYS: Final = 1_000
"""The days of readings that a meter has at most."""
MOVED_IN_DAYS_AGO: Final = 150
_MORE_THAN_ESTIMATED: Final = 50_000


class Shown(NamedTuple):
    """The half-hours that a source shows, in millionths of its unit, and those that it should have and does not."""

    starts: list[int]
    amounts: list[int]
    estimated: list[bool]
    lost: list[tuple[int, Loss]]


class Serial(NamedTuple):
    """A device of a meter point, which has counted the half-hours `[first, after)`."""

    number: str
    first: int
    after: int


class Clock:
    """The present of a stand-in. `settle` lets everything arrive that is late, and corrects every estimate."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now
        self.is_settled = False

    def settle(self) -> None:
        self.is_settled = True

    @property
    def today(self) -> int:
        """The half-hour with which today began in the UK: sources have nothing after it."""
        return half_hour(clock.start_of_uk_day(clock.uk_date(self._now or clock.now())))


@dataclass(frozen=True)
class ServedMeter:
    """A meter as its source shows it. `export_number` is the MPAN of its export where that has one of its own."""

    household: Household
    scenario: Scenario
    clock: Clock = field(compare=False)
    label: str = ""
    moved_in_days_ago: int | None = None
    export_number: str | None = None

    @property
    def number(self) -> str:
        return self.household.number

    @property
    def first(self) -> int:
        """The first half-hour that there is: the household's move-in, or the beginning of the source's history."""
        days = HISTORY_DAYS if self.moved_in_days_ago is None else self.moved_in_days_ago
        return self.clock.today - days * SLOTS

    @property
    def moved_in_at(self) -> datetime:
        return instant_of(self.first)

    @property
    def serials(self) -> list[Serial]:
        """The devices, oldest first."""
        stem = f"{21 + int(self.number) % 7}E{int(self.number) % 9_999_991:07}"
        today = self.clock.today
        if not self.scenario.has_exchange:
            return [Serial(stem, self.first, today)]
        exchanged = self._exchanged
        return [Serial(stem, self.first, exchanged), Serial(f"{stem}9", exchanged + 2, today)]

    def shown(self, first: int, after: int, channel: ReadingChannel = ReadingChannel.IMPORT) -> Shown:
        """The half-hours of `[first, after)`, counted from 1970."""
        today, scenario = self.clock.today, self.scenario
        found = Shown([], [], [], [])
        first, after = max(first, self.first), min(after, today)
        if channel not in self.household.channels or scenario.is_empty or first >= after:
            return found
        late = today if self.clock.is_settled else today - scenario.late_days * SLOTS
        guessed = today if self.clock.is_settled else today - scenario.estimated_days * SLOTS
        times = 1000 if scenario.is_wrong_unit else 1
        amounts = self.household.amounts(first, after, channel)
        for at, amount in zip(range(first, after), amounts, strict=True):
            if at >= late or (scenario.is_clock_change_only and not _is_near_change(at)):
                continue
            if loss := self._loss(at):
                found.lost.append((at, loss))
                continue
            found.starts.append(at)
            found.amounts.append(amount * times + (_MORE_THAN_ESTIMATED if at >= guessed else 0))
            found.estimated.append(at >= guessed)
        return found

    def truth(self, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """The readings that Voltwire has to have now if it has asked for all of a window, in millionths of a kWh."""
        shown = self.shown(half_hour(window.start), half_hour(window.end), channel)
        return Columns(shown.starts, self.household.in_kwh(shown.amounts), shown.estimated)

    @property
    def _exchanged(self) -> int:
        return self.clock.today - EXCHANGED_DAYS_AGO * SLOTS + SLOTS // 2

    def _loss(self, at: int) -> Loss | None:
        if self.scenario.has_exchange and self._exchanged <= at < self._exchanged + 2:
            return Loss.NOT_COLLECTED
        if not self.scenario.has_gaps:
            return None
        day, slot = divmod(at, SLOTS)
        if day % 29 == 7 or (day % 11 == 3 and 16 <= slot < 20):
            return Loss.NOT_COLLECTED
        return Loss.INVALID if day % 13 == 5 and slot == 40 else None


def meters_of(
    scenario: Scenario,
    seed: int,
    time: Clock,
    *,
    numbers: Sequence[str] = (),
    neighbours: int = 0,
) -> dict[str, ServedMeter]:
    """The meters of a stand-in by number: the test meters, some of each sort, those given, and so many neighbours.

    Test meters and neighbours are of electricity. A given number is an MPAN if it has 13 digits, else an MPRN.
    """
    meters = [
        *(ServedMeter(Household(number), its, time, "Test meter") for number, its in TEST_METERS.items()),
        *_sorts(scenario, seed, time),
    ]
    for number in numbers:
        sort = MeterType.ELECTRICITY if len(number) == 13 else MeterType.GAS
        unit = "kwh" if sort is MeterType.ELECTRICITY else "m3"
        household = Household(number, sort, seed=seed, unit=unit)
        meters.append(ServedMeter(household, scenario, time, "Asked for"))
    meters += (
        ServedMeter(Household(_mpan(seed, 100 + place), seed=seed), scenario, time, f"Neighbour {place + 1}")
        for place in range(neighbours)
    )
    return {meter.number: meter for meter in meters}


def _sorts(scenario: Scenario, seed: int, time: Clock) -> Iterator[ServedMeter]:
    both = (ReadingChannel.IMPORT, ReadingChannel.EXPORT)
    gas = MeterType.GAS
    yield ServedMeter(Household(_mpan(seed, 0), seed=seed), scenario, time, "Home")
    yield ServedMeter(
        Household(_mpan(seed, 1), channels=both, seed=seed),
        scenario,
        time,
        "Home with solar panels",
        export_number=_mpan(seed, 2),
    )
    yield ServedMeter(
        Household(_mpan(seed, 3), seed=seed), scenario, time, "Home of new tenants", MOVED_IN_DAYS_AGO
    )
    yield ServedMeter(Household(_mprn(seed, 0), gas, seed=seed, unit="m3"), scenario, time, "Gas in m³")
    yield ServedMeter(Household(_mprn(seed, 1), gas, seed=seed), scenario, time, "Gas in kWh")


def _mpan(seed: int, place: int) -> str:
    # Distributors 10 to 23; the test numbers begin with 24 and 99.
    twelve = f"{10 + place % 14}{(seed * 7_368_787 + place * 104_729) % 10**10:010}"
    return f"{twelve}{mpan_check_digit(twelve)}"


def _mprn(seed: int, place: int) -> str:
    leading = f"{30 + place}{(seed * 7_919 + place * 104_729) % 10**6:06}"
    return f"{leading}{mprn_check_digits(leading)}"


def _is_near_change(at: int) -> bool:
    """Whether a half-hour is on a day on which the clocks change, or on the day before or after."""
    return _is_day_near_change(clock.uk_date(instant_of(at)))


@lru_cache(maxsize=1024)
def _is_day_near_change(day: date) -> bool:
    days = (day + timedelta(days=shift) for shift in (-1, 0, 1))
    return any(clock.half_hours_in_uk_day(one) != SLOTS for one in days)
