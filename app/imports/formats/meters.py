"""Meters as files name them: numbers, our ids, serial numbers."""

import re
from typing import Final

from app.imports.formats.interface import MAX_METERS, MeterKey, refused
from app.meters import numbers
from app.meters.enums import MeterType

_EXCEL: Final = re.compile(r"[0-9](?:[.,][0-9]+)?E\+?[0-9]+", re.IGNORECASE)
_WHOLE: Final = re.compile(r"([0-9]{6,21})[.,]0+")
_QUOTED: Final = re.compile(r'="?([^"]*)"?')
_IN_NAME: Final = re.compile(r"(?<![0-9])[0-9]{13}(?![0-9])|mtr_[0-9A-Za-z]+")
_MAX_TEXT: Final = 100
_MAX_REFUSED: Final = 1_000


class InvalidMeter(ValueError):
    """A meter cannot be told from a cell; `code` and the sentence say why."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Meters:
    """The meters of a file, numbered in the order in which it names them."""

    def __init__(self) -> None:
        self.keys: list[MeterKey] = []
        self._numbers: dict[MeterKey, int] = {}
        self._known: dict[tuple[str, bool, bool], int] = {}

    def number(self, cell: str, is_serial: bool, is_number: bool) -> int:
        """The number of the meter in a cell. Raises InvalidMeter."""
        at = self._known.get((cell, is_serial, is_number))
        if at is None:
            at = self.add(read(cell, is_serial, is_number))
            # Cells spelled in many ways name few meters.
            if len(self._known) < 2 * MAX_METERS:
                self._known[cell, is_serial, is_number] = at
        return at

    def add(self, key: MeterKey) -> int:
        """The number of a meter. Raises FileRefused where the file has too many."""
        at = self._numbers.get(key)
        if at is None:
            at = self._numbers[key] = len(self.keys)
            self.keys.append(key)
            if at == MAX_METERS:
                raise refused("LIMIT_REACHED", f"A file has at most {MAX_METERS:,} meters.")
        return at


def read(cell: str, is_serial: bool, is_number: bool) -> MeterKey:
    """The meter in a cell. `is_serial`: the column has serial numbers; `is_number`: only MPANs, MPRNs or ids count.

    Raises InvalidMeter.
    """
    text = cell.strip().removeprefix("'")
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1].strip()
    if not text or text.lower() in ("null", "none", "n/a"):
        raise InvalidMeter("REQUIRED", "The meter is missing.")
    if len(text) > _MAX_TEXT:
        raise InvalidMeter("INVALID_METER_NUMBER", f"A meter's number has at most {_MAX_TEXT} characters.")
    if text.startswith("mtr_"):
        return MeterKey("id", text)
    if is_serial:
        return MeterKey("serial", text)
    if _EXCEL.fullmatch(text):
        raise InvalidMeter(
            "INVALID_METER_NUMBER",
            f"{text} is a number that Excel has cut: its last digits are lost. Format the column as text "
            f"and export again.",
        )
    if whole := _WHOLE.fullmatch(text):
        text = whole[1]
    try:
        parsed = numbers.parse(text)
    except numbers.InvalidMeterNumber as error:
        if is_number and not re.search("[0-9]{6}", re.sub("[ \u00a0-]", "", text)):
            raise InvalidMeter(
                "INVALID_METER_NUMBER",
                f'"{text[:40]}" is no meter number: an MPAN has 13 digits, an MPRN 6 to 10.',
            ) from None
        if is_number:
            raise InvalidMeter("INVALID_METER_NUMBER", f'"{text[:40]}": {error}') from None
        return MeterKey("serial", text)
    return MeterKey("mpan" if parsed.type is MeterType.ELECTRICITY else "mprn", parsed.core)


def of_file(meter: str | None, file_name: str) -> MeterKey:
    """The meter of a file that names none in its rows: the caller's, or that in the file's name. Raises FileRefused."""
    if meter is not None:
        try:
            return read(meter, is_serial=False, is_number=False)
        except InvalidMeter as error:
            raise refused(error.code, f"meter: {error}") from None
    for found in _IN_NAME.findall(file_name):
        try:
            return read(found, is_serial=False, is_number=True)
        except InvalidMeter:
            continue
    return MeterKey("none", "")
