"""Problems of an import: each with its line and a sentence; the first hundred are kept."""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from app.events.catalogue import REDACTED
from app.imports.models import FileImport

MOST_KEPT: Final = 100
HIDES_NUMBERS: Final = "hidesNumbers"
"""Set among an import's options when a customer is deleted while it runs: its file may name the customer's meters."""

_NUMBERS: Final = re.compile(r"(?<=serial number )\S+|\d(?: ?\d){5,}")


class ImportProblem(NamedTuple):
    """`line` counts from 1, and 0 stands for the file as a whole; `file` is that of an archive."""

    code: str
    message: str
    line: int = 0
    column: int | None = None
    file: str | None = None


def add_problems(row: FileImport, problems: Iterable[ImportProblem]) -> None:
    """Counts problems of an import, and keeps them in the file's order as long as there is room."""
    new = [
        {
            **one._asdict(),
            "message": presentable(row, one.message),
            "file": None if one.file is None else printable(one.file),
        }
        for one in problems
    ]
    if not new:
        return
    row.problem_count += len(new)
    room = MOST_KEPT - len(row.problems)
    if room > 0:
        row.problems = sorted([*row.problems, *new[:room]], key=_place)


def presentable(row: FileImport, sentence: str) -> str:
    """A sentence about an import as printable text, without numbers of meters if it has to hide them."""
    shown = printable(sentence)
    return hide_numbers(shown) if row.options.get(HIDES_NUMBERS) else shown


def printable(text: str) -> str:
    """The text of a file fit for a terminal: white space is a space, and what could command a terminal is a `?`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)


def hide_numbers(sentence: str) -> str:
    """Replaces all that may be a meter's number."""
    return _NUMBERS.sub(REDACTED, sentence)


def _place(problem: dict[str, Any]) -> tuple[str, int, int]:
    return problem["file"] or "", problem["line"], problem["column"] or 0
