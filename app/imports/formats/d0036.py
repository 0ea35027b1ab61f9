"""D0036, half-hourly advances from a collector to a supplier: lines with pipes, kWh, settlement periods."""

from collections.abc import Iterator
from typing import Final

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import Kind, is_estimated
from app.imports.formats.dates import DateReader
from app.imports.formats.day_records import DayRecords
from app.imports.formats.interface import Options
from app.imports.formats.tables import LINES_OF_STEP, Row
from app.imports.formats.uk_days import SLOTS, UkDays, clock_change
from app.imports.profiles.catalogue import D0036

BEGINNING: Final = "ZHV|"
_VALUE: Final = 2


class D0036Source:
    """101 names an MPAN and a quantity, 102 a day, and each 103 a half-hour; ZPT ends the file."""

    def __init__(self, rows: Iterator[Row], options: Options, assembly: Assembly) -> None:
        self.profile = D0036.name
        self.detection = f"Profile d0036, because {D0036.marks}: kWh in " + (
            "UTC days." if options.timezone == "utc" else "settlement periods of the UK local day."
        )
        self._rows = rows
        self._is_utc = options.timezone == "utc"
        self._assembly = assembly
        self._records = DayRecords(assembly, options, meter_is_number=True)
        self._dates = DateReader(("%Y%m%d",))
        self._uk = UkDays()
        self._meter = -1
        self._kind: Kind | None = None
        self._day: int | None = None
        self._line = 0
        self._values: list[tuple[int, int, bool]] = []

    def steps(self) -> Iterator[None]:
        ended = False
        self._assembly.holds = False
        for line, cells in self._rows:
            record = cells[0].strip()
            if record == "103" and len(cells) > _VALUE:
                self._value(line, cells)
                if not line % LINES_OF_STEP:
                    yield
                continue
            self._end_day()
            yield
            if record == "101" and len(cells) > _VALUE:
                self._kind = self._records.cells.kind_of(line, cells[2], "")
                self._meter = self._records.cells.named(line, 1, cells[1])
            elif record == "102" and len(cells) > 1:
                self._begin_day(line, cells[1])
            elif record == "ZPT":
                ended = True
            elif record != "ZHV":
                self._assembly.refuse(line, "INVALID", f'D0036 has no such record: "{record[:20]}".', 1)
        self._end_day()
        if not ended:
            self._assembly.refuse(0, "INVALID", "The file ends without its ZPT record: it may be cut off.")
        yield

    def _begin_day(self, line: int, cell: str) -> None:
        self._assembly.counts.rows += 1
        self._line = line
        try:
            self._day = self._dates.day(cell)
        except ValueError as error:
            self._assembly.refuse(line, "BAD_DATE", f"The date {error}.", 2)

    def _value(self, line: int, cells: list[str]) -> None:
        if self._day is None or self._kind is None or self._meter < 0:
            # The record above it was refused or left out.
            return
        amount = self._records.cells.amount(line, _VALUE, cells[_VALUE], self._kind)
        self._values.append((amount, line, is_estimated(cells[1])))

    def _end_day(self) -> None:
        values, self._values = self._values, []
        day, self._day = self._day, None
        if day is None or self._kind is None or self._meter < 0:
            return
        first, count = (day * SLOTS, SLOTS) if self._is_utc else self._uk.bounds(day)
        if len(values) != count:
            given = f"this day has {len(values)} records"
            if count != SLOTS and len(values) == SLOTS:
                self._assembly.refuse(self._line, "CLOCK_CHANGE", clock_change(day, count, given), 2)
            else:
                self._assembly.refuse(self._line, "INVALID", f"A day has {count} half-hours, and {given}.", 2)
            return
        estimated = 0
        for at, (_, _, is_guess) in enumerate(values):
            if is_guess:
                estimated |= 1 << at
        amounts = [amount for amount, _, _ in values]
        lines = [line for _, line, _ in values]
        self._records.add(self._meter, self._kind, first, amounts, estimated, self._line, (lines, _VALUE + 1))
