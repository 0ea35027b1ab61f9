"""Puts half-hours together to UTC days, finds those that are given twice, and counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.core import clock
from app.core.decimals import format_micro
from app.imports.formats.dates import spoken
from app.imports.formats.interface import (
    MAX_HALF_HOURS,
    Counts,
    MeterReadings,
    Options,
    Problem,
    refused,
)
from app.imports.formats.meters import Meters
from app.imports.formats.plausibility import ORDINARY, ORDINARY_GAS, Medians
from app.readings.enums import ReadingChannel
from app.readings.packing import ALL, SLOTS

CHANNELS: Final = tuple(ReadingChannel)
"""By their codes."""

MAX_DAYS: Final = 750_000
"""Days of all meters, half-full ones included: what is known of them takes 120 bytes each."""
MAX_HELD: Final = 100_000
"""Values that are held back until the file is known."""
MAX_OPEN: Final = 45_000
MAX_OPEN_OF_A_METER: Final = 6_000

_HALF_HOUR_MS: Final = 30 * 60 * 1000
_DAY_BITS: Final = 23
_DAY_ZERO: Final = 1 << 22


class _Held(NamedTuple):
    stream: int
    half_hour: int
    amount: int
    estimated: bool
    line: int
    column: int | None
    file: str | None


@dataclass(slots=True)
class _Part:
    """Some half-hours of a UTC day. `of`: by category, those that it gave; categories are added up."""

    present: int
    estimated: int
    amounts: list[int]
    line: int
    of: dict[str, int]


class Assembly:
    """Takes half-hours of streams, which are a meter's number times 4 plus the code of a channel.

    Finished days and problems wait in `ready`. `holds`: rows of several categories make up one channel, so days are
    kept until the next meter. `end`: the half-hours before this one, counted from 1970, have begun.
    """

    def __init__(self, options: Options, max_days: int = MAX_DAYS) -> None:
        self.counts = Counts()
        self.meters = Meters()
        self.ready: list[MeterReadings | Problem] = []
        self.file: str | None = None
        self.holds = False
        self.end = -(-clock.to_ms(options.now) // _HALF_HOUR_MS)
        self._seen: dict[int, int] = {}
        self._max_days = max_days
        self._open: dict[int, dict[int, _Part]] = {}
        self._open_count = 0
        self._meter = -1
        self._medians = Medians()
        self._held: list[_Held] = []
        self._refused_line = -1
        self._duplicate_line = -1

    def take(self) -> list[MeterReadings | Problem]:
        """Takes the readings and problems that are ready."""
        taken = self.ready[:]
        self.ready.clear()
        return taken

    def start(self, file: str | None) -> None:
        """Begins a file of an archive."""
        self.file = file
        self._refused_line = self._duplicate_line = -1

    def refuse(self, line: int, code: str, message: str, column: int | None = None) -> None:
        """A problem of a row, or of the value in a column, which counts from 1; 0 is none."""
        if line != self._refused_line and line:
            self._refused_line = line
            self.counts.refused += 1
        self.ready.append(Problem(line, column or None, self.file, code, message))

    def begins_in_time(self, line: int, first: int, present: int, column: int | None = None) -> bool:
        """Whether all half-hours of a row have begun; else it is refused."""
        if first + present.bit_length() <= self.end:
            return True
        late = first + present.bit_length() - 1
        self.refuse(
            line,
            "OUT_OF_RANGE",
            f"{clock.format_utc(clock.from_ms(late * _HALF_HOUR_MS))} is in the future: "
            "a half-hour is read once it has begun.",
            column,
        )
        return False

    def hold_suspects(
        self,
        stream: int,
        amounts: Sequence[int],
        first: int,
        present: int,
        estimated: int,
        lines: Sequence[int] | int,
        columns: Sequence[int] | int | None,
    ) -> int:
        """Checks a row or day against its meter. Returns the bitmap of present ones without those held back."""
        suspects = self._medians.suspects(stream, amounts, self._ordinary(stream))
        for at in suspects:
            line = lines if isinstance(lines, int) else lines[at]
            column = columns if columns is None or isinstance(columns, int) else columns[at]
            held = _Held(stream, first + at, amounts[at], bool(estimated >> at & 1), line, column, self.file)
            if len(self._held) < MAX_HELD:
                self._held.append(held)
            else:
                self._refuse_held(held)
            present &= ~(1 << at)
        return present

    def add_run(
        self,
        stream: int,
        first: int,
        present: int,
        estimated: int,
        amounts: list[int],
        line: int,
        category: str = "",
    ) -> None:
        """Half-hours one after the other from a UTC half-hour on; bit 0 of the bitmaps is the first."""
        day, slot = divmod(first, SLOTS)
        if self.holds:
            self._change_meter(stream)
        elif not slot and len(amounts) == SLOTS and day not in self._open.get(stream, ()):
            self.emit(stream, day, present, estimated, amounts, line)
            return
        at = 0
        while at < len(amounts):
            room = min(SLOTS - slot, len(amounts) - at)
            mask = (1 << room) - 1
            self._add(
                stream,
                day,
                slot,
                present >> at & mask,
                estimated >> at & mask,
                amounts[at : at + room],
                line,
                category,
            )
            at += room
            day, slot = day + 1, 0

    def emit(
        self, stream: int, day: int, present: int, estimated: int, amounts: Sequence[int], line: int
    ) -> None:
        """A UTC day of a stream, or a part of it."""
        key = stream << _DAY_BITS | day + _DAY_ZERO
        seen = self._seen.get(key, 0)
        if seen & present:
            self._duplicate(stream, day, line)
            estimated &= ~seen
            present &= ~seen
        if not present:
            return
        if not seen and len(self._seen) >= self._max_days:
            raise refused(
                "LIMIT_REACHED", f"A file has at most {self._max_days:,} days of all meters.", line, self.file
            )
        self._seen[key] = seen | present if seen else (ALL if present == ALL else present)
        if present != ALL:
            # A missing half-hour is 0.
            amounts = [amount if present >> at & 1 else 0 for at, amount in enumerate(amounts)]
        counts = self.counts
        counts.readings += present.bit_count()
        if counts.readings > MAX_HALF_HOURS:
            raise refused(
                "LIMIT_REACHED", f"A file has at most {MAX_HALF_HOURS:,} half-hours.", line, self.file
            )
        first = day * SLOTS
        if counts.first is None or first <= counts.first:
            counts.first = self._earlier(first + (present & -present).bit_length() - 1)
        if counts.last is None or first + 47 > counts.last:
            counts.last = max(first + present.bit_length() - 1, counts.last or first)
        self.ready.append(
            MeterReadings(
                self.meters.keys[stream >> 2],
                CHANNELS[stream & 3],
                day,
                present,
                estimated,
                amounts,
                line,
                self.file,
            )
        )

    def flush(self) -> None:
        """Emits the days that are still open: no more of this file's rows belong to them."""
        for stream in list(self._open):
            self._flush_stream(stream)

    def finish(self) -> None:
        """Decides about the values that were held back."""
        self.flush()
        for held in self._held:
            if self._medians.is_impossible(held.stream, held.amount, self._ordinary(held.stream)):
                self._refuse_held(held)
                continue
            day, slot = divmod(held.half_hour, SLOTS)
            amounts = [0] * SLOTS
            amounts[slot] = held.amount
            self.file = held.file
            self.emit(held.stream, day, 1 << slot, held.estimated << slot, amounts, held.line)
        self._held = []
        self.counts.meters = len(self.meters.keys)

    def _add(
        self,
        stream: int,
        day: int,
        slot: int,
        present: int,
        estimated: int,
        values: list[int],
        line: int,
        category: str,
    ) -> None:
        """Half-hours within one UTC day; bit 0 of the bitmaps is `slot`."""
        if not present:
            return
        parts = self._open.setdefault(stream, {})
        part = parts.get(day)
        if part is None:
            part = parts[day] = self._opened(stream, parts)
            part.line = line
        full = present == (1 << len(values)) - 1
        present <<= slot
        again = part.of.get(category, 0) & present
        if again:
            self._duplicate(stream, day, line)
            present &= ~again
        if full and not part.present & present and not again:
            part.amounts[slot : slot + len(values)] = values
        else:
            for at, value in enumerate(values, slot):
                if present >> at & 1:
                    part.amounts[at] += value
        part.of[category] = part.of.get(category, 0) | present
        part.present |= present
        part.estimated |= (estimated << slot) & present
        if part.present == ALL and not self.holds:
            del parts[day]
            self._open_count -= 1
            self.emit(stream, day, ALL, part.estimated, part.amounts, part.line)

    def _opened(self, stream: int, parts: dict[int, _Part]) -> _Part:
        """A new part; older ones are emitted where there are too many."""
        self._open_count += 1
        if self.holds:
            if len(parts) >= MAX_OPEN_OF_A_METER:
                self._flush_day(stream, next(iter(parts)))
        else:
            if len(parts) > 2:
                self._flush_day(stream, next(iter(parts)))
            if self._open_count > MAX_OPEN:
                oldest = next(one for one in self._open if one != stream)
                self._flush_stream(oldest)
        return _Part(0, 0, [0] * SLOTS, 0, {})

    def _change_meter(self, stream: int) -> None:
        if stream >> 2 != self._meter:
            self.flush()
            self._meter = stream >> 2

    def _flush_stream(self, stream: int) -> None:
        for day in list(self._open[stream]):
            self._flush_day(stream, day)
        del self._open[stream]

    def _flush_day(self, stream: int, day: int) -> None:
        part = self._open[stream].pop(day)
        self._open_count -= 1
        self.emit(stream, day, part.present, part.estimated, part.amounts, part.line)

    def _earlier(self, half_hour: int) -> int:
        return half_hour if self.counts.first is None else min(self.counts.first, half_hour)

    def _duplicate(self, stream: int, day: int, line: int) -> None:
        if line == self._duplicate_line:
            # A local day is in two days of UTC.
            return
        self._duplicate_line = line
        self.refuse(
            line,
            "DUPLICATE",
            f"Half-hours of {spoken(day)} (UTC) are given twice for this meter: the first ones count. "
            "Leave one of the rows out.",
        )

    def _refuse_held(self, held: _Held) -> None:
        median = format_micro(self._medians.median(held.stream))
        file, self.file = self.file, held.file
        self.refuse(
            held.line,
            "BAD_VALUE",
            f"{format_micro(held.amount)} kWh in half an hour is over 100 times this meter's median of "
            f"{median} kWh: "
            "it is taken for a fault.",
            held.column,
        )
        self.file = file

    def _ordinary(self, stream: int) -> int:
        return ORDINARY_GAS if self.meters.keys[stream >> 2].kind == "mprn" else ORDINARY
