"""Hands days of formats other than tables to the assembly, checked as rows of tables are."""

from typing import Final

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import CellReader, Kind
from app.imports.formats.interface import Options
from app.imports.profiles.columns import Columns
from app.imports.profiles.layouts import Layout

_NONE: Final = Columns(
    meter=None, is_serial=False, row_flag=None, unit=None, quantity=None, header_unit=None, width=0
)


class DayRecords:
    """Takes half-hours one after the other, of a day or a part of it."""

    def __init__(self, assembly: Assembly, options: Options, *, meter_is_number: bool) -> None:
        self.assembly = assembly
        self.cells = CellReader(assembly, options, Layout(meter_is_number=meter_is_number), _NONE, False)

    def add(
        self,
        meter: int,
        kind: Kind,
        first: int,
        amounts: list[int],
        estimated: int,
        line: int,
        places: tuple[list[int] | int, list[int] | int | None],
    ) -> None:
        """Millionths of a kWh from a UTC half-hour on, negative where there is none.

        `places` are the lines and columns of the amounts, or those that all share.
        """
        present = 0
        for at, amount in enumerate(amounts):
            if amount >= 0:
                present |= 1 << at
        if not present or not self.assembly.begins_in_time(line, first, present):
            return
        amounts = [max(amount, 0) for amount in amounts]
        stream = meter << 2 | kind.channel
        lines, columns = places
        present = self.assembly.hold_suspects(
            stream, amounts, first, present, estimated & present, lines, columns
        )
        if present:
            self.assembly.add_run(stream, first, present, estimated & present, amounts, line, kind.category)
