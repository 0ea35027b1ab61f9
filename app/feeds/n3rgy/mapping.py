"""n3rgy's answers, version 2: lists of meters, reading types, and readings by device.

Source: n3rgy's OpenAPI document and guide, and its users' lists of bad values. Timestamps are the **end** of their
half-hour, in UTC: a day is 00:30 to 24:00.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from app.feeds.amounts import SMART_METER_MOST, Amounts, Unit, meter_unit
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.half_hours import DATES, KnownTexts, half_hour_of
from app.feeds.shapes import items, record, records, text, unreadable
from app.feeds.source import SourceMeter, Window
from app.meters.enums import MeterType
from app.meters.numbers import CORE_DIGITS, GAS_DIGITS
from app.outbound.text import quotable
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS

_TIME: Final = re.compile(r"[ T]([0-9]{2}):([0-9]{2})(?::00)?Z?")
_DATE: Final = 10
_BESIDE: Final = frozenset(("secondaryValue", "additionalInformation"))
_EXPORTS: Final = ("production", "export")
_UNITS: Final = {"kwh": "kwh", "wh": "wh", "mwh": "mwh", "m3": "m3", "m³": "m3", "ft3": "ft3"}


def source_meters(entries: Iterable[Any]) -> list[SourceMeter]:
    """The meters of a page of the list; what is no number of a meter is left out."""
    found = []
    for entry in entries:
        if not isinstance(entry, str) or not (entry.isascii() and entry.isdecimal()):
            continue
        if len(entry) == CORE_DIGITS:
            found.append(SourceMeter(entry, MeterType.ELECTRICITY))
        elif len(entry) in GAS_DIGITS:
            found.append(SourceMeter(entry, MeterType.GAS))
    return found


def reading_types(answer: Any) -> dict[ReadingChannel, str]:
    """The reading type of each channel that a meter has, import at least. Raises SourceFailure."""
    names = {one.lower() for one in items(answer, "entries") if isinstance(one, str)}
    found = {
        ReadingChannel.IMPORT: "import" if "import" in names and "consumption" not in names else "consumption"
    }
    if export := next((name for name in _EXPORTS if name in names), None):
        found[ReadingChannel.EXPORT] = export
    return found


def amounts_of(answer: Any, window: Window, channel: ReadingChannel, unit: Unit) -> Amounts:
    """The half-hours of all devices of an answer in one window. Raises SourceFailure."""
    granularity = text(answer, "granularity")
    if granularity is not None and granularity.lower() != "halfhour":
        raise unreadable("its granularity is not halfhour")
    if "devices" not in record(answer):
        raise unreadable("it has no devices")
    whole = Amounts(window, channel, unit)
    for device in records(answer, "devices"):
        amounts = Amounts(window, channel, unit)
        _add_values(records(device, "values"), amounts)
        whole.add(amounts)
    return whole


def unit_of(answer: Any, meter: MeterType, settings: Mapping[str, str]) -> Unit:
    """The unit of an answer. Raises SourceFailure for one that cannot be that of the meter."""
    said = text(answer, "unit")
    name = "kwh" if said is None and meter is MeterType.ELECTRICITY else _UNITS.get((said or "").lower())
    if said is None and name is None:
        raise unreadable("it does not say in which unit it gives gas")
    if name is None or (meter is MeterType.ELECTRICITY and name in ("m3", "ft3")):
        raise SourceFailure(
            Meaning.METER,
            f"n3rgy gives this meter's {meter.name.lower()} in {quotable(said or '')[:40]}, which cannot be: ask n3rgy "
            "to mend the meter's data.",
        )
    return meter_unit(name, settings, SMART_METER_MOST[meter])


def held_from(answer: Any) -> int | None:
    """The first half-hour, counted from 1970, that n3rgy's cache holds of the meter; None if it does not tell."""
    cached = record(answer).get("availableCacheRange")
    written = text(cached, "start") if isinstance(cached, dict) else None
    try:
        end = datetime.strptime(written or "", "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return half_hour_of(end) - 1


def _add_values(rows: list[dict[str, Any]], amounts: Amounts) -> None:
    try:
        starts = [_half_hour(row["timestamp"]) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise unreadable("its values have no timestamps of half-hours") from None
    if not any(_BESIDE & row.keys() for row in rows):
        amounts.put_all(starts, [row.get("primaryValue") for row in rows])
        return
    for at, row in zip(starts, rows, strict=True):
        if said := text(row, "additionalInformation"):
            amounts.lose(at, f"n3rgy says: {quotable(said)[:100]}.")
            continue
        second = row.get("secondaryValue")
        # A meter of two elements counts in both.
        amounts.put(at, row.get("primaryValue"), *(() if second is None else (second,)))


def _slot(written: str) -> int:
    """The half-hour of the day that ends at a time; 24:00 is the end of the day, and 00:00 that of the day before."""
    found = _TIME.fullmatch(written)
    slot, rest = divmod(int(found[1]) * 60 + int(found[2]), 30) if found else (0, 1)
    if rest or slot > SLOTS:
        raise ValueError("This is not the end of a half-hour.")
    return slot - 1


_SLOTS: Final = KnownTexts(_slot)


def _half_hour(written: str) -> int:
    """The half-hour, counted from 1970, that ends at a timestamp such as 2012-04-27 09:00."""
    return DATES[written[:_DATE]] + _SLOTS[written[_DATE:]]
