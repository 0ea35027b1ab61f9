"""Problems of an import: each with its line and a sentence; the first hundred are kept."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from app.imports.models import FileImport

MOST_KEPT: Final = 100


class ImportProblem(NamedTuple):
    """`line` counts from 1, and 0 stands for the file as a whole; `file` is that of an archive."""

    code: str
    message: str
    line: int = 0
    column: int | None = None
    file: str | None = None


def add_problems(row: FileImport, problems: Iterable[ImportProblem]) -> None:
    """Counts problems of an import, and keeps them in the file's order as long as there is room."""
    new = [one._asdict() for one in problems]
    if not new:
        return
    row.problem_count += len(new)
    room = MOST_KEPT - len(row.problems)
    if room > 0:
        row.problems = sorted([*row.problems, *new[:room]], key=_place)


def _place(problem: dict[str, Any]) -> tuple[str, int, int]:
    return problem["file"] or "", problem["line"], problem["column"] or 0
