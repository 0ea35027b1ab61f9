"""Bulk uploads row by row: this accepts every form of a row, and finds every fault with its line."""

import csv
import io
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from app.core import clock, json_decimals
from app.core.decimals import to_micro
from app.meters import numbers
from app.readings.actions import MAX_REFUSALS, validation_error
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, days_of
from app.readings.enums import ReadingChannel, ReadingQuality
from app.readings.packing import pack

COLUMNS: Final = ("meter_id", "meter_number", "start_at", "consumption", "quality", "channel")
MAX_ROWS: Final = 100_000
MAX_NAMES_SHOWN, MAX_NAME_SHOWN = 5, 60

ROWS_AT_ONCE, DAYS_AT_ONCE = 100, 200
"""Rows that are parsed, and days that are packed, in about a millisecond: other requests get their turn then."""


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
    """The packed days of each meter's channel, and the first line of each."""

    days: dict[Key, dict[int, bytes]]
    lines: dict[Key, int]
    count: int


@dataclass
class Collected:
    """Half-hours of each meter's channel as they are read, the first line of each, and how many rows there are."""

    columns: dict[Key, Columns] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    count: int = 0

    def add(self, key: Key, line: int, new: Columns) -> None:
        known = self.columns.get(key)
        if known is None:
            self.columns[key] = new
            self.lines[key] = line
        else:
            known.extend(new)

    def upload(self) -> Generator[None, None, Upload]:
        """The upload with its days packed. Raises ValueError if a half-hour is given twice."""
        days: dict[Key, dict[int, bytes]] = {}
        for key, columns in self.columns.items():
            of_meter = days[key] = {}
            for day, half_hours in days_of(*columns):
                of_meter[day] = pack(half_hours)
                if not len(of_meter) % DAYS_AT_ONCE:
                    yield
        return Upload(days, self.lines, self.count)


def parse_rows(content: bytes, media_type: str, now: datetime) -> Generator[None, None, Upload]:
    """Parses all rows of an upload, with pauses for other work. Raises UploadRefused."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's offsets and bytes both exclude a byte order mark.
        line = error.object[: error.start].count(b"\n") + 1
        raise UploadRefused([RowProblem(line, "INVALID", "This line is not UTF-8.")]) from None
    rows = _csv(text) if media_type == "text/csv" else _ndjson(text)
    collected = Collected()
    starts: dict[Key, set[int]] = {}
    problems: list[RowProblem] = []
    for line, row in rows:
        collected.count += 1
        if collected.count > MAX_ROWS:
            raise UploadRefused([RowProblem(line, "LIMIT_REACHED", f"Send at most {MAX_ROWS} rows at once.")])
        found = row if isinstance(row, RowProblem) else _add_row(collected, starts, line, row, now)
        if found is not None:
            problems.append(found)
            if len(problems) == MAX_REFUSALS:
                break
        if not collected.count % ROWS_AT_ONCE:
            yield
    if problems:
        raise UploadRefused(problems)
    if not collected.count:
        raise UploadRefused([RowProblem(1, "REQUIRED", "Send at least one reading.")])
    return (yield from collected.upload())


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | RowProblem]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = read_header(reader)
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


def read_header(reader: Iterator[list[str]]) -> list[str]:
    """The names in the first line. Raises UploadRefused with everything that is wrong with them."""
    header = [name.strip() for name in next(reader, [])]
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
    return header


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


def _add_row(
    collected: Collected, starts: dict[Key, set[int]], line: int, row: dict[str, Any], now: datetime
) -> RowProblem | None:
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
    half_hour = clock.to_ms(start) // HALF_HOUR_MS
    of_meter = starts.setdefault(key, set())
    if half_hour in of_meter:
        return RowProblem(line, "INVALID", "This half-hour of this meter is given twice.")
    of_meter.add(half_hour)
    collected.add(key, line, Columns([half_hour], [micro_kwh], [quality == ReadingQuality.ESTIMATED.name]))
    return None
