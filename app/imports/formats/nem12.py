"""NEM12, Australia's file of interval data: market time, 5, 15 or 30 minutes, several registers to a meter."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import Kind
from app.imports.formats.dates import DateReader, spoken
from app.imports.formats.day_records import DayRecords
from app.imports.formats.interface import Options
from app.imports.formats.tables import LINES_OF_STEP, Row
from app.imports.formats.uk_days import SLOTS
from app.imports.formats.values import BLANK
from app.imports.profiles.catalogue import NEM12

BEGINNING: Final = re.compile(r'\s*"?100"?,"?NEM12', re.IGNORECASE)
AHEAD: Final = 20
"""Half-hours by which market time, UTC+10, is ahead of UTC."""

_INTERVALS: Final = (5, 15, 30)
_QUALITY: Final = re.compile(r"([ASFVNE])[0-9]{0,2}")
_DIRECTIONS: Final = {"E": "import", "B": "export"}
_FIRST: Final = 2


@dataclass
class _Register:
    """A 200 record."""

    meter: int
    kind: Kind
    per_half_hour: int


@dataclass
class _Day:
    """A 300 record, and the qualities that the 400 records behind it give to some of its intervals."""

    line: int
    day: int
    amounts: list[int]
    qualities: list[str]


class Nem12Source:
    """Registers in one direction are added up: general consumption and controlled load are both taken from the grid."""

    def __init__(self, rows: Iterator[Row], options: Options, assembly: Assembly) -> None:
        self.profile = NEM12.name
        self._ahead = 0 if options.timezone == "utc" else AHEAD
        zone = "UTC" if options.timezone == "utc" else "market time (UTC+10 all year)"
        self.detection = f"Profile nem12, because {NEM12.marks}: days of {zone}."
        self._rows = rows
        self._assembly = assembly
        self._records = DayRecords(assembly, options, meter_is_number=False)
        self._dates = DateReader(("%Y%m%d",))
        self._register: _Register | None = None
        self._knows_register = False
        self._day: _Day | None = None

    def steps(self) -> Iterator[None]:
        self._assembly.holds = True
        ended = False
        for line, cells in self._rows:
            record = cells[0].strip()
            if record == "400":
                self._qualify(line, cells)
                if not line % LINES_OF_STEP:
                    yield
                continue
            self._end_day()
            yield
            if record == "200":
                self._register = self._read_register(line, cells)
                self._knows_register = True
            elif record == "300":
                self._assembly.counts.rows += 1
                self._day = self._read_day(line, cells)
            elif record == "900":
                ended = True
            elif record not in ("100", "500"):
                self._assembly.refuse(line, "INVALID", f'NEM12 has no such record: "{record[:20]}".', 1)
        self._end_day()
        if not ended:
            self._assembly.refuse(0, "INVALID", "The file ends without its 900 record: it may be cut off.")
        yield

    def _read_register(self, line: int, cells: list[str]) -> _Register | None:
        if len(cells) < 9:
            self._assembly.refuse(
                line, "INVALID", f"A 200 record has at least 9 cells, this one {len(cells)}."
            )
            return None
        suffix, unit, interval = cells[4].strip().upper(), cells[7], cells[8].strip()
        if interval not in map(str, _INTERVALS):
            self._assembly.refuse(
                line, "INVALID", f'An interval is 5, 15 or 30 minutes, got "{interval[:10]}".', 9
            )
            return None
        # Suffixes of other letters are reactive energy, demand and the like.
        direction = _DIRECTIONS.get(suffix[:1])
        if direction is None:
            filtered = self._assembly.counts.filtered
            filtered["other registers"] = filtered.get("other registers", 0) + 1
            return None
        kind = self._records.cells.kind_of(line, direction, unit)
        meter = self._records.cells.named(line, 1, cells[1])
        if kind is None or meter < 0:
            return None
        return _Register(meter, kind._replace(category=suffix), 30 // int(interval))

    def _read_day(self, line: int, cells: list[str]) -> _Day | None:
        if self._register is None:
            if not self._knows_register:
                self._assembly.refuse(line, "INVALID", "A 300 record needs a 200 record before it.", 1)
            return None
        try:
            day = self._dates.day(cells[1] if len(cells) > 1 else "")
        except ValueError as error:
            self._assembly.refuse(line, "BAD_DATE", f"The date {error}.", 2)
            return None
        wanted = SLOTS * self._register.per_half_hour
        at = next((at for at, cell in enumerate(cells) if at >= _FIRST and _is_quality(cell)), len(cells))
        if at - _FIRST != wanted:
            self._assembly.refuse(
                line,
                "INVALID",
                f"{spoken(day)} has {at - _FIRST} values; intervals of {30 // self._register.per_half_hour} minutes "
                f"need {wanted}.",
                at + 1,
            )
            return None
        reader, kind = self._records.cells, self._register.kind
        amounts = [reader.amount(line, place, cells[place], kind) for place in range(_FIRST, at)]
        quality = cells[at].strip().upper()[:1] if at < len(cells) else "A"
        return _Day(line, day, amounts, [quality] * wanted)

    def _qualify(self, line: int, cells: list[str]) -> None:
        day = self._day
        if day is None:
            return
        try:
            first, last = int(cells[1]), int(cells[2])
            quality = cells[3].strip().upper()
        except (ValueError, IndexError):
            first = last = 0
            quality = ""
        if not 1 <= first <= last <= len(day.qualities) or not _is_quality(quality):
            self._assembly.refuse(
                line, "INVALID", "A 400 record has a first and a last interval, and a quality.", 2
            )
            return
        day.qualities[first - 1 : last] = [quality[:1]] * (last - first + 1)

    def _end_day(self) -> None:
        day, self._day = self._day, None
        register = self._register
        if day is None or register is None:
            return
        size = register.per_half_hour
        amounts, estimated = [], 0
        for slot in range(SLOTS):
            parts = day.amounts[slot * size : (slot + 1) * size]
            qualities = day.qualities[slot * size : (slot + 1) * size]
            # A half-hour of which a part is missing is missing.
            amounts.append(BLANK if min(parts) < 0 or "N" in qualities else sum(parts))
            if any(quality != "A" for quality in qualities):
                estimated |= 1 << slot
        columns = [_FIRST + 1 + slot * size for slot in range(SLOTS)]
        first = day.day * SLOTS - self._ahead
        self._records.add(
            register.meter, register.kind, first, amounts, estimated, day.line, (day.line, columns)
        )


def _is_quality(cell: str) -> bool:
    return _QUALITY.fullmatch(cell.strip().upper()) is not None
