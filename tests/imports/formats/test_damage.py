"""Damaged files of every profile end in readings, problems or a refusal, and in nothing else."""

import gzip
import random
from datetime import date

import pytest

from app.imports.formats.interface import FileRefused
from tests.imports.formats.reading import Taken
from tests.imports.formats.rendering import BY_DAY, BY_ROW, by_day, year
from tests.imports.formats.workbooks import workbook, zipped

PIECES = (
    b'"',
    b";",
    b"\0",
    b"\r",
    b"9" * 30,
    b"-",
    b"E",
    b"<",
    b"&",
    b"|",
    b"\xff",
    b"1e9",
    b"kVArh",
    b"300",
    b"<entry>",
)


def whole_files() -> list[bytes]:
    halves = year(1, date(2024, 10, 26), 3)
    files = [render(by_day(halves, zone)).encode() for render, zone, _, _ in BY_DAY.values()]
    files += [render(halves).encode() for render, _ in BY_ROW.values()]
    sheet = workbook({"a": [list(line.split(",")) for line in files[0].decode().splitlines()]})
    return [*files, sheet, zipped({"a.csv": files[0], "b.csv": files[3]}), gzip.compress(files[2])]


def damaged(content: bytes, chosen: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chosen.choice((1, 1, 2, 5, 20))):
        at = chosen.randrange(min(len(found), chosen.choice((900, 1 << 30))) + 1)
        way = chosen.randrange(4)
        if way == 0:
            found[at : at + chosen.randrange(3)] = chosen.choice(PIECES)
        elif way == 1:
            del found[at : at + chosen.randrange(1, 40)]
        elif way == 2:
            found[at:at] = found[max(0, at - 200) : at]
        else:
            found[at : at + 1] = bytes((chosen.randrange(256),))
    return bytes(found)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(seed: int) -> None:
    chosen = random.Random(seed)
    files = whole_files()
    for _ in range(150):
        content, zone = damaged(chosen.choice(files), chosen), chosen.choice((None, "utc", "london"))
        for sentence in sentences(content, zone):
            assert sentence.endswith((".", ")"))
            assert len(sentence) < 1_500


def sentences(content: bytes, zone: str | None) -> list[str]:
    """The sentences about all that is wrong."""
    try:
        return [one.message for one in Taken(content, timezone=zone).problems]
    except FileRefused as error:
        return [error.problem.message]
