"""Sheets of an .xlsx workbook as rows of texts, streamed: numbers keep the digits that the file has.

Formulas never run: a cell is the value that was saved with it. Written against ECMA-376, SpreadsheetML.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from xml.parsers import expat

from app.imports.formats.containers import Unpacked, read_member, shown
from app.imports.formats.interface import refused
from app.imports.formats.tables import MAX_CELLS, Row
from app.imports.formats.xml_events import MAX_TEXT, Element, elements, fed

MAX_SHARED: Final = 2_000_000
MAX_SHARED_CHARACTERS: Final = 32 * 1024 * 1024
MAX_SHEETS: Final = 100

_REFERENCE: Final = re.compile(r"([A-Z]{1,3})[0-9]{1,7}")
_BUILT_IN_DATES: Final = frozenset(range(14, 18))
_BUILT_IN_MOMENTS: Final = frozenset((22,))
_BUILT_IN_TIMES: Final = frozenset((*range(18, 22), *range(45, 48)))
_LITERALS: Final = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]hms]*\]', re.IGNORECASE)
_EPOCH: Final = datetime(1899, 12, 30)  # noqa: DTZ001 - a spreadsheet's dates have no zone
_EPOCH_1904: Final = datetime(1904, 1, 1)  # noqa: DTZ001
_LAST_SERIAL: Final = 2_958_466
_EXACT: Final = 1 << 53


class Sheet(NamedTuple):
    """A visible sheet: its name and its rows, as often as they are wanted."""

    name: str
    rows: Callable[[], Iterator[Row]]


class Workbook:
    """An opened workbook. Raises FileRefused where it is none, or breaks a limit."""

    def __init__(self, archive: zipfile.ZipFile, unpacked: Unpacked) -> None:
        self._archive = archive
        self._unpacked = unpacked
        self._names = frozenset(archive.namelist())
        self._epoch = _EPOCH
        self._styles = self._read_styles()
        self._shared: list[str] | None = None

    def sheets(self) -> list[Sheet]:
        targets = {
            one.attributes.get("Id", ""): one.attributes.get("Target", "")
            for one in self._elements("xl/_rels/workbook.xml.rels")
            if one.name == "Relationship" and not one.is_end
        }
        found: list[Sheet] = []
        for one in self._elements("xl/workbook.xml"):
            if one.is_end:
                continue
            if one.name == "workbookPr" and one.attributes.get("date1904") in ("1", "true"):
                self._epoch = _EPOCH_1904
            elif one.name == "sheet" and one.attributes.get("state", "visible") == "visible":
                target = targets.get(one.attributes.get("r:id", ""), "")
                path = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
                if path in self._names and len(found) < MAX_SHEETS:
                    found.append(Sheet(shown(one.attributes.get("name", "")), self._reader(path)))
        return found

    def _reader(self, path: str) -> Callable[[], Iterator[Row]]:
        return lambda: self._rows(path)

    def _rows(self, path: str) -> Iterator[Row]:
        if self._shared is None:
            self._shared = self._read_shared()
        parser = expat.ParserCreate()
        cells = _Cells(parser, self._shared, self._styles, self._epoch)
        chunks = read_member(self._archive, self._archive.getinfo(path), self._unpacked)
        for _ in fed(parser, chunks, path):
            yield from cells.rows
            cells.rows.clear()

    def _read_shared(self) -> list[str]:
        texts: list[str] = []
        parts: list[str] = []
        length, phonetic = 0, False
        for one in self._elements("xl/sharedStrings.xml"):
            if one.name == "rPh":
                # The pronunciation of a text is no part of it.
                phonetic = not one.is_end
            elif one.is_end and one.name == "t" and not phonetic:
                parts.append(one.text)
                length += len(one.text)
            elif one.is_end and one.name == "si":
                texts.append("".join(parts))
                parts = []
                if len(texts) > MAX_SHARED or length > MAX_SHARED_CHARACTERS:
                    raise refused(
                        "LIMIT_REACHED", "This workbook has too many different texts: save it as CSV."
                    )
        return texts

    def _read_styles(self) -> list[str]:
        """For each style of cells `date`, `time`, `moment` of both, or nothing."""
        formats: dict[str, str] = {}
        styles: list[str] = []
        in_cells = False
        for one in self._elements("xl/styles.xml"):
            if one.name == "cellXfs":
                in_cells = not one.is_end
            elif one.is_end:
                continue
            elif one.name == "numFmt":
                formats[one.attributes.get("numFmtId", "")] = _kind(one.attributes.get("formatCode", ""))
            elif one.name == "xf" and in_cells:
                number = one.attributes.get("numFmtId", "0")
                styles.append(formats.get(number, _built_in(number)))
        return styles

    def _elements(self, path: str) -> Iterator[Element]:
        if path in self._names:
            yield from elements(read_member(self._archive, self._archive.getinfo(path), self._unpacked), path)


class _Cells:
    """Collects a sheet's rows."""

    def __init__(
        self, parser: expat.XMLParserType, shared: list[str], styles: list[str], epoch: datetime
    ) -> None:
        self.rows: list[Row] = []
        self._shared, self._styles, self._epoch = shared, styles, epoch
        self._cells: list[str] = []
        self._number = 0
        self._column = -1
        self._type = "n"
        self._style = ""
        self._texts: list[str] = []
        self._room = 0
        self._takes = False
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name == "c":
            reference = _REFERENCE.fullmatch(attributes.get("r", ""))
            self._column = _column(reference[1]) if reference is not None else self._column + 1
            if self._column >= MAX_CELLS:
                raise refused("TOO_LONG", f"A row has at most {MAX_CELLS:,} cells.", self._number)
            self._type = attributes.get("t", "n")
            self._style = attributes.get("s", "")
            self._texts, self._room = [], MAX_TEXT
        elif name in ("v", "t"):
            self._takes = True
        elif name == "row":
            given = _number(attributes.get("r", ""))
            self._number = self._number + 1 if given is None else given
            self._cells, self._column = [], -1

    def _end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name in ("v", "t"):
            self._takes = False
        elif name == "c":
            cells = self._cells
            while len(cells) < self._column:
                cells.append("")
            text = self._text("".join(self._texts))
            if len(cells) == self._column:
                cells.append(text)
        elif name == "row":
            if any(self._cells):
                self.rows.append((self._number, self._cells))
            self._cells = []

    def _characters(self, text: str) -> None:
        if self._takes and self._room > 0:
            self._texts.append(text[: self._room])
            self._room -= len(text)

    def _text(self, text: str) -> str:
        if self._type == "s":
            at = _number(text)
            return self._shared[at] if at is not None and at < len(self._shared) else ""
        if self._type != "n" or not text:
            return text
        at = _number(self._style)
        style = self._styles[at] if at is not None and at < len(self._styles) else ""
        if style:
            return _moment(text, style, self._epoch)
        return _whole(text) if "E" in text or "e" in text else text


def _moment(text: str, style: str, epoch: datetime) -> str:
    """The date or time of a serial number, to the second."""
    try:
        serial = float(text)
    except ValueError:
        return text
    if not 0 <= serial < _LAST_SERIAL:
        return text
    seconds = round(serial * 86_400)
    if style == "time" and seconds <= 86_400:
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}" + (
            f":{seconds % 60:02}" if seconds % 60 else ""
        )
    try:
        when = epoch + timedelta(seconds=seconds)
    except OverflowError:
        return text
    if not seconds % 86_400 and style == "date":
        return f"{when:%Y-%m-%d}"
    return f"{when:%Y-%m-%d %H:%M}" + (f":{when.second:02}" if when.second else "")


def _whole(text: str) -> str:
    """The digits of a whole number that was saved with an exponent: a meter's number, all of it."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        return text
    if 10**6 <= value < _EXACT and value == value.to_integral_value():
        return str(int(value))
    return text


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _kind(code: str) -> str:
    plain = _LITERALS.sub("", code).lower()
    has_time = re.search(r"[hs]", plain) is not None
    if re.search(r"[dy]", plain):
        return "moment" if has_time else "date"
    return "time" if has_time else ""


def _built_in(number: str) -> str:
    code = _number(number)
    if code in _BUILT_IN_MOMENTS:
        return "moment"
    return "date" if code in _BUILT_IN_DATES else "time" if code in _BUILT_IN_TIMES else ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
