"""Reads tables with a row per half-hour of a meter."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import CellReader, Kind
from app.imports.formats.dates import MAX_KNOWN, DateReader, Stamp, time_of_day
from app.imports.formats.doubled_hour import DoubledHours, LongDays, Resolved
from app.imports.formats.interface import MAX_METERS, Options, Zone
from app.imports.formats.tables import MalformedLine
from app.imports.formats.uk_days import UkDays, clock_change
from app.imports.formats.values import BLANK
from app.imports.profiles.columns import RowColumns
from app.imports.profiles.layouts import Rows
from app.meters.sentinels import LOWEST_SENTINEL
from app.readings.packing import ALL, SLOTS

MAX_OPEN: Final = 20_000
"""Days that wait for more of their half-hours; files may be sorted by time, with all meters in turn."""

_Time = tuple[int | None, str | None, str, int]
"""The half-hour, or the code and sentence of the problem and its column."""


@dataclass(slots=True)
class _Part:
    """The half-hours of a stream's current day. `last` is the one that came last."""

    day: int
    present: int
    estimated: int
    amounts: list[int]
    lines: list[int]
    last: int


class RowTable:
    """Takes one row after the other."""

    def __init__(
        self,
        assembly: Assembly,
        options: Options,
        layout: Rows,
        columns: RowColumns,
        zone: Zone | None,
        decimal_comma: bool = False,
    ) -> None:
        self._assembly = assembly
        self._cells = CellReader(assembly, options, layout, columns, decimal_comma)
        self._dates = DateReader(layout.dates)
        self._columns = columns
        self._zone = zone
        self._layout = layout
        self._uk = UkDays()
        self._known: dict[str | tuple[str, str], int] = {}
        self._parts: dict[int, _Part] = {}
        self._doubled = DoubledHours(self._uk)
        self._long = LongDays(self._uk)
        self._values = tuple(
            (channel.code if channel is not None else None, ats) for channel, ats in columns.values
        )
        self._date = columns.date or 0
        self._second = (columns.time if columns.period is None else columns.period) or 0
        self._column = columns.values[0][1][0] + 1
        self._stamp_at = columns.stamp
        self._row_flag = columns.row_flag
        self._width = columns.width
        self._fills = layout.zero_by_absence
        # Most files have one column of kWh, in which nearly all cells are plain decimals.
        [(_, ats), *others] = self._values
        self._value = ats[0] if not others and len(ats) == 1 and self._cells.is_plain else None
        channel = self._values[0][0]
        self._channel = self._cells.channel if channel is None else channel
        self._meter = columns.meter
        self._streams: dict[str, int] = {}
        self._counts, self._end = assembly.counts, assembly.end
        self._amounts, self._flags = self._cells.amounts, self._cells.flags
        self._waiting = self._long.waiting
        assembly.holds = False

    def add(self, line: int, cells: list[str]) -> None:
        """Adds a row: readings or problems appear in the assembly."""
        self._counts.rows += 1
        if len(cells) != self._width or isinstance(cells, MalformedLine):
            fitted = self._fitted(line, cells)
            if fitted is None:
                return
            cells = fitted
        value = self._value
        if value is None:
            self._add(line, cells)
            return
        # A meter and a time that were seen before, and a plain value.
        at, flag = self._stamp_at, self._row_flag
        half_hour = self._known.get(cells[at] if at is not None else (cells[self._date], cells[self._second]))
        stream = self._streams.get("" if self._meter is None else cells[self._meter])
        amount = self._amounts[cells[value]]
        if (
            half_hour is None
            or stream is None
            or not 0 <= amount < LOWEST_SENTINEL
            or half_hour >= self._end
            or stream in self._waiting
        ):
            self._add(line, cells)
        else:
            estimated = flag is not None and self._flags[cells[flag]]
            self._put(stream, half_hour, amount, estimated, line)

    def _add(self, line: int, cells: list[str]) -> None:
        columns, reader = self._columns, self._cells
        kind = reader.kind(line, cells)
        if kind is None:
            return
        meter = reader.meter(line, cells)
        if columns.stamp is not None:
            half_hour = self._known.get(cells[columns.stamp])
        else:
            half_hour = self._known.get((cells[self._date], cells[self._second]))
        stamp: Stamp | None = None
        if half_hour is None:
            read = self._instant(line, cells)
            if read is None:
                return
            half_hour, stamp = read
        if meter < 0:
            return
        if len(self._streams) < MAX_METERS:
            name = "" if self._meter is None else cells[self._meter]
            self._streams[name] = meter << 2 | self._channel
        for channel, ats in self._values:
            amount = self._sum(line, cells, ats, kind)
            if amount is None:
                continue
            estimated = kind.is_estimated or (
                columns.row_flag is not None and reader.flags[cells[columns.row_flag]]
            )
            stream = meter << 2 | (kind.channel if channel is None else channel)
            if stream in self._waiting and stamp is None:
                self._take(self._long.resolve(stream))
            if stamp is not None and columns.period is not None:
                reading = Resolved(stream, half_hour, amount, estimated, line, None)
                self._take(self._long.add(stream, stamp.label // SLOTS, reading))
            elif stamp is not None:
                last = self._parts[stream].last if stream in self._parts else None
                self._doubled.add(stream, stamp.label, amount, estimated, line, last)
            elif self._assembly.begins_in_time(line, half_hour, 1, (columns.stamp or columns.date or 0) + 1):
                self._put(stream, half_hour, amount, estimated, line)

    def finish(self) -> None:
        """Ends the days that are open, and decides about the hour that comes twice in October."""
        for stream in self._long.streams():
            self._take(self._long.resolve(stream))
        for stream in list(self._parts):
            self._end_day(stream, self._parts[stream])
        last = {stream: part.last for stream, part in self._parts.items()}
        self._take(self._doubled.resolve(last, 1 if self._columns.ends else 0))
        for stream, part in self._parts.items():
            self._end_day(stream, part)
        self._parts = {}

    def _take(self, resolved: Iterable[Resolved]) -> None:
        for found in resolved:
            if found.problem is not None:
                self._assembly.refuse(found.line, "CLOCK_CHANGE", found.problem, self._stamp_column())
            elif self._assembly.begins_in_time(found.line, found.half_hour, 1, self._stamp_column()):
                self._put(found.stream, found.half_hour, found.amount, found.estimated, found.line)

    def _put(self, stream: int, half_hour: int, amount: int, estimated: bool, line: int) -> None:
        day, slot = divmod(half_hour, SLOTS)
        part = self._parts.get(stream)
        if part is None:
            part = self._opened(stream, day)
        elif part.day != day:
            self._end_day(stream, part)
            part.day = day
        if self._fills and part.last >= 0 and abs(half_hour - part.last) > 1:
            self._fill(stream, part, half_hour, line)
        bit = 1 << slot
        part.last = half_hour
        if part.present & bit:
            self._assembly.refuse(
                line,
                "DUPLICATE",
                f"This half-hour is given twice for this meter: the one in line {part.lines[slot]} counts.",
                self._stamp_column(),
            )
            return
        part.present |= bit
        part.amounts[slot] = amount
        part.lines[slot] = line
        if estimated:
            part.estimated |= bit
        if part.present == ALL:
            self._end_day(stream, part)

    def _opened(self, stream: int, day: int) -> _Part:
        if len(self._parts) >= MAX_OPEN:
            oldest = next(iter(self._parts))
            self._end_day(oldest, self._parts.pop(oldest))
        part = self._parts[stream] = _Part(day, 0, 0, [0] * SLOTS, [0] * SLOTS, -1)
        return part

    def _end_day(self, stream: int, part: _Part) -> None:
        """Hands over the day and empties the part."""
        if not part.present:
            return
        first = part.day * SLOTS
        present = self._assembly.hold_suspects(
            stream, part.amounts, first, part.present, part.estimated, part.lines, self._column
        )
        if present:
            line = min(one for one in part.lines if one)
            self._assembly.emit(stream, part.day, present, part.estimated & present, part.amounts, line)
        part.present = part.estimated = 0
        part.amounts, part.lines = [0] * SLOTS, [0] * SLOTS

    def _fill(self, stream: int, part: _Part, half_hour: int, line: int) -> None:
        """Puts zeros between two readings of the same or of neighbouring days: the file leaves them out."""
        low, high = sorted((part.last, half_hour))
        if high - low > 2 * SLOTS or abs(self._uk.day_of(low) - self._uk.day_of(high)) > 1:
            return
        part.last = -1
        missing = range(low + 1, high) if half_hour > low else range(high - 1, low, -1)
        self._assembly.counts.filled += len(missing)
        for one in missing:
            self._put(stream, one, 0, False, line)
            part.last = -1
        if part.day != half_hour // SLOTS:
            self._end_day(stream, part)
            part.day = half_hour // SLOTS

    def _sum(self, line: int, cells: list[str], ats: tuple[int, ...], kind: Kind) -> int | None:
        """The sum of a channel's columns; None where all are blank or one is a problem."""
        reader = self._cells
        total, found = 0, False
        for at in ats:
            if reader.amounts[cells[at]] == BLANK:
                continue
            amount = reader.amount(line, at, cells[at], kind)
            if amount < 0:
                return None
            total += amount
            found = True
        if not found and len(self._values) == 1:
            self._assembly.refuse(line, "REQUIRED", "This row has no reading.", ats[0] + 1)
        return total if found else None

    def _fitted(self, line: int, cells: list[str]) -> list[str] | None:
        width = self._columns.width
        if isinstance(cells, MalformedLine):
            self._assembly.refuse(line, "INVALID", cells.fault)
        elif len(cells) > width and not any(map(str.strip, cells[width:])):
            return cells[:width]
        elif len(cells) < width and len(cells) > max(at for _, ats in self._values for at in ats):
            return cells + [""] * (width - len(cells))
        else:
            self._assembly.refuse(line, "INVALID", f"This row has {len(cells)} cells, the header {width}.")
        return None

    def _instant(self, line: int, cells: list[str]) -> tuple[int, Stamp | None] | None:
        """The half-hour of a row; with its stamp where the clock shows it twice. None for a problem, which is added."""
        columns = self._columns
        key: str | tuple[str, str]
        try:
            if columns.stamp is not None:
                column, key = columns.stamp, cells[columns.stamp]
                stamp = self._stamp(key)
            else:
                column = self._date
                day = self._dates.day(cells[column]) - self._layout.delay_days
                key, column = (cells[column], cells[self._second]), self._second
                if columns.period is not None:
                    return self._of_period(line, key, day, cells[column])
                half_hours, offset = time_of_day(cells[column])
                stamp = Stamp(day * SLOTS + half_hours, offset)
        except ValueError as error:
            self._assembly.refuse(line, "BAD_DATE", f"The time {error}.", column + 1)
            return None
        ended = 1 if columns.ends else 0
        if stamp.offset is not None or self._zone == "utc":
            return self._remember(key, stamp.label - (stamp.offset or 0) - ended), None
        if self._zone is None:
            self._assembly.refuse(
                line,
                "BAD_DATE",
                "The time has no offset: end it with Z or +01:00, or choose timezone=utc or timezone=london.",
                column + 1,
            )
            return None
        instants = self._uk.instants(stamp.label)
        if len(instants) == 1:
            return self._remember(key, instants[0] - ended), None
        if instants:
            return -1, stamp
        self._assembly.refuse(
            line,
            "CLOCK_CHANGE",
            clock_change(stamp.label // SLOTS, 46, "this row is in the hour that clocks skip"),
            column + 1,
        )
        return None

    def _of_period(
        self, line: int, key: str | tuple[str, str], day: int, cell: str
    ) -> tuple[int, Stamp | None] | None:
        first, count = (day * SLOTS, SLOTS) if self._zone == "utc" else self._uk.bounds(day)
        text = cell.strip().removesuffix(".0")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:4]) <= 50:
            raise ValueError(f'has no settlement period from 1 to 50: "{cell.strip()[:20]}"')
        period = int(text)
        if period <= count == 50:
            return first + period - 1, Stamp(day * SLOTS, None)
        if period <= count:
            return self._remember(key, first + period - 1), None
        self._assembly.refuse(
            line,
            "CLOCK_CHANGE",
            f"A day in UTC has 48 half-hours, and this row is of period {period}: choose timezone=settlement."
            if self._zone == "utc"
            else clock_change(day, count, f"this row is of period {period}"),
            (self._columns.period or 0) + 1,
        )
        return None

    def _stamp(self, cell: str) -> Stamp:
        stamp = self._dates.stamp(cell)
        return (
            stamp
            if not self._layout.delay_days
            else Stamp(stamp.label - SLOTS * self._layout.delay_days, stamp.offset)
        )

    def _remember(self, key: str | tuple[str, str], half_hour: int) -> int:
        if len(self._known) < MAX_KNOWN:
            self._known[key] = half_hour
        return half_hour

    def _stamp_column(self) -> int:
        columns = self._columns
        at = columns.stamp if columns.stamp is not None else columns.time
        at = columns.period if columns.period is not None else at
        return (at if at is not None else columns.date or 0) + 1
