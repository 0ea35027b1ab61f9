"""A meter's readings by settlement day, as the sources of the electricity market show them."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final, NamedTuple

from app.core import clock
from app.core.decimals import MICRO
from app.feeds.stand_ins.households import half_hour, instant_of
from app.feeds.stand_ins.meters import ServedMeter
from app.readings.enums import ReadingChannel

ESTIMATED, ACTUAL, CORRECTED, LOST = "estimated", "actual", "corrected", "lost"
_DAY: Final = timedelta(days=1)


class Settled(NamedTuple):
    """A settlement period: its number in the UK day, its kWh, None where lost, and whether it is that."""

    period: int
    kwh: float | None
    state: str


def settled_days(
    meter: ServedMeter, first_day: date, channel: ReadingChannel
) -> Iterator[tuple[date, list[Settled]]]:
    """The days from a day on of which the source knows anything, each with the periods that it knows."""
    today = meter.clock.today
    start = max(half_hour(clock.start_of_uk_day(first_day)), meter.first)
    shown = meter.shown(start, today, channel)
    was_estimated = today - meter.scenario.estimated_days * 48
    known: dict[int, tuple[float | None, str]] = {at: (None, LOST) for at, _ in shown.lost}
    for at, amount, is_estimated in zip(shown.starts, shown.amounts, shown.estimated, strict=True):
        state = ESTIMATED if is_estimated else CORRECTED if at >= was_estimated else ACTUAL
        known[at] = amount / MICRO, state
    day, last = clock.uk_date(instant_of(start)), clock.uk_date(instant_of(today))
    while day < last:
        first = half_hour(clock.start_of_uk_day(day))
        numbers = range(1, clock.half_hours_in_uk_day(day) + 1)
        found = [Settled(one, *known[first + one - 1]) for one in numbers if first + one - 1 in known]
        if found:
            yield day, found
        day += _DAY
