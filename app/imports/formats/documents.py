"""Tells what comes with readings in an archive, such as a readme or a picture, from files of readings."""

import re
import zlib
from itertools import islice
from typing import Final

from app.imports.formats.containers import Member
from app.imports.formats.interface import FileRefused
from app.imports.formats.tables import SAMPLE, Table
from app.imports.formats.text import lines

_ENDINGS: Final = frozenset(
    ("pdf", "doc", "docx", "odt", "rtf", "md", "rst", "htm", "html", "css", "js", "eml", "msg", "ppt", "pptx", "png",
     "jpg", "jpeg", "gif", "svg", "bmp", "webp", "ico", "ini", "db", "url", "lnk", "sig", "asc", "sha256", "md5")
)  # fmt: skip
_ENTRY: Final = re.compile(r"[\s\"'=]*[+-]?[0-9][0-9.,:/TZ +-]*[\s\"']*")
_ENTRIES: Final = 2


def is_document(name: str) -> bool:
    """Whether a file with this name has no readings, whatever is in it."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() in _ENDINGS if "." in base else False


def may_have_readings(member: Member) -> bool:
    """Whether one of the first lines has numbers or dates in some of its cells; true of all that is no text."""
    try:
        table = Table(lines(islice(member.chunks(), 1), member.name), member.name)
        rows = list(islice(table, SAMPLE))
    except (FileRefused, OSError, zlib.error):
        return True
    return any(
        sum(_ENTRY.fullmatch(cell[:60]) is not None for cell in cells) >= _ENTRIES for _, cells in rows
    ) or any(cells[0].lstrip().startswith("<") for _, cells in rows[:1])
