"""Lines of a text file in any usual encoding, in constant memory."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Final

from app.imports.formats.interface import refused

MAX_LINE: Final = 256 * 1024
"""Characters of a line; the longest known, five-minute values of NEM12, have 6,000."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_FALLBACK: Final = "voltwire-cp1252"


def lines(chunks: Iterable[bytes], name: str | None = None) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, which may be those of Windows, Unix or old Macs, mixed as well.

    Bytes that are not UTF-8 are read as Windows-1252. NULs are dropped. Raises FileRefused at a line that is too long.
    """
    decoder: codecs.IncrementalDecoder | None = None
    number, pending = 0, ""
    for chunk in chunks:
        if decoder is None:
            encoding, mark = _encoding(chunk)
            decoder = codecs.getincrementaldecoder(encoding)(_FALLBACK if encoding == "utf-8" else "replace")
            chunk = chunk[mark:]
        text = pending + decoder.decode(chunk)
        if "\0" in text:
            text = text.replace("\0", "")
        # The second half of a line's end may be in the next chunk.
        held = text.endswith("\r")
        if held:
            text = text[:-1]
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        found = text.split("\n")
        pending = found.pop()
        for line in found:
            number += 1
            if len(line) > MAX_LINE:
                raise _too_long(number, name)
            yield number, line
        if len(pending) > MAX_LINE:
            raise _too_long(number + 1, name)
        if held:
            pending += "\r"
    rest = pending + (decoder.decode(b"", final=True) if decoder is not None else "")
    for line in rest.replace("\0", "").replace("\r", "\n").split("\n"):
        number += 1
        if line:
            yield number, line


def _encoding(start: bytes) -> tuple[str, int]:
    """The encoding, and the bytes of its mark."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    sample = start[:400]
    # Digits and commas in UTF-16 without a mark: each second byte is NUL.
    if len(sample) >= 4 and sample[1::2].count(0) * 2 > len(sample[1::2]) and not sample[::2].count(0):
        return "utf-16-le", 0
    if len(sample) >= 4 and sample[::2].count(0) * 2 > len(sample[::2]) and not sample[1::2].count(0):
        return "utf-16-be", 0
    return "utf-8", 0


def _too_long(line: int, name: str | None) -> Exception:
    return refused("TOO_LONG", f"A line has at most {MAX_LINE:,} characters.", line, name)


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_FALLBACK, _as_cp1252)
