"""Cells of the lines of a delimited file: its separator and quotes are found from its beginning."""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from app.imports.formats.interface import refused
from app.imports.formats.text import MAX_LINE

Row = tuple[int, list[str]]
"""A line's number, and its cells."""

SAMPLE: Final = 30
"""Lines from which the separator is found; at most ten stand before the header."""
MAX_CELLS: Final = 2_000
LINES_OF_STEP: Final = 32
"""Lines after which a source gives way, even if they have given nothing yet."""
MAX_LINES_OF_A_CELL: Final = 5

_SEPARATORS: Final = (",", ";", "\t", "|")
_NAMED: Final = re.compile(r"\s*\"?sep=(.)\"?\s*[,;\t|]*", re.IGNORECASE)


class MalformedLine(list[str]):
    """The cells of a line whose quotes do not fit; they are to be refused with the sentence in `fault`."""

    fault = 'The quotes of this line do not fit: write " around a whole cell, and "" for a quote inside it.'


class Table:
    """The rows of a delimited text, blank lines left out."""

    def __init__(self, lines: Iterable[tuple[int, str]], name: str | None = None) -> None:
        rest = iter(lines)
        sample = list(islice((one for one in rest if one[1].strip()), SAMPLE))
        named = _NAMED.fullmatch(sample[0][1]) if sample else None
        if named is not None:
            del sample[0]
        self.separator = named[1] if named is not None else _separator([line for _, line in sample])
        self.first_line = sample[0][1] if sample else ""
        self._name = name
        self._lines = chain(sample, rest)
        self._back: deque[tuple[int, str]] = deque()
        self._width = self._count = 0

    def __iter__(self) -> Iterator[Row]:
        separator = self.separator
        for number, line in self._upcoming():
            cells = self._quoted(number, line) if '"' in line else line.split(separator)
            width = len(cells)
            if width > MAX_CELLS:
                raise refused("TOO_LONG", f"A line has at most {MAX_CELLS:,} cells.", number, self._name)
            if cells[0].strip() or any(map(str.strip, cells)):
                self._width = width
                self._count += 1
                yield number, cells

    def _quoted(self, number: int, line: str) -> list[str]:
        """The cells of a line with quotes; a quoted cell may go on in the next lines."""
        cells = self._parsed(line)
        if cells is not None:
            return cells
        whole, following = line, list[tuple[int, str]]()
        while len(following) < MAX_LINES_OF_A_CELL:
            taken = self._back.popleft() if self._back else next(self._lines, None)
            if taken is None:
                break
            following.append(taken)
            whole += "\n" + following[-1][1]
            cells = self._parsed(whole) if len(whole) <= MAX_LINE else None
            if cells is not None and self._is_likely(len(cells)):
                return cells
        self._back.extendleft(reversed(following))
        return MalformedLine(line.split(self.separator))

    def _is_likely(self, width: int) -> bool:
        """A stray quote may find another one further down: only a row like the one before counts, or a header."""
        return width == self._width or (width > self._width and self._count < SAMPLE)

    def _parsed(self, line: str) -> list[str] | None:
        if line.count('"') % 2:
            return None
        try:
            [cells] = csv.reader([line], delimiter=self.separator, strict=True, skipinitialspace=True)
        except (csv.Error, ValueError):
            return None
        return cells

    def _upcoming(self) -> Iterator[tuple[int, str]]:
        """The lines, and those that were put back."""
        for line in self._lines:
            yield line
            while self._back:
                yield self._back.popleft()


def _separator(lines: list[str]) -> str:
    """The separator that gives the widest line; a comma if there is none."""
    return max(_SEPARATORS, key=lambda one: max((line.count(one) for line in lines), default=0))
