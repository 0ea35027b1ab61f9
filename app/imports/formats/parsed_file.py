"""Opens a file of readings, whatever it is packed in, and reads it day by day."""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Final, Protocol

from app.imports.formats import containers
from app.imports.formats.assembly import Assembly
from app.imports.formats.containers import Member, Unpacked
from app.imports.formats.day_table import DayTable
from app.imports.formats.interface import Counts, MeterReadings, Options, Problem, refused
from app.imports.formats.quantities import is_volume, unit
from app.imports.formats.row_table import RowTable
from app.imports.formats.tables import Row, Table
from app.imports.formats.text import lines
from app.imports.profiles.catalogue import PROFILES
from app.imports.profiles.columns import DayColumns, RowColumns
from app.imports.profiles.detection import detect, volumes, zone_of
from app.imports.profiles.layouts import Days, Rows


class Rowwise(Protocol):
    """A reader that takes one row after the other."""

    def add(self, line: int, cells: list[str]) -> None: ...

    def finish(self) -> None: ...


class Source(Protocol):
    """The opened content of a member: steps through it, while readings and problems appear in the assembly."""

    profile: str
    detection: str

    def steps(self) -> Iterator[None]: ...


class TableSource:
    """A delimited text or a sheet whose header is known."""

    def __init__(
        self, rows: Iterator[Row], separator: str, name: str | None, options: Options, assembly: Assembly
    ) -> None:
        self._rows = rows
        found = detect(rows, options, name)
        self.profile = found.profile.name
        self.detection = found.why
        zone = options.timezone or zone_of(found)
        comma = separator != ","
        self._reader: Rowwise
        if isinstance(found.layout, Days) and isinstance(found.columns, DayColumns):
            self._reader = DayTable(
                assembly, options, found.layout, found.columns, zone or "settlement", comma
            )
        elif isinstance(found.layout, Rows) and isinstance(found.columns, RowColumns):
            self._reader = RowTable(assembly, options, found.layout, found.columns, zone, comma)
        named = options.unit or found.columns.header_unit or found.layout.unit
        if found.columns.unit is not None or is_volume(unit(named) or ""):
            self.detection += f" {volumes(options)}"

    def steps(self) -> Iterator[None]:
        add = self._reader.add
        for line, cells in self._rows:
            add(line, cells)
            yield
        self._reader.finish()
        yield


class ParsedFile:
    """A file whose format is known.

    `profile` is its name and `detection` a sentence that says why it was taken; `counts` grow with the iteration, which
    is possible once.
    """

    def __init__(self, file: BinaryIO, options: Options) -> None:
        if options.profile is not None and options.profile not in _NAMES:
            raise refused(
                "UNKNOWN_FORMAT", f'There is no profile "{options.profile[:40]}": choose {", ".join(_NAMES)}.'
            )
        self._options = options
        self._assembly = Assembly(options)
        self._members = containers.members(file, Unpacked())
        self._name, self._source = self._open(next(self._members))
        self.profile = self._source.profile
        self.detection = self._source.detection

    @property
    def counts(self) -> Counts:
        return self._assembly.counts

    def __iter__(self) -> Iterator[MeterReadings | Problem]:
        assembly, ready = self._assembly, self._assembly.ready
        while True:
            assembly.start(self._name)
            for _ in self._source.steps():
                if ready:
                    yield from ready
                    ready.clear()
            assembly.flush()
            following = next(self._members, None)
            if following is None:
                break
            self._name, self._source = self._open(following)
        assembly.finish()
        yield from ready
        ready.clear()

    def _open(self, member: Member) -> tuple[str | None, Source]:
        table = Table(lines(member.chunks(), member.name), member.name)
        rows = iter(table)
        first = next(rows, None)
        if first is None:
            raise refused("UNKNOWN_FORMAT", "The file is empty.", 0, member.name)
        return member.name, TableSource(
            chain([first], rows), table.separator, member.name, self._options, self._assembly
        )


_NAMES: Final = tuple(one.name for one in PROFILES)


def open_file(file: BinaryIO, options: Options) -> ParsedFile:
    """Opens a seekable file. Raises FileRefused where its format is unknown or ambiguous."""
    return ParsedFile(file, options)


def profiles() -> list[tuple[str, str]]:
    """The names of all profiles and their descriptions, each with an example line."""
    return [(one.name, one.description) for one in PROFILES]
