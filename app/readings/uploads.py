"""Bulk uploads: CSV with a header, or NDJSON.

The rows of an upload are converted together, column by column. An upload with anything unusual in it is parsed again
row by row, which takes several times as long and has the same result: rows that are unusual are accepted as well, and
every fault is found with its line.
"""

import csv
import io
import json
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from itertools import compress, islice, pairwise
from operator import itemgetter, ne
from typing import Any, Final, NoReturn

from app.core import clock
from app.meters import numbers
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, StartTexts, are_estimated, micro_amounts
from app.readings.enums import ReadingChannel
from app.readings.rows import (
    COLUMNS,
    MAX_ROWS,
    Collected,
    Key,
    Upload,
    UploadRefused,
    parse_rows,
    read_header,
)

ROWS_AT_ONCE, CHARACTERS_AT_ONCE = 250, 16_384
"""Rows, or characters of rows, that are converted together, in a third of a millisecond."""

_KEY_COLUMNS: Final = ("meter_id", "meter_number", "channel")

Texts = dict[str, Sequence[Any]]
"""The columns of some rows by their names, None where a cell is empty."""


class Unusual(Exception):
    """Something in the upload is not of the usual form."""


UNUSUAL: Final = (Unusual, UploadRefused, ValueError, KeyError, RecursionError, csv.Error)


class _Number(str):
    """The digits of a number with a point or an exponent in JSON."""


def parse(content: bytes, media_type: str, now: datetime) -> Generator[None, None, Upload]:
    """Parses an upload, with pauses for other work. Raises UploadRefused."""
    try:
        return (yield from parse_columns(content, media_type, now))
    except UNUSUAL:
        # A part of the upload is converted by now, so that it is begun anew.
        pass
    return (yield from parse_rows(content, media_type, now))


def parse_columns(content: bytes, media_type: str, now: datetime) -> Generator[None, None, Upload]:
    """Parses an upload of usual rows alone; an unusual one raises any of UNUSUAL."""
    collected = Collected()
    starts = StartTexts()
    keys: dict[tuple[Any, ...], Key] = {}
    now_ms = clock.to_ms(now)
    is_csv = media_type == "text/csv"
    for line, texts in _csv(content) if is_csv else _ndjson(content):
        half_hours = starts.half_hours(texts["start_at"])
        if max(half_hours) * HALF_HOUR_MS >= now_ms:
            raise Unusual
        count = len(half_hours)
        estimated = [False] * count
        if "quality" in texts:
            estimated = are_estimated(texts["quality"], "" if is_csv else None)
        columns = Columns(half_hours, micro_amounts(texts["consumption"]), estimated)
        names = [name for name in _KEY_COLUMNS if name in texts]
        given = [texts[name] for name in names]
        for first, end in _runs(given, count):
            cells = tuple([column[first] for column in given])
            # All rows of an upload have the same columns.
            key = keys.get(cells)
            if key is None:
                key = keys[cells] = _key(is_csv, **dict(zip(names, cells, strict=True)))
            collected.add(key, line + first, columns.part(first, end))
        collected.count += count
        if collected.count > MAX_ROWS:
            raise Unusual
        yield
    if not collected.count:
        raise Unusual
    return (yield from collected.upload())


def _csv(content: bytes) -> Iterator[tuple[int, Texts]]:
    """Columns of some rows each, with the line of the first one."""
    source = _lines(content, newline="")
    reader = csv.reader(source, strict=True)
    header = read_header(reader)
    return _quoted_csv(reader, header) if b'"' in content else _unquoted_csv(source, header)


def _quoted_csv(reader: Any, header: list[str]) -> Iterator[tuple[int, Texts]]:
    line = reader.line_num + 1
    while rows := list(islice(reader, ROWS_AT_ONCE)):
        if reader.line_num - line + 1 != len(rows):
            # A cell has several lines.
            raise Unusual
        if some := _without_last([], rows):
            yield line, dict(zip(header, zip(*some, strict=True), strict=True))
        line += len(rows)


def _unquoted_csv(source: io.TextIOWrapper, header: list[str]) -> Iterator[tuple[int, Texts]]:
    """Splits many lines at once, in a third of the time of a reader of CSV."""
    line, width = 2, len(header) + 1
    while text := source.read(CHARACTERS_AT_ONCE):
        text = (text + source.readline()).replace("\r\n", "\n")
        # A line may also end with a return alone.
        if "\r" in text or len(text) > csv.field_size_limit():
            raise Unusual
        rows = text.rstrip("\n")
        if rows:
            # Each line's end becomes a cell of its own. If all have the same place, all lines have as many cells.
            cells = rows.replace("\n", ",\n,").split(",")
            ends = rows.count("\n")
            if len(cells) != (ends + 1) * width - 1 or cells[width - 1 :: width].count("\n") != ends:
                raise Unusual
            yield line, {name: cells[at::width] for at, name in enumerate(header)}
        line += text.count("\n")


def _ndjson(content: bytes) -> Iterator[tuple[int, Texts]]:
    """Columns of some lines each, with the number of the first one."""
    source = _lines(content, newline="\n")
    line = 1
    names: set[str] = set()
    while lines := list(islice(source, ROWS_AT_ONCE)):
        if some := _without_last("\n", lines):
            rows = _objects(some)
            names = names or set(rows[0])
            if not names <= set(COLUMNS) or set(map(len, rows)) != {len(names)}:
                raise Unusual
            yield line, {name: _values(name, list(map(itemgetter(name), rows))) for name in names}
        line += len(lines)


def _objects(lines: list[str]) -> list[dict[str, Any]]:
    """The objects of these lines, one of each, if no value in them is an object or an array."""
    rows: list[Any] = _DECODER.decode(f"[{','.join(lines)}]")
    # Each line begins an object, and none ends inside one. So where they are as many, none has two.
    if {line[0] for line in lines} != {"{"} or len(rows) != len(lines) or set(map(type, rows)) != {dict}:
        raise Unusual
    return rows


def _values(name: str, column: list[Any]) -> Sequence[Any]:
    kinds = set(map(type, column))
    if name == "consumption" and kinds <= {str, int, _Number}:
        return list(map(str, column)) if int in kinds else column
    if not kinds <= ({str} if name == "start_at" else {str, type(None)}):
        raise Unusual
    return column


def _lines(content: bytes, newline: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=newline)


def _without_last(blank: Any, rows: list[Any]) -> list[Any]:
    """The rows without blank ones at their end."""
    end = len(rows)
    while end and rows[end - 1] == blank:
        end -= 1
    return rows[:end]


def _runs(columns: Sequence[Sequence[Any]], count: int) -> Iterator[tuple[int, int]]:
    """Where runs of rows that are equal in these columns begin and end."""
    bounds = {0, count}
    for column in columns:
        bounds.update(compress(range(1, count), map(ne, column, islice(column, 1, None))))
    return pairwise(sorted(bounds))


def _key(
    is_csv: bool, meter_id: str | None = None, meter_number: str | None = None, channel: str | None = None
) -> Key:
    if is_csv:
        meter_id, meter_number, channel = (
            (cell or "").strip() or None for cell in (meter_id, meter_number, channel)
        )
    found = ReadingChannel.IMPORT if channel is None else ReadingChannel[channel]
    if meter_id is not None and meter_number is None:
        return "id", meter_id, found
    if meter_number is None or meter_id is not None:
        raise Unusual
    return "number", numbers.parse(meter_number).core, found


def _no_constant(_: str) -> NoReturn:
    raise Unusual


_DECODER: Final = json.JSONDecoder(parse_float=_Number, parse_constant=_no_constant)
