"""Perse's answer as half-hours: `P1` to `P50` are kWh of the settlement periods of a day, `UT1` to `UT50` their flags.

Only the quantity `AI`, active import, is taken. `A` is actual, `E` estimated, and null missing.
"""

import re
from datetime import date
from typing import Final

from app.feeds.half_hours import UNREADABLE, HalfHours
from app.feeds.settlement_days import PERIODS, Flags, SettlementDays, read_date
from app.feeds.shapes import unreadable
from app.feeds.source import Fetched, Json, Window
from app.readings.enums import ReadingChannel

MOST_ROWS: Final = 40_000
"""Rows of an answer: a century of days."""

_QUANTITY: Final = "AI"
_FLAGS: Final = Flags(actual=frozenset("A"), estimated=frozenset("E"))
_NAMES: Final = tuple((period, f"P{period}", f"UT{period}") for period in range(1, PERIODS + 1))
_RANGE: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) TO ([0-9]{4}-[0-9]{2}-[0-9]{2})")


def to_fetched(answer: Json, mpan: str, window: Window) -> Fetched:
    """The readings of a meter in the window. Raises SourceFailure for an answer of another shape."""
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        raise unreadable("data is no list of days")
    half_hours = HalfHours(window)
    days = SettlementDays(half_hours, _FLAGS)
    is_unreadable = False
    for row in rows:
        day = read_date(row.get("Date")) if isinstance(row, dict) else None
        if day is None:
            is_unreadable = True
        elif _is_of(row, mpan):
            values = {period: row.get(name) for period, name, _ in _NAMES}
            flags = {period: row.get(flag) for period, _, flag in _NAMES}
            days.add(ReadingChannel.IMPORT, day, values, flags)
    if (known := _available(answer.get("meta"))) is not None:
        days.miss_outside(ReadingChannel.IMPORT, *known)
    if is_unreadable:
        half_hours.miss_rest(ReadingChannel.IMPORT, UNREADABLE)
    return half_hours.fetched()


def _is_of(row: dict[str, Json], mpan: str) -> bool:
    return row.get("MeasurementQuantity") == _QUANTITY and str(row.get("MPAN")) == mpan


def _available(meta: Json) -> tuple[date, date] | None:
    """The first and last day that the source has. The last one may be in the future."""
    text = meta.get("cacheAvailability") if isinstance(meta, dict) else None
    found = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    first, last = read_date(found[1]), read_date(found[2])
    return None if first is None or last is None or first > last else (first, last)
