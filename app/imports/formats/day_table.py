"""Reads tables with a row per day of a meter: 48 half-hours, or 46 to 50 of a local day."""

from typing import Final

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import CellReader, Kind
from app.imports.formats.dates import DateReader
from app.imports.formats.interface import Options, Zone
from app.imports.formats.tables import MalformedLine
from app.imports.formats.uk_days import UkDays, clock_change
from app.imports.formats.values import BLANK, ODD
from app.imports.profiles.columns import DayColumns
from app.imports.profiles.layouts import Days
from app.readings.packing import SLOTS

_EMPTY: Final = (BLANK, 0)
# Columns of the hour that clocks skip in March: by the starts of half-hours, and by their ends.
_SKIPPED: Final = {False: ((2, 3),), True: ((2, 3), (1, 2))}


class DayTable:
    """Takes one row after the other."""

    def __init__(
        self,
        assembly: Assembly,
        options: Options,
        layout: Days,
        columns: DayColumns,
        zone: Zone,
        decimal_comma: bool = False,
    ) -> None:
        self._assembly = assembly
        self._cells = CellReader(assembly, options, layout, columns, decimal_comma)
        self._dates = DateReader(layout.dates)
        self._columns = columns
        self._zone = zone
        self._delay = layout.delay_days
        self._uk = UkDays()
        self._amounts = self._cells.amounts.__getitem__
        self._numbers = range(columns.values.first + 1, columns.values.stop + 1, columns.values.stride)
        # Categories of one channel are added up: general consumption and controlled load are both taken from the grid.
        assembly.holds = columns.quantity is not None and not layout.strict
        self._all_actual = [["A"] * count for count in range(51)]

    def add(self, line: int, cells: list[str]) -> None:
        """Adds a row: readings or problems appear in the assembly."""
        assembly, columns, reader = self._assembly, self._columns, self._cells
        assembly.counts.rows += 1
        given = len(cells)
        if given != columns.width or isinstance(cells, MalformedLine):
            if not self._fits(line, cells):
                return
            cells = cells + [""] * (columns.width - given)
        kind = reader.kind(line, cells)
        if kind is None:
            return
        meter = reader.meter(line, cells)
        try:
            day = self._dates.day(cells[columns.date]) - self._delay
        except ValueError as error:
            assembly.refuse(line, "BAD_DATE", f"The date {error}.", columns.date + 1)
            return
        if meter < 0:
            return
        if self._zone == "utc":
            first, count = day * SLOTS, SLOTS
        else:
            first, count = self._uk.bounds(day)
        run = columns.values
        amounts = list(map(self._amounts, cells[run.first : run.stop : run.stride]))
        if len(amounts) != SLOTS or count != SLOTS:
            fitted = self._of_day(line, day, count, amounts)
            if fitted is None:
                return
            amounts, places = fitted
        else:
            places = range(SLOTS)
        if given < columns.width and given <= run.first + run.stride * places[-1]:
            got = max(0, -(-(given - run.first) // run.stride))
            assembly.refuse(line, "INVALID", f"This row has {got} readings, and this day {count} half-hours.")
            return
        present = (1 << count) - 1
        if min(amounts) < 0 or reader.needs_check(max(amounts), kind):
            present = self._checked(line, cells, amounts, places, kind)
            if not present:
                return
        estimated = self._estimated(cells, places, kind) & present
        if not assembly.begins_in_time(line, first, present, run.first + 1):
            return
        stream = meter << 2 | kind.channel
        numbers: range | list[int] = self._numbers
        if not isinstance(places, range):
            numbers = [self._numbers[at] for at in places]
        present = assembly.hold_suspects(stream, amounts, first, present, estimated, line, numbers)
        if present:
            assembly.add_run(stream, first, present, estimated & present, amounts, line, kind.category)

    def _fits(self, line: int, cells: list[str]) -> bool:
        width = self._columns.width
        if isinstance(cells, MalformedLine):
            self._assembly.refuse(line, "INVALID", cells.fault)
            return False
        if any(map(str.strip, cells[width:])):
            self._assembly.refuse(
                line, "INVALID", f"This row has {len(cells)} cells, the header {width}.", width + 1
            )
            return False
        return True

    def _of_day(
        self, line: int, day: int, count: int, amounts: list[int]
    ) -> tuple[list[int], list[int] | range] | None:
        """The values of as many half-hours as the day has, and their places in the row."""
        filled = len(amounts)
        while filled > count and amounts[filled - 1] in _EMPTY:
            filled -= 1
        column = self._columns.values.first + 1
        if self._zone == "utc" or count == SLOTS or len(amounts) > SLOTS:
            if filled > count:
                given = f"this row has a value for half-hour {filled}"
            elif count == 50 and amounts[48:] == [BLANK, BLANK]:
                given = "this row has 48"
            else:
                return amounts[:count], range(count)
            self._refuse_change(line, day, count, given, column)
            return None
        if count == 46:
            skipped = ((46, 47),) if self._zone == "settlement" else _SKIPPED[bool(self._columns.values.ends)]
            for empty in (BLANK, 0):
                for pair in skipped:
                    if all(amounts[at] in (BLANK, empty) for at in pair):
                        places = [at for at in range(SLOTS) if at not in pair]
                        return [amounts[at] for at in places], places
        self._refuse_change(line, day, count, "this row has 48", column)
        return None

    def _refuse_change(self, line: int, day: int, count: int, given: str, column: int) -> None:
        if self._zone == "utc":
            sentence = (
                f"A day in UTC has 48 half-hours, and {given}. "
                "Choose timezone=settlement if the columns are the half-hours of the UK local day."
            )
        else:
            sentence = clock_change(day, count, given)
        self._assembly.refuse(line, "CLOCK_CHANGE", sentence, column)

    def _checked(
        self, line: int, cells: list[str], amounts: list[int], places: list[int] | range, kind: Kind
    ) -> int:
        """Reads odd values, converts all, and blanks those that are problems. Returns the bitmap of the rest."""
        run, present, refused = self._columns.values, 0, False
        for at, amount in enumerate(amounts):
            column = run.first + run.stride * places[at]
            if amount == ODD:
                amount = self._cells.odd(line, column, cells[column])
                refused = refused or amount < 0
            if amount >= 0:
                amount = self._cells.kwh(line, column, amount, kind)
                refused = refused or amount < 0
            if amount >= 0:
                present |= 1 << at
            amounts[at] = max(amount, 0)
        if not present and not refused:
            self._assembly.refuse(line, "REQUIRED", "This row has no readings.", run.first + 1)
        return present

    def _estimated(self, cells: list[str], places: list[int] | range, kind: Kind) -> int:
        columns = self._columns
        every = (1 << len(places)) - 1
        if kind.is_estimated:
            return every
        if columns.row_flag is not None and self._cells.flags[cells[columns.row_flag]]:
            return every
        run = columns.flags
        if run is None:
            return 0
        if isinstance(places, range):
            flags = cells[run.cells(len(places))]
        else:
            flags = [cells[run.first + run.stride * at] for at in places]
        if flags == self._all_actual[len(flags)]:
            return 0
        of = self._cells.flags
        estimated = 0
        for at, flag in enumerate(flags):
            if of[flag]:
                estimated |= 1 << at
        return estimated

    def finish(self) -> None:
        """Nothing waits in this table."""
