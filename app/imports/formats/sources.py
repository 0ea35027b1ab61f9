"""Content of one file, sheet or member of an archive, opened by the format that its beginning shows."""

from collections.abc import Iterator
from itertools import chain
from typing import Final, Protocol

from app.imports.formats import d0036, nem12
from app.imports.formats.assembly import Assembly
from app.imports.formats.containers import Member
from app.imports.formats.d0036 import D0036Source
from app.imports.formats.day_table import DayTable
from app.imports.formats.green_button import GreenButtonSource
from app.imports.formats.interface import Options, refused
from app.imports.formats.nem12 import Nem12Source
from app.imports.formats.quantities import unit
from app.imports.formats.row_table import RowTable
from app.imports.formats.tables import LINES_OF_STEP, Row, Table
from app.imports.formats.text import lines
from app.imports.profiles.catalogue import D0036, GREEN_BUTTON, NEM12
from app.imports.profiles.columns import DayColumns, RowColumns
from app.imports.profiles.detection import detect, volumes, zone_of
from app.imports.profiles.layouts import Days, Rows
from app.meters.units import is_volume

_XML: Final = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<", b"\xfe\xff\0<")


class Source(Protocol):
    """Opened content: `steps` goes through it, while readings and problems appear in the assembly.

    A step takes no longer than some dozen rows.
    """

    @property
    def profile(self) -> str: ...

    @property
    def detection(self) -> str: ...

    def steps(self) -> Iterator[None]: ...


class Rowwise(Protocol):
    """A reader that takes one row after the other."""

    def add(self, line: int, cells: list[str]) -> None: ...

    def finish(self) -> None: ...


class TableSource:
    """A delimited text or a sheet whose header is known."""

    def __init__(
        self, rows: Iterator[Row], separator: str, name: str | None, options: Options, assembly: Assembly
    ) -> None:
        self._rows = rows
        self._ready = assembly.ready
        found = detect(rows, options, name)
        self.profile = found.profile.name
        self.detection = found.why
        self._header = found.header.given
        zone = options.timezone or zone_of(found)
        has_comma = separator != ","
        self._reader: Rowwise
        if isinstance(found.layout, Days) and isinstance(found.columns, DayColumns):
            self._reader = DayTable(
                assembly, options, found.layout, found.columns, zone or "settlement", has_comma
            )
        elif isinstance(found.layout, Rows) and isinstance(found.columns, RowColumns):
            self._reader = RowTable(assembly, options, found.layout, found.columns, zone, has_comma)
        named = options.unit or found.columns.header_unit or found.layout.unit
        if found.columns.unit is not None or is_volume(unit(named) or ""):
            self.detection += f" {volumes(options)}"

    def steps(self) -> Iterator[None]:
        add, header, ready = self._reader.add, self._header, self._ready
        for line, cells in self._rows:
            # Files that were put together have their header several times.
            if cells != header:
                add(line, cells)
            if ready or not line % LINES_OF_STEP:
                yield
        self._reader.finish()
        yield


def open_member(member: Member, options: Options, assembly: Assembly) -> Source:
    """Opens the bytes of a member. Raises FileRefused."""
    asked = options.profile
    chunks = member.chunks()
    first = next(chunks, b"")
    if first.lstrip().startswith(_XML) and asked in (None, GREEN_BUTTON.name):
        return GreenButtonSource(member.chunks, member.name, options, assembly)
    table = Table(lines(chain([first], chunks), member.name), member.name)
    rows = iter(table)
    row = next(rows, None)
    if row is None:
        raise refused("UNKNOWN_FORMAT", "The file is empty.", 0, member.name)
    begin = table.first_line
    rows = chain([row], rows)
    if begin.startswith(d0036.BEGINNING) and asked in (None, D0036.name):
        return D0036Source(rows, options, assembly)
    if nem12.BEGINNING.match(begin) and asked in (None, NEM12.name):
        return Nem12Source(rows, options, assembly)
    return TableSource(rows, table.separator, member.name, options, assembly)
