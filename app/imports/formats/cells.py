"""The meaning of cells that rows of both kinds of tables have: the meter, the quantity, the quality, the value."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from app.imports.formats import quantities
from app.imports.formats.assembly import Assembly
from app.imports.formats.interface import MeterKey, Options, refused
from app.imports.formats.meters import InvalidMeter, of_file
from app.imports.formats.values import BLANK, ODD, Amounts, read_odd
from app.imports.profiles.columns import Columns
from app.imports.profiles.layouts import Layout
from app.meters.numbers import CORE_DIGITS, FULL_CHARACTERS
from app.meters.sentinels import LOWEST_SENTINEL, SENTINELS
from app.meters.units import converter, factor
from app.readings.enums import ReadingChannel

_ACTUAL: Final = frozenset(
    ("", "a", "act", "actual", "actuals", "r", "real", "m", "measured", "v", "valid", "n", "no", "false", "0", "null",
     "none")
)  # fmt: skip
_ESTIMATED: Final = frozenset(("e", "est", "estimate", "estimated"))
_MAX_KINDS: Final = 1_000
_MAX_AMOUNT: Final = 10**18
"""Millionths, as many as POST /readings takes: 12 digits before the point."""


class Kind(NamedTuple):
    """The meaning of a row's quantity and unit: the code of its channel and the conversion to kWh, if it needs one.

    `filtered`: the reason why such rows are left out. `problem`: a code, a sentence and a column.
    """

    channel: int = 0
    convert: Callable[[int], int] | None = None
    category: str = ""
    is_estimated: bool = False
    filtered: str | None = None
    problem: tuple[str, str, int | None] | None = None


class Flags(dict[str, bool]):
    """Whether a flag means that a value is estimated. Only flags known to mean "measured" do not."""

    def __missing__(self, cell: str) -> bool:
        estimated = is_estimated(cell)
        if len(self) < _MAX_KINDS:
            self[cell] = estimated
        return estimated


def is_estimated(cell: str) -> bool:
    return cell.strip().lower() not in _ACTUAL


class CellReader:
    """Reads these cells of a table's rows. Raises FileRefused for options that make no sense."""

    def __init__(
        self, assembly: Assembly, options: Options, layout: Layout, columns: Columns, decimal_comma: bool
    ) -> None:
        self.assembly = assembly
        self.amounts = Amounts()
        self.flags = Flags()
        self._layout = layout
        self._columns = columns
        self._options = options
        self._decimal_comma = decimal_comma
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._meters: dict[str, int] = {}
        self._own: MeterKey | None = None
        channel = options.channel or ReadingChannel.IMPORT
        self.channel = channel.code
        self._unit = self._default_unit()
        self.plain = self._kind("", "")

    def meter(self, line: int, cells: Sequence[str]) -> int:
        """The number of the row's meter; -1 where that is a problem, which is added."""
        at = self._columns.meter
        if at is None:
            if self._own is None:
                self._own = of_file(self._options.meter, self._options.file_name)
            return self.assembly.meters.add(self._own)
        try:
            return self.assembly.meters.number(
                cells[at], self._columns.is_serial, self._layout.meter_is_number
            )
        except InvalidMeter as error:
            self.assembly.refuse(line, error.code, str(error), at + 1)
            return -1

    def named(self, line: int, column: int, cell: str) -> int:
        """The number of a meter outside of a table; -1 where that is a problem, which is added."""
        is_number = self._layout.meter_is_number
        # An Australian meter's ten digits are no MPRN.
        is_serial = not is_number and len(cell.strip()) not in (CORE_DIGITS, FULL_CHARACTERS)
        try:
            return self.assembly.meters.number(cell, is_serial, is_number)
        except InvalidMeter as error:
            self.assembly.refuse(line, error.code, str(error), column + 1)
            return -1

    def amount(self, line: int, column: int, cell: str, kind: Kind) -> int:
        """Millionths of a kWh in a cell; BLANK where it is blank or a problem, which is added."""
        amount = self.amounts[cell]
        if amount == ODD:
            amount = self.odd(line, column, cell)
        if amount >= 0 and self.needs_check(amount, kind):
            amount = self.kwh(line, column, amount, kind)
        return amount

    def kind(self, line: int, cells: Sequence[str]) -> Kind | None:
        """The meaning of the row; None where it is left out, which is counted, or a problem, which is added."""
        columns = self._columns
        if columns.quantity is None and columns.unit is None:
            return self.plain
        return self.kind_of(
            line,
            cells[columns.quantity] if columns.quantity is not None else "",
            cells[columns.unit] if columns.unit is not None else "",
        )

    def kind_of(self, line: int, what: str, unit: str) -> Kind | None:
        """The meaning of a quantity and a unit, as `kind`."""
        kind = self._kinds.get((what, unit))
        if kind is None:
            kind = self._kind(what, unit)
            if len(self._kinds) < _MAX_KINDS:
                self._kinds[what, unit] = kind
        if kind.filtered is not None:
            filtered = self.assembly.counts.filtered
            name = kind.filtered if len(filtered) < _MAX_KINDS else "other"
            filtered[name] = filtered.get(name, 0) + 1
            return None
        if kind.problem is not None:
            code, sentence, column = kind.problem
            self.assembly.refuse(line, code, sentence, column)
            return None
        return kind

    def odd(self, line: int, column: int, cell: str) -> int:
        """A value that is no plain decimal, rounded and counted; BLANK where it is a problem, which is added."""
        try:
            amount = read_odd(cell, self._decimal_comma)
        except ValueError as error:
            self.assembly.refuse(line, "BAD_VALUE", f"The value {error}.", column + 1)
            return BLANK
        if amount < 0:
            self.assembly.refuse(
                line,
                "BAD_VALUE",
                f"The value is negative: {cell.strip()[:40]}; energy that is given back belongs to the "
                f"channel EXPORT.",
                column + 1,
            )
            return BLANK
        self.assembly.counts.rounded += 1
        return amount

    def kwh(self, line: int, column: int, amount: int, kind: Kind) -> int:
        """Millionths of a kWh; BLANK for a value that stands for none, which is added as a problem."""
        raw = amount
        if kind.convert is not None:
            amount = kind.convert(amount)
        if raw in SENTINELS or amount in SENTINELS:
            self.assembly.refuse(
                line,
                "BAD_VALUE",
                f"{raw / 1_000_000:.10g} is no measurement: meters and networks send it where they have no "
                f"value.",
                column + 1,
            )
            return BLANK
        if amount >= _MAX_AMOUNT:
            self.assembly.refuse(line, "BAD_VALUE", "The value has more than 12 digits of kWh.", column + 1)
            return BLANK
        return amount

    def needs_check(self, top: int, kind: Kind) -> bool:
        """Whether a row with this highest value has to go through `kwh` value by value."""
        return kind.convert is not None or top >= LOWEST_SENTINEL

    @property
    def is_plain(self) -> bool:
        """Whether all rows are of one quantity in kWh, so that plain decimals need no conversion."""
        columns = self._columns
        return columns.quantity is None and columns.unit is None and self.plain == Kind(self.channel)

    def _default_unit(self) -> str:
        asked = self._options.unit
        if asked is None:
            return self._columns.header_unit or self._layout.unit
        found = quantities.unit(asked)
        if found is None:
            raise refused(
                "UNKNOWN_UNIT", f'unit: there is no unit "{asked[:20]}": choose kWh, Wh, MWh, m3, ft3 or hcf.'
            )
        return found

    def _kind(self, what: str, unit: str) -> Kind:
        channel, name, estimated = self.channel, self._unit, False
        for said, text, at in (
            ("quantity", what, self._columns.quantity),
            ("unit", unit, self._columns.unit),
        ):
            if not text.strip():
                continue
            found = quantities.quantity(text)
            if found is None and said == "quantity":
                # Columns named Type hold a quantity in some files, the quality in others.
                flag = text.strip().lower()
                if flag in _ACTUAL or flag in _ESTIMATED or not self._layout.strict:
                    estimated = estimated or flag in _ESTIMATED
                    continue
            if found is None:
                code = "UNKNOWN_UNIT" if said == "unit" else "INVALID"
                message = f'There is no {said} "{text.strip()[:40]}" that is known here.'
                return Kind(problem=(code, message, None if at is None else at + 1))
            if found.filtered is not None:
                return Kind(filtered=found.filtered)
            channel = found.channel.code if found.channel is not None else channel
            name = found.unit or name
        try:
            in_kwh = factor(name, self._options.calorific_value)
        except ValueError as error:
            raise refused("BAD_VALUE", f"calorificValue: {error}") from None
        convert = converter(in_kwh) if in_kwh != 1 else None
        return Kind(channel, convert, quantities.plain(what)[:40], estimated)
