"""Octopus Energy's answers: the meter points of an account, and pages of consumption.

Source: developer.octopus.energy. Intervals carry the offset of Europe/London; half-hours that are missing are absent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from app.feeds.amounts import ANY_METER_MOST, SMART_METER_MOST, Amounts
from app.feeds.half_hours import DATES, KnownTexts
from app.feeds.shapes import record, records, text, unreadable
from app.feeds.source import SourceMeter
from app.meters.enums import MeterType
from app.meters.numbers import InvalidMeterNumber, parse
from app.outbound.text import quotable
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel

_SERIAL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z /_.-]{0,39}")
MOST_POINTS: Final = 5_000
"""Meter points of an account that are looked at: they are kept in memory for an hour."""
MOST_SERIALS: Final = 40
"""Devices that a meter point has had; each is asked for."""
_MOST_PLACE: Final = 200
_DATE: Final = 10
_GAS_OF_HOMES: Final = 73_200
"""kWh a year up to which Ofgem counts a gas meter as that of a home."""


@dataclass(frozen=True)
class Point:
    """A meter point of an account. `serials` are of all meters that it has had; times None where nothing is told."""

    number: str
    type: MeterType
    channel: ReadingChannel
    serials: tuple[str, ...]
    place: str | None
    moved_in_at: datetime | None = None
    moved_out_at: datetime | None = None
    most: int = ANY_METER_MOST
    """Millionths of a kWh that it can count in half an hour."""


def points_of(account: Any) -> list[Point]:
    """The meter points of all properties of an account, MOST_POINTS at most. Raises SourceFailure."""
    found: list[Point] = []
    for property_ in records(account, "properties"):
        lines = (text(property_, name) for name in ("address_line_1", "postcode"))
        place = quotable(", ".join(filter(None, lines)))[:_MOST_PLACE]
        moved = instant(text(property_, "moved_in_at")), instant(text(property_, "moved_out_at"))
        for name, number, kind in (
            ("electricity_meter_points", "mpan", MeterType.ELECTRICITY),
            ("gas_meter_points", "mprn", MeterType.GAS),
        ):
            for point in records(property_, name):
                given = text(point, number)
                is_export = point.get("is_export") is True
                if given is None or not _is_number(given, kind):
                    continue
                serials = (text(meter, "serial_number") for meter in records(point, "meters"))
                usable = tuple(serial for serial in serials if serial and is_serial(serial))[:MOST_SERIALS]
                channel = ReadingChannel.EXPORT if is_export else ReadingChannel.IMPORT
                most = _most(point, kind, channel)
                found.append(Point(given, kind, channel, usable, place or None, *moved, most))
                if len(found) == MOST_POINTS:
                    return found
    return found


def joined(points: Sequence[Point], serials: Sequence[str] = ()) -> Point:
    """A point of one number or more, with all its serials and further ones.

    An account lists a point twice where its customer has moved out and in again.
    """
    moved_in = [point.moved_in_at for point in points]
    moved_out = [point.moved_out_at for point in points]
    listed = dict.fromkeys(serial for point in points for serial in point.serials)
    every = (*islice(listed, MOST_SERIALS), *serials)
    return replace(
        points[-1],
        serials=tuple(dict.fromkeys(every)),
        moved_in_at=None if None in moved_in else min(filter(None, moved_in)),
        moved_out_at=None if None in moved_out else max(filter(None, moved_out)),
    )


def source_meters(points: Sequence[Point], now: datetime) -> list[SourceMeter]:
    """The meters of the homes that the customer lives in, each once."""
    return list(
        {
            point.number: SourceMeter(point.number, point.type, point.channel, point.place)
            for point in points
            if point.moved_out_at is None or point.moved_out_at > now
        }.values()
    )


def add_page(page: Any, amounts: Amounts) -> tuple[int, str | None]:
    """Adds a page of consumption. Gives the number of its rows and the link to the next page. Raises SourceFailure."""
    if "results" not in record(page):
        raise unreadable("it has no results")
    rows = records(page, "results")
    if rows:
        try:
            starts = _half_hours([row["interval_start"] for row in rows])
            ends = _half_hours([row["interval_end"] for row in rows])
            values = [row["consumption"] for row in rows]
        except (KeyError, TypeError, ValueError):
            raise unreadable("its rows are no half-hours with consumption") from None
        if any(end - start != 1 for start, end in zip(starts, ends, strict=True)):
            raise unreadable("its intervals are not half an hour long")
        amounts.put_all(starts, values)
    return len(rows), text(page, "next")


def account_numbers(answer: Any) -> list[str]:
    """The account numbers in an answer to the viewer's query. Raises SourceFailure."""
    viewer = record(record(record(answer).get("data") or {}).get("viewer") or {})
    return [number for one in records(viewer, "accounts") if (number := text(one, "number"))]


def instant(written: str | None) -> datetime | None:
    """An instant with any offset, as UTC; None for none and for one that cannot be read."""
    try:
        found = datetime.fromisoformat(written) if written else None
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def is_serial(text: str) -> bool:
    return _SERIAL.fullmatch(text) is not None


def _slot(written: str) -> int:
    """The half-hours between the beginning of a date, as if it were UTC, and a time with its offset."""
    moment = datetime.fromisoformat(f"2000-01-02{written}")
    if moment.tzinfo is None:
        # A time without an offset is London's, and ambiguous once a year.
        raise ValueError("This time has no offset.")
    since = moment - datetime(2000, 1, 2, tzinfo=UTC)
    found, rest = divmod(since.total_seconds(), HALF_HOUR_MS / 1000)
    if rest:
        raise ValueError("This is not the start of a half-hour.")
    return int(found)


_SLOTS: Final = KnownTexts(_slot)


def _half_hours(texts: Sequence[str]) -> list[int]:
    """The half-hours, counted from 1970, that begin at instants such as 2026-05-25T22:30:00+01:00."""
    return [DATES[written[:_DATE]] + _SLOTS[written[_DATE:]] for written in texts]


def _most(point: Mapping[str, Any], kind: MeterType, channel: ReadingChannel) -> int:
    """Only meters that are certainly of homes and small businesses have a bound: the others may be of any size."""
    if kind is MeterType.GAS:
        used = point.get("consumption_standard")
        is_small = isinstance(used, int | float) and 0 < used <= _GAS_OF_HOMES
    else:
        # Sites of more than 100 kW are settled half-hourly, and have the profile class 0.
        is_small = channel is ReadingChannel.IMPORT and point.get("profile_class") in range(1, 9)
    return SMART_METER_MOST[kind] if is_small else ANY_METER_MOST


def _is_number(written: str, kind: MeterType) -> bool:
    """Whether it has the form of a meter number; a wrong check digit is the account's to see."""
    try:
        parse(written, kind)
    except InvalidMeterNumber:
        return False
    return True
