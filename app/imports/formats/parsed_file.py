"""Opens a file of readings, whatever it is packed in, and reads it day by day."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO, Final

from app.imports.formats import containers
from app.imports.formats.assembly import Assembly
from app.imports.formats.containers import Member, Unpacked
from app.imports.formats.documents import is_document, may_have_readings
from app.imports.formats.interface import Counts, FileRefused, MeterReadings, Options, Problem, refused
from app.imports.formats.sources import Source, TableSource, open_member
from app.imports.formats.xlsx import Sheet, Workbook
from app.imports.profiles.catalogue import PROFILES

_NAMES: Final = tuple(one.name for one in PROFILES)
UNKNOWN: Final = "UNKNOWN_FORMAT"
_OTHER_FORMATS: Final = (UNKNOWN, "AMBIGUOUS_FORMAT")
_SHOWN: Final = 5

Opener = tuple[str | None, Callable[[], Source]]
"""The name of a part of the file, and its opening."""


class _LeftOut(Exception):
    """A file of an archive has no readings, and looks as if it was not meant to."""


class ParsedFile:
    """A file whose format is known.

    `profile` is its name and `detection` sentences that say why it was taken; `counts` grow with the iteration, which
    is possible once. Of a workbook, the sheets without readings are passed over. Of an archive, what are no readings is
    left out, which `detection` says; each other file that cannot be read is a problem.
    """

    def __init__(self, file: BinaryIO, options: Options) -> None:
        if options.profile is not None and options.profile not in _NAMES:
            raise refused(
                "UNKNOWN_FORMAT", f'There is no profile "{options.profile[:40]}": choose {", ".join(_NAMES)}.'
            )
        self._options = options
        self._assembly = Assembly(options)
        self._is_workbook = False
        self._parts = self._openers(file)
        self._refusals: list[Problem] = []
        self._left_out: list[str] = []
        self._name: str | None = None
        self._source = self._next()
        if self._source is None:
            raise FileRefused(self._refusals[0]) if self._refusals else self._without_readings()
        self.profile = self._source.profile
        self._detection = self._source.detection

    @property
    def detection(self) -> str:
        return f"{self._detection} {self._said_of_left_out()}".rstrip()

    @property
    def counts(self) -> Counts:
        return self._assembly.counts

    def __iter__(self) -> Iterator[MeterReadings | Problem]:
        return chain.from_iterable(self.steps())

    def steps(self) -> Iterator[list[MeterReadings | Problem]]:
        """The same in short lists, each of what a few dozen rows give: a reader gives way between them."""
        assembly = self._assembly
        while self._source is not None:
            yield self._take_refusals()
            assembly.start(self._name)
            for _ in self._source.steps():
                yield assembly.take()
            assembly.flush()
            yield assembly.take()
            self._source = self._next()
        yield self._take_refusals()
        assembly.finish()
        yield assembly.take()

    def _openers(self, file: BinaryIO) -> Iterator[Opener]:
        unpacked = Unpacked()
        archive = containers.workbook(file)
        if archive is not None:
            self._is_workbook = True
            for sheet in Workbook(archive, unpacked).sheets():
                yield sheet.name, self._sheet_opener(sheet)
        else:
            for member in containers.members(file, unpacked):
                if member.name is not None and is_document(member.name):
                    self._left_out.append(member.name)
                else:
                    yield member.name, self._member_opener(member)

    def _sheet_opener(self, sheet: Sheet) -> Callable[[], Source]:
        return lambda: TableSource(sheet.rows(), ",", sheet.name, self._options, self._assembly)

    def _member_opener(self, member: Member) -> Callable[[], Source]:
        def opened() -> Source:
            try:
                return open_member(member, self._options, self._assembly)
            except FileRefused as error:
                is_unknown = member.name is not None and error.problem.code == UNKNOWN
                if is_unknown and not may_have_readings(member):
                    raise _LeftOut from None
                raise

        return opened

    def _next(self) -> Source | None:
        """The next part that can be read; those before it are refused."""
        for name, opened in self._parts:
            try:
                source = opened()
            except _LeftOut:
                self._left_out.append(name or "")
                continue
            except FileRefused as error:
                if error.problem.code not in _OTHER_FORMATS or name is None:
                    raise
                self._refusals.append(error.problem)
                continue
            self._name = name
            return source
        return None

    def _without_readings(self) -> FileRefused:
        said = self._said_of_left_out()
        return refused(
            UNKNOWN, f"The archive has no file of readings. {said}" if said else "The file is empty."
        )

    def _said_of_left_out(self) -> str:
        if not self._left_out:
            return ""
        shown = ", ".join(f'"{name}"' for name in self._left_out[:_SHOWN])
        more = len(self._left_out) - _SHOWN
        return f"Left out, since they have no readings: {shown}{f' and {more} more' if more > 0 else ''}."

    def _take_refusals(self) -> list[MeterReadings | Problem]:
        refusals, self._refusals = self._refusals, []
        return [] if self._is_workbook else [*refusals]


def open_file(file: BinaryIO, options: Options) -> ParsedFile:
    """Opens a seekable file. Raises FileRefused where its format is unknown or ambiguous."""
    return ParsedFile(file, options)


def profiles() -> list[tuple[str, str]]:
    """The names of all profiles and their descriptions, each with an example line."""
    return [(one.name, one.description) for one in PROFILES]
