"""A generated year of half-hourly readings, and the real year where its file is present.

Both have the same shape: 336 days from 2024-01-01 to 2024-12-01 in the United Kingdom, 16,128 half-hours, 46
of them on 2024-03-31 and 50 on 2024-10-27, kWh with at most one fraction digit, 190 estimated ones in August.
"""

import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

from app.core.clock import HALF_HOUR, UK, half_hours_in_uk_day, start_of_uk_day
from app.readings.enums import ReadingQuality

YearReading = tuple[datetime, Decimal, ReadingQuality]
"""Start in UTC, kWh, quality."""

FIRST_DAY = date(2024, 1, 1)
DAYS = 336
HALF_HOURS = 16_128
ESTIMATED = 190
METER_NUMBER = "2499999999991"

GENERATED_TOTAL = Decimal("311129.7")
GENERATED_JANUARY = Decimal("37086.6")
"""Sums of `generated_year()` with its default seed."""

SHARED_TOTAL = Decimal("295005.6")
SHARED_JANUARY = Decimal("27962.6")

_FILE = "uk-half-hourly-2024.json"
_ROOT = Path(__file__).resolve().parents[2]
_FIRST_ESTIMATED = datetime(2024, 8, 28, tzinfo=UTC)


def generated_year(seed: int = 2024) -> list[YearReading]:
    """A base load, higher in office hours and in winter; equal for equal seeds on every Python."""
    # Python promises to keep the sequence of Random.random() only.
    random = Random(seed).random
    readings = []
    for offset in range(DAYS):
        day = FIRST_DAY + timedelta(days=offset)
        start = start_of_uk_day(day)
        for period in range(half_hours_in_uk_day(day)):
            instant = start + period * HALF_HOUR
            readings.append((instant, _consumption(instant, random()), _quality(instant)))
    return readings


def shared_year_path() -> Path | None:
    """The real year's file in the folder `VOLTWIRE_TEST_DATA` or `../shared/data`; None if not there."""
    folder = Path(os.environ.get("VOLTWIRE_TEST_DATA") or _ROOT.parent / "shared" / "data")
    path = folder / _FILE
    return path if path.is_file() else None


def shared_year() -> list[YearReading]:
    """The real year in ascending order. Raises FileNotFoundError where it is not there."""
    path = shared_year_path()
    if path is None:
        raise FileNotFoundError(f"{_FILE} is not there: set VOLTWIRE_TEST_DATA to its folder.")
    document = json.loads(path.read_text(), parse_float=Decimal, parse_int=Decimal)
    return sorted(
        (reading for day in document["data"] for reading in _day(day)), key=lambda reading: reading[0]
    )


def _day(day: dict[str, Decimal | str | None]) -> list[YearReading]:
    """`P1`…`P50`, the half-hours since local midnight, with their qualities `UT1`…`UT50`."""
    qualities = {"A": ReadingQuality.ACTUAL, "E": ReadingQuality.ESTIMATED}
    start = start_of_uk_day(date.fromisoformat(str(day["Date"])))
    return [
        (start + (period - 1) * HALF_HOUR, consumption, qualities[str(day[f"UT{period}"])])
        for period in range(1, 51)
        if isinstance(consumption := day[f"P{period}"], Decimal)
    ]


def _consumption(instant: datetime, chance: float) -> Decimal:
    local = instant.astimezone(UK)
    winter = 0.7 + 0.6 * abs(local.timetuple().tm_yday - 183) / 183
    load = 30 if local.weekday() < 5 and 7 <= local.hour < 19 else 14
    # Whole tenths, so that the decimal is exact.
    return Decimal(round(load * winter * (0.85 + 0.3 * chance) * 10)) / 10


def _quality(instant: datetime) -> ReadingQuality:
    estimated = _FIRST_ESTIMATED <= instant < _FIRST_ESTIMATED + ESTIMATED * HALF_HOUR
    return ReadingQuality.ESTIMATED if estimated else ReadingQuality.ACTUAL
