"""XML as a stream of elements, from people who may mean harm: no entities, no document types, bounded in depth."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from xml.parsers import expat

from app.imports.formats.interface import FileRefused, refused

MAX_DEPTH: Final = 60
MAX_TEXT: Final = 4_096
MAX_CHUNK: Final = 64 * 1024
MAX_TAG: Final = 128 * 1024
"""Bytes of a tag or a comment: the parser keeps it whole, and begins it anew with each piece."""


class Element(NamedTuple):
    """The beginning or the end of an element. `text` is that of an end, cut at MAX_TEXT; names have no namespace."""

    is_end: bool
    name: str
    attributes: Mapping[str, str]
    text: str
    line: int


class _Handlers:
    def __init__(self, parser: expat.XMLParserType, file: str | None) -> None:
        self.found: list[Element] = []
        self._parser = parser
        self._file = file
        self._depth = 0
        self._text: list[str] = []
        self._length = 0
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise refused(
                "UNKNOWN_FORMAT", f"The XML is nested more than {MAX_DEPTH} deep.", self._line(), self._file
            )
        self._text, self._length = [], 0
        self.found.append(Element(False, _local(name), attributes, "", self._line()))

    def _end(self, name: str) -> None:
        self._depth -= 1
        self.found.append(Element(True, _local(name), {}, "".join(self._text), self._line()))
        self._text, self._length = [], 0

    def _characters(self, text: str) -> None:
        if self._length < MAX_TEXT:
            self._text.append(text)
            self._length += len(text)

    def _line(self) -> int:
        return self._parser.CurrentLineNumber


def fed(parser: expat.XMLParserType, chunks: Iterable[bytes], file: str | None) -> Iterator[None]:
    """Feeds a parser in small pieces, between which its caller takes what the handlers have found.

    Raises FileRefused where it is no XML, has a document type, which alone can declare entities, or an endless tag.
    """

    def refuse(*_: object) -> None:
        raise refused(
            "UNKNOWN_FORMAT",
            "The XML has a document type, which may declare entities: leave it out.",
            1,
            file,
        )

    parser.StartDoctypeDeclHandler = refuse
    size = 0
    try:
        for chunk in chunks:
            for at in range(0, len(chunk), MAX_CHUNK):
                piece = chunk[at : at + MAX_CHUNK]
                parser.Parse(piece, False)
                size += len(piece)
                if size - parser.CurrentByteIndex > MAX_TAG:
                    line = parser.CurrentLineNumber
                    raise refused("TOO_LONG", f"A tag of the XML has over {MAX_TAG >> 10} KiB.", line, file)
                yield
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise _malformed(error, file) from None
    except (LookupError, ValueError):
        raise refused("UNKNOWN_FORMAT", "The XML is in an encoding that nobody knows.", 1, file) from None
    yield


def elements(chunks: Iterable[bytes], file: str | None = None) -> Iterator[Element]:
    """The elements in order. Raises FileRefused as `fed`."""
    parser = expat.ParserCreate()
    handlers = _Handlers(parser, file)
    for _ in fed(parser, chunks, file):
        yield from handlers.found
        handlers.found.clear()


def _malformed(error: expat.ExpatError, file: str | None) -> FileRefused:
    return refused(
        "UNKNOWN_FORMAT", f"This is no well-formed XML: {expat.ErrorString(error.code)}.", error.lineno, file
    )


def _local(name: str) -> str:
    return name.rpartition(":")[2]
