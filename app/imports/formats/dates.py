"""Dates and times as files write them. Days count from 1970-01-01, times in half-hours."""

import re
from datetime import date
from typing import Final, NamedTuple

from app.core.clock import FIRST_YEAR, long_date

_EPOCH: Final = date(1970, 1, 1).toordinal()
MAX_KNOWN: Final = 1 << 16

DATES: Final = (
    "%d/%m/%Y", "%Y-%m-%d", "%d-%m-%Y", "%d/%m/%y", "%d-%m-%y", "%Y%m%d", "%Y/%m/%d", "%d.%m.%Y",
    "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d %Y",
)  # fmt: skip
"""Formats that no text fits two of with two meanings: the day stands before the month."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PARTS: Final = {
    "%d": r"(?P<d>[0-9]{1,2})",
    "%m": r"(?P<m>[0-9]{1,2})",
    "%y": r"(?P<y>[0-9]{2})",
    "%Y": r"(?P<Y>[0-9]{4})",
    "%b": r"(?P<b>[A-Za-z]{3,9})",
}
_MIDNIGHT: Final = re.compile(
    r"[ T]0{1,2}:00(?::00(?:\.0+)?)?(?:Z|\+00:?00)?|[ ]12:00(?::00)? ?AM", re.IGNORECASE
)
_TIME: Final = re.compile(
    r"([0-9]{1,2}):?([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)? ?(am|pm)?"
    r" ?(Z|UTC|GMT|BST|[+-][0-9]{2}(?::?[0-9]{2})?)?",
    re.IGNORECASE,
)
_STAMP: Final = re.compile(r"(.*?[0-9])(?:[ T]+|(?<=[0-9]{4}),? )([0-9]{1,2}:[0-9]{2}.*)")
_NAMED_OFFSETS: Final = {"z": 0, "utc": 0, "gmt": 0, "bst": 60}


class Stamp(NamedTuple):
    """A date with a time: half-hours since 1970 as the label says, and its offset from UTC in half-hours."""

    label: int
    offset: int | None


class DateReader:
    """Reads dates of some formats; `%d` and `%m` have one or two digits, `%b` is an English month."""

    def __init__(self, formats: tuple[str, ...] = DATES) -> None:
        self._formats = formats
        self._patterns = [_pattern(one) for one in formats]
        self._known: dict[str, int] = {}

    def day(self, cell: str) -> int:
        """The day. A time of midnight behind it is ignored. Raises ValueError with a sentence."""
        found = self._known.get(cell)
        if found is None:
            found = self._read(cell.strip())
            if len(self._known) < MAX_KNOWN:
                self._known[cell] = found
        return found

    def stamp(self, cell: str) -> Stamp:
        """The date and time. Raises ValueError with a sentence."""
        text = " ".join(cell.split())
        found = _STAMP.fullmatch(text)
        if found is None:
            raise ValueError(f'is no date with a time: "{text[:40]}"')
        half_hours, offset = time_of_day(found[2])
        return Stamp(self.day(found[1]) * 48 + half_hours, offset)

    def _read(self, text: str) -> int:
        if not text:
            raise ValueError("is missing")
        if midnight := _MIDNIGHT.search(text):
            text = text[: midnight.start()] if midnight.end() == len(text) else text
        for pattern in self._patterns:
            found = pattern.fullmatch(text)
            if found is None:
                continue
            parts = found.groupdict()
            year = int(parts["Y"]) if parts.get("Y") else 2000 + int(parts["y"])
            if parts.get("b"):
                name = parts["b"][:3].lower()
                if name not in _MONTHS:
                    continue
                month = _MONTHS.index(name) + 1
            else:
                month = int(parts["m"])
            try:
                day = date(year, month, int(parts["d"])).toordinal() - _EPOCH
            except ValueError:
                raise ValueError(f'is no date of the calendar: "{text[:40]}"; the day comes first') from None
            if year < FIRST_YEAR:
                raise ValueError(f"must be after {FIRST_YEAR}, got {text[:40]}")
            return day
        raise ValueError(f'is in no known format: "{text[:40]}"; write it as {example(self._formats[0])}')


def time_of_day(text: str) -> tuple[int, int | None]:
    """Half-hours since midnight, 0 to 48, and the offset from UTC in half-hours. Raises ValueError with a sentence."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'is no time: "{text.strip()[:40]}"; write it as 23:30')
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if found[5]:
        if not 1 <= hour <= 12:
            raise ValueError(f"is no time: {text[:40]}")
        hour = hour % 12 + (12 if found[5].lower() == "pm" else 0)
    if hour > 24 or minute > 59 or second > 59 or (hour == 24 and (minute or second)):
        raise ValueError(f"is no time of a day: {text.strip()[:40]}")
    if minute % 30 or second or int(found[4] or 0):
        raise ValueError(f"must be a whole half-hour (minute 0 or 30), got {text.strip()[:40]}")
    return hour * 2 + minute // 30, _offset(found[6])


def date_of(day: int) -> date:
    return date.fromordinal(day + _EPOCH)


def spoken(day: int) -> str:
    """`31 March 2024`."""
    return long_date(date_of(day))


def example(format: str) -> str:
    """The last day of 2026 in a format."""
    shown = format
    for part, text in (("%d", "31"), ("%m", "12"), ("%y", "26"), ("%Y", "2026"), ("%b", "Dec")):
        shown = shown.replace(part, text)
    return shown


def _offset(text: str | None) -> int | None:
    if text is None:
        return None
    if text.lower() in _NAMED_OFFSETS:
        return _NAMED_OFFSETS[text.lower()] // 30
    digits = text[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    if minutes % 30 or minutes > 14 * 60:
        raise ValueError(f"has an offset that is no whole half-hour: {text}")
    return -minutes // 30 if text[0] == "-" else minutes // 30


def _pattern(format: str) -> re.Pattern[str]:
    pattern = re.escape(format).replace(r"\ ", " +")
    for part, inner in _PARTS.items():
        pattern = pattern.replace(re.escape(part), inner).replace(part, inner)
    return re.compile(pattern)
