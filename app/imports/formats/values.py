"""Values as files write them: cells to millionths of the file's unit, exactly."""

import re
from decimal import Decimal
from typing import Final

from app.core.decimals import INTEGER_DIGITS, MICRO

BLANK: Final = -1
ODD: Final = -2
"""Stands for a cell that is no plain decimal; `read_odd` tells what it is."""

MAX_KNOWN: Final = 1 << 16

_PLAIN: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{0,6}))?|\.([0-9]{1,6})")
_BLANKS: Final = frozenset(("", "-", "null", "none", "n/a", "na", "nan", "#n/a"))
_ODD: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_THOUSANDS: Final = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_MAX_TEXT: Final = 60


class Amounts(dict[str, int]):
    """Cells already read, with their millionths, `BLANK` or `ODD`.

    Readings repeat: a lookup is several times faster than parsing. Only the first values are kept, so that a file
    whose values never repeat cannot fill the memory.
    """

    def __missing__(self, cell: str) -> int:
        amount = _read(cell)
        if len(self) < MAX_KNOWN and len(cell) < _MAX_TEXT:
            self[cell] = amount
        return amount


def read_odd(cell: str, decimal_comma: bool = False) -> int:
    """Millionths of a value as spreadsheets write it, rounded to even: `0.48200000000000004`, `0E-20`, `1,234.5`.

    With `decimal_comma`, `0,482` is one too. Negative values are read as such. Raises ValueError with a sentence.
    """
    text = cell.strip().removeprefix("'")
    if text.startswith(("=", "@")):
        raise ValueError("is a formula: export the values instead")
    if decimal_comma and "," in text:
        text = text.replace(".", "").replace(",", ".")
    elif _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if len(text) > _MAX_TEXT or _ODD.fullmatch(text) is None:
        raise ValueError(f"is no number: {_shown(cell)}")
    value = Decimal(text)
    if value and value.adjusted() >= INTEGER_DIGITS:
        raise ValueError(f"has more than {INTEGER_DIGITS} digits before the point: {_shown(cell)}")
    return round(value * MICRO) if value.adjusted() > -30 else 0


def _read(cell: str) -> int:
    text = cell.strip()
    found = _PLAIN.fullmatch(text)
    if found is None:
        return BLANK if text.lower() in _BLANKS else ODD
    whole, fraction, bare = found.groups()
    if bare is not None:
        return int(bare.ljust(6, "0"))
    return int(whole) * MICRO + int(fraction.ljust(6, "0")) if fraction else int(whole) * MICRO


def _shown(cell: str) -> str:
    return f'"{cell.strip()[:40]}"'
