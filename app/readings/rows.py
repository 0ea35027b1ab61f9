"""Parsing of bulk uploads: CSV with a header, or NDJSON. Every problem is reported with its line."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core import clock, json_decimals
from app.core.decimals import to_micro
from app.meters import numbers
from app.readings.actions import MAX_REFUSALS, NewReading, validation_error
from app.readings.enums import ReadingChannel, ReadingQuality

COLUMNS = ("meter_id", "meter_number", "start_at", "consumption", "quality", "channel")
MAX_ROWS = 100_000
MAX_NAMES_SHOWN, MAX_NAME_SHOWN = 5, 60


Key = tuple[str, str, ReadingChannel]
"""`id` or `number`, its text, and the channel."""


@dataclass(frozen=True)
class RowProblem:
    line: int
    code: str
    message: str


class UploadRefused(Exception):
    """An upload has problems; the first hundred are kept."""

    def __init__(self, problems: list[RowProblem]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems[:MAX_REFUSALS]


@dataclass
class Upload:
    """Readings by meter and channel, and the first line of each."""

    readings: dict[Key, dict[int, NewReading]]
    lines: dict[Key, int]
    count: int


def parse(content: bytes, media_type: str, now: datetime) -> Upload:
    """Parses all rows of an upload. Raises UploadRefused."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's offsets and bytes both exclude a byte order mark.
        line = error.object[: error.start].count(b"\n") + 1
        raise UploadRefused([RowProblem(line, "INVALID", "This line is not UTF-8.")]) from None
    rows = _csv(text) if media_type == "text/csv" else _ndjson(text)
    upload = Upload({}, {}, 0)
    problems: list[RowProblem] = []
    for line, row in rows:
        upload.count += 1
        if upload.count > MAX_ROWS:
            raise UploadRefused([RowProblem(line, "LIMIT_REACHED", f"Send at most {MAX_ROWS} rows at once.")])
        found = row if isinstance(row, RowProblem) else _add_row(upload, line, row, now)
        if found is not None:
            problems.append(found)
            if len(problems) == MAX_REFUSALS:
                break
    if problems:
        raise UploadRefused(problems)
    if not upload.count:
        raise UploadRefused([RowProblem(1, "REQUIRED", "Send at least one reading.")])
    return upload


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | RowProblem]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                yield (
                    reader.line_num,
                    RowProblem(
                        reader.line_num,
                        "INVALID",
                        f"This line has {len(cells)} cells, the header {len(header)}.",
                    ),
                )
                continue
            yield (
                reader.line_num,
                {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)},
            )
    except csv.Error as error:
        raise UploadRefused([RowProblem(reader.line_num, "INVALID", f"This is not CSV: {error}.")]) from None


def _check_header(header: list[str]) -> None:
    """Raises UploadRefused with everything that is wrong with the names."""
    times, faults = Counter(header), []
    if unknown := [name for name in times if name not in COLUMNS]:
        faults.append(f"there is no column {_quoted(unknown)}")
    if repeated := [name for name in COLUMNS if times[name] > 1]:
        faults.append(f"{_quoted(repeated)} is there twice")
    if not times["meter_id"] and not times["meter_number"]:
        faults.append("meter_id or meter_number is missing")
    faults += [f"{name} is missing" for name in ("start_at", "consumption") if not times[name]]
    if faults:
        sentence = (
            "The first line must name the columns meter_id or meter_number, start_at, consumption, and quality and "
            f"channel if you have them: {', '.join(faults)}."
        )
        raise UploadRefused([RowProblem(1, "INVALID", sentence)])


def _quoted(names: list[str]) -> str:
    """The first names, in quotes, each cut if it is long."""
    shown = [f'"{name[:MAX_NAME_SHOWN]}"' for name in names[:MAX_NAMES_SHOWN]]
    return ", ".join(shown) + (" …" if len(names) > MAX_NAMES_SHOWN else "")


def _ndjson(text: str) -> Iterator[tuple[int, dict[str, Any] | RowProblem]]:
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row = json_decimals.loads(line)
        except json_decimals.OutOfRange as error:
            yield number, RowProblem(number, "INVALID", f"This line {error}.")
            continue
        except ValueError:
            row = None
        if isinstance(row, dict) and row.keys() <= set(COLUMNS):
            yield number, row
            continue
        sentence = f"Each line must be a JSON object with the keys {', '.join(COLUMNS)}"
        if isinstance(row, dict):
            sentence += f": there is no key {_quoted([name for name in row if name not in COLUMNS])}"
        yield number, RowProblem(number, "INVALID", f"{sentence}.")


def _add_row(upload: Upload, line: int, row: dict[str, Any], now: datetime) -> RowProblem | None:
    identifier, number = row.get("meter_id"), row.get("meter_number")
    if (identifier is None) == (number is None):
        return RowProblem(line, "REQUIRED", "Give meter_id or meter_number, one of them.")
    if not isinstance(number if identifier is None else identifier, str):
        return RowProblem(line, "INVALID", "meter_id and meter_number are strings.")
    if row.get("start_at") is None or row.get("consumption") is None:
        return RowProblem(line, "REQUIRED", "Give start_at and consumption.")
    column = "start_at"
    try:
        start = clock.parse_utc(row["start_at"]) if isinstance(row["start_at"], str) else None
        if start is None:
            raise ValueError("Write a string such as 2026-11-24T22:00:00Z.")
        column = "consumption"
        micro_kwh = to_micro(row["consumption"])
        if number is not None:
            number = numbers.parse(number).core
    except numbers.InvalidMeterNumber as error:
        return RowProblem(line, "INVALID_METER_NUMBER", f"meter_number: {error}")
    except ValueError as error:
        return RowProblem(line, "INVALID", f"{column}: {error}")
    quality = row.get("quality")
    if quality is None:
        quality = ReadingQuality.ACTUAL.name
    if not isinstance(quality, str) or quality not in ReadingQuality.__members__:
        return RowProblem(line, "INVALID", "quality must be ACTUAL or ESTIMATED.")
    channel = row.get("channel")
    if channel is None:
        channel = ReadingChannel.IMPORT.name
    if not isinstance(channel, str) or channel not in ReadingChannel.__members__:
        return RowProblem(line, "INVALID", "channel must be IMPORT, EXPORT or GENERATION.")
    found = validation_error(start, micro_kwh, now)
    if found is not None:
        name, code, sentence = found
        return RowProblem(line, code.value, f"{'start_at' if name == 'startAt' else name} {sentence}.")
    kind, text = ("id", identifier) if identifier is not None else ("number", str(number))
    key = kind, text, ReadingChannel[channel]
    of_meter = upload.readings.setdefault(key, {})
    upload.lines.setdefault(key, line)
    start_ms = clock.to_ms(start)
    if start_ms in of_meter:
        return RowProblem(line, "INVALID", "This half-hour of this meter is given twice.")
    of_meter[start_ms] = NewReading(start_ms, micro_kwh, quality == ReadingQuality.ESTIMATED.name)
    return None
