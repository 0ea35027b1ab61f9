"""Layouts of delimited files as data: the columns by which a header is known, and the meaning of their cells."""

from dataclasses import dataclass
from typing import Final

from app.imports.formats.dates import DATES
from app.imports.formats.interface import Zone

Names = tuple[str, ...]
"""Headers that mean the same, without case, spaces and punctuation: `Date (UTC)` is `dateutc`. The first one counts."""

MPAN: Final[Names] = ("mpan", "mpancore", "mpanmprnspid", "mpannumber", "mpans")


@dataclass(frozen=True)
class Series:
    """The columns of the half-hours of a day.

    `labels`: `clock` (00:00 to 23:30, or 00:30 to 24:00), `hhmm` (30, 100, to 2400), or what stands before the number
    of the half-hour, such as `hh`. `flags`: the columns of flags, if there are any: `none`, `between` the values, or
    what stands before their numbers. `columns`: as many as there must be; 0 for 48 or 50.
    """

    labels: str
    flags: str = "none"
    columns: int = 0
    from_start: bool | None = None
    """Whether the first label is 00:00; None for either."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The part that all tables share.

    `needs` are columns that tell the layout from others. `row_flag` holds the quality of the whole row, `unit_column`
    and `quantity` say what it measures; rows of other quantities are left out and counted. `zone` None: times have
    offsets.
    """

    meter: Names = ()
    serial: Names = ()
    needs: tuple[Names, ...] = ()
    row_flag: Names = ()
    unit: str = "kwh"
    unit_column: Names = ()
    quantity: Names = ()
    dates: tuple[str, ...] = DATES
    zone: Zone | None = "settlement"
    delay_days: int = 0
    meter_is_number: bool = True
    strict: bool = True
    """Whether a quantity that nobody knows is a problem; else it is ignored."""


@dataclass(frozen=True, kw_only=True)
class Days(Layout):
    """A row per day."""

    date: Names
    values: Series


@dataclass(frozen=True, kw_only=True)
class Rows(Layout):
    """A row per reading: a timestamp, a date with a time, or a date with the number of the half-hour.

    `end` is the timestamp of the half-hour's end, for files without `stamp`; `ends`: `stamp` is the end.
    `zero_by_absence`: half-hours left out of a day are zero.
    """

    value: Names
    stamp: Names = ()
    end: Names = ()
    date: Names = ()
    time: Names = ()
    period: Names = ()
    ends: bool = False
    zero_by_absence: bool = False


@dataclass(frozen=True)
class Profile:
    """A format under a name. `marks` is what tells it from other formats, and ends a sentence."""

    name: str
    summary: str
    example: str
    marks: str
    layouts: tuple[Layout, ...] = ()

    @property
    def description(self) -> str:
        return f"{self.summary} Example: {self.example}"
