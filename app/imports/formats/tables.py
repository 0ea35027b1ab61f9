"""Cells of the lines of a delimited file: its separator and quotes are found from its beginning."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from app.imports.formats.interface import refused

Row = tuple[int, list[str]]
"""A line's number, and its cells."""

SAMPLE: Final = 30
"""Lines from which the separator is found; at most ten stand before the header."""
MAX_CELLS: Final = 2_000
MAX_LINES_OF_A_CELL: Final = 20

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

    def __iter__(self) -> Iterator[Row]:
        separator = self.separator
        for number, line in self._lines:
            if '"' in line:
                cells = self._quoted(number, line)
            else:
                cells = line.split(separator)
            if len(cells) > MAX_CELLS:
                raise refused("TOO_LONG", f"A line has at most {MAX_CELLS:,} cells.", number, self._name)
            if len(cells) > 1 or cells[0].strip():
                if len(cells) > 1 and not any(map(str.strip, cells)):
                    continue
                yield number, cells

    def _quoted(self, number: int, line: str) -> list[str]:
        for _ in range(MAX_LINES_OF_A_CELL):
            if line.count('"') % 2 == 0:
                break
            # A quoted cell goes on in the next line.
            following = next(self._lines, None)
            if following is None:
                return MalformedLine(line.split(self.separator))
            line += "\n" + following[1]
        else:
            return MalformedLine(line[:200].split(self.separator))
        try:
            [cells] = csv.reader(
                line.split("\n") if "\n" not in line else [line],
                delimiter=self.separator,
                strict=True,
                skipinitialspace=True,
            )
        except (csv.Error, ValueError):
            return MalformedLine(line.split(self.separator))
        return cells


def _separator(lines: list[str]) -> str:
    """The separator that gives the widest line; a comma if there is none."""
    return max(_SEPARATORS, key=lambda one: max((line.count(one) for line in lines), default=0))
