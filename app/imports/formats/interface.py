"""The interface of file formats: options in, days of readings and problems out.

`parsed_file.open_file(file, options)` reads as much of a file as tells its format, and raises `FileRefused` where that
is unknown or ambiguous. Iterating over the result gives `MeterReadings` and `Problem`s in the order of the file, in
constant memory; the same bytes and options give the same ones each time. `FileRefused` may also end the iteration,
where a file breaks a limit: nothing after it was read.

A day of a meter's channel may come in several parts, which never share a half-hour: the second giver of a half-hour is
a `DUPLICATE` problem. Values that look impossible are held back until the whole file is known, and come last, as
readings or as problems. A problem of a row refuses the row; one with the column of a value refuses that value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

from app.readings.enums import ReadingChannel

MAX_UNPACKED: Final = 256 * 1024 * 1024
MAX_HALF_HOURS: Final = 20_000_000
MAX_METERS: Final = 50_000

Zone = Literal["utc", "london", "settlement"]
MeterKind = Literal["mpan", "mprn", "id", "serial", "none"]


@dataclass(frozen=True)
class Options:
    """The choices of the caller; None where the profile decides.

    `columns` maps roles to headers, for the profiles `rows` and `days`. `meter` names the meter of a file that names
    none. `now` is the instant up to which half-hours may have begun.
    """

    now: datetime
    profile: str | None = None
    file_name: str = ""
    channel: ReadingChannel | None = None
    timezone: Zone | None = None
    unit: str | None = None
    calorific_value: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    meter: str | None = None


class MeterKey(NamedTuple):
    """A meter as a file names it.

    `mpan`: the 13 digits of the core. `mprn`: 6 to 10 digits. `id`: ours. `serial`: any other text, for a meter whose
    metadata has it. `none`: the file names no meter; the text is empty.
    """

    kind: MeterKind
    text: str


class MeterReadings(NamedTuple):
    """Half-hours of one UTC day of a meter's channel, as `app.readings.packing.Day` has them.

    `day` counts from 1970-01-01. `amounts` are 48 millionths of a kWh, 0 where a half-hour is missing, and are not to
    be changed. `line` is the first that gave one of them, `file` the name of the member of an archive.
    """

    meter: MeterKey
    channel: ReadingChannel
    day: int
    present: int
    estimated: int
    amounts: Sequence[int]
    line: int
    file: str | None


class Problem(NamedTuple):
    """A row or value that cannot be taken. `line` and `column` count from 1; line 0 is the file as a whole."""

    line: int
    column: int | None
    file: str | None
    code: str
    message: str


class FileRefused(Exception):
    """The whole file cannot be read, or not beyond this point."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class Counts:
    """The running totals of a file; complete when it was read to its end.

    `refused`: rows with a problem. `filtered`: rows left out by what they measure, such as reactive energy.
    `rounded`: values written as spreadsheets do. `filled`: zeros that the file leaves out. `first` and `last`:
    half-hours counted from 1970, both inclusive.
    """

    rows: int = 0
    refused: int = 0
    readings: int = 0
    meters: int = 0
    rounded: int = 0
    filled: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None


def refused(code: str, message: str, line: int = 0, file: str | None = None) -> FileRefused:
    """A refusal of the file, or of the member of an archive."""
    return FileRefused(Problem(line, None, file, code, message))
