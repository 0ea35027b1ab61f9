"""ElectraLink's answer as half-hours, in the shape of a public mock, which is an assumption about ElectraLink itself.

`{"MPAN": "…", "MC": {"AI": {"2024-01-01": {"1": {"period": 1, "hhc": 2.5, "aei": "A", "qty_id": "kWh"}}}}}`: `hhc` is
the energy of a settlement period in kWh, and `aei` its flag: `A` actual, `X` corrected, `E` estimated, `M` missing.
"""

from collections.abc import Sequence
from datetime import date
from typing import Final

from app.feeds.half_hours import OTHER_UNIT, UNREADABLE, HalfHours
from app.feeds.settlement_days import PERIODS, Flags, SettlementDays, read_date
from app.feeds.shapes import unreadable
from app.feeds.source import MOST_METERS, Fetched, Json, SourceMeter, Window
from app.meters.enums import MeterType
from app.meters.numbers import InvalidMeterNumber, parse
from app.readings.enums import ReadingChannel

CHANNELS: Final = {"AI": ReadingChannel.IMPORT, "AE": ReadingChannel.EXPORT}
"""Active energy by the measurement quantities of the market; reactive energy, RI and RE, is left out."""
MOST_DAYS: Final = 40_000
"""Days of an answer: a century."""

_UNIT: Final = "kWh"
_FLAGS: Final = Flags(actual=frozenset("AX"), estimated=frozenset("E"), missing=frozenset("M"))
_PERIODS: Final = {str(period): period for period in range(1, PERIODS + 1)}


def to_fetched(answer: Json, mpan: str, window: Window) -> Fetched:
    """The readings of a meter in the window. Raises SourceFailure for an answer of another shape."""
    quantities = answer.get("MC") if isinstance(answer, dict) else None
    if not isinstance(quantities, dict):
        raise unreadable("MC is no object")
    if str(answer.get("MPAN")) != mpan:
        raise unreadable("it is about another meter")
    half_hours = HalfHours(window)
    into = SettlementDays(half_hours, _FLAGS)
    for quantity, channel in CHANNELS.items():
        days = quantities.get(quantity)
        if days is None:
            continue
        if not isinstance(days, dict) or len(days) > MOST_DAYS:
            raise unreadable(f"{quantity} is no object of days")
        flawed = sum(not _add(into, channel, read_date(day), periods) for day, periods in days.items())
        if flawed:
            half_hours.miss_rest(channel, UNREADABLE)
    return half_hours.fetched()


def to_meters(answer: Json) -> Sequence[SourceMeter]:
    """The meters of `{"count": 2, "mpans": ["1312345678907", …]}`; numbers that are none are left out.

    Raises SourceFailure if there is no list.
    """
    listed = answer.get("mpans") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise unreadable("mpans is no list")
    numbers = {_core(one) for one in listed[:MOST_METERS]}
    return [SourceMeter(number, MeterType.ELECTRICITY) for number in sorted(numbers - {""})]


def _add(into: SettlementDays, channel: ReadingChannel, day: date | None, periods: Json) -> bool:
    """Puts a day in, and says whether all of it can be read."""
    if day is None or not isinstance(periods, dict):
        return False
    if not into.first_day <= day <= into.last_day:
        return True
    found = {_PERIODS[key]: one for key, one in periods.items() if key in _PERIODS and isinstance(one, dict)}
    into.add(
        channel,
        day,
        {period: one.get("hhc") for period, one in found.items()},
        {period: one.get("aei") for period, one in found.items()},
        {period: OTHER_UNIT for period, one in found.items() if one.get("qty_id", _UNIT) != _UNIT},
    )
    return len(found) == len(periods)


def _core(number: Json) -> str:
    try:
        return parse(str(number), MeterType.ELECTRICITY).core if isinstance(number, str | int) else ""
    except InvalidMeterNumber:
        return ""
