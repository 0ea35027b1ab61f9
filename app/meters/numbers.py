"""Meter numbers of Great Britain: the MPAN of electricity and the MPRN of gas.

Source: MRA Product Set, "MPAN" (core, full form, check digit); Xoserve, "MPRN check digits".
"""

import re
from typing import NamedTuple

from app.meters.enums import MeterType

CORE_DIGITS = 13
FULL_CHARACTERS = 21
GAS_DIGITS = range(6, 11)

TEST_NUMBERS = frozenset(f"999999999999{last}" for last in "56789")
"""Documented test meters: they fail the check digit and are allowed by name."""

_MPAN_WEIGHTS = (3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43)

# Bills print numbers in groups separated by spaces, no-break spaces or hyphens, and people paste them so.
_GROUPED = re.compile(r"[0-9A-Z]+(?:[ \u00a0-]+[0-9A-Z]+)*", re.IGNORECASE | re.ASCII)
_SEPARATORS = str.maketrans("", "", " \u00a0-")
_DIGITS = re.compile(r"[0-9]+")
# Profile class, time-switch code, line-loss factor class (may have letters), then the core.
_FULL = re.compile(r"[0-9]{2}[0-9]{3}[0-9A-Z]{3}([0-9]{13})", re.IGNORECASE | re.ASCII)


class InvalidMeterNumber(ValueError):
    """A meter number is invalid; the message is a sentence for the user."""


class ParsedNumber(NamedTuple):
    """A meter number in its stored form.

    `core`: the 13 digits of an MPAN or the 6 to 10 of an MPRN. `invalid`: a gas number fails its check.
    """

    core: str
    type: MeterType
    invalid: bool


def parse(number: str, type: MeterType | None = None) -> ParsedNumber:
    """Parses a meter number as people write it. Without a type, the length decides the type.

    Electricity: a core of 13 digits, or the full form of 21 characters, which is reduced to its core. A wrong length or
    check digit is refused, except in the five test numbers. Gas: 6 to 10 digits; a failed check only marks the number,
    because real meters have such numbers. Spaces and hyphens inside are ignored. Raises InvalidMeterNumber.
    """
    text = number.strip()
    if not text:
        raise InvalidMeterNumber("Give the meter number: an MPAN of 13 digits or an MPRN of 6 to 10.")
    if _GROUPED.fullmatch(text) is None:
        raise InvalidMeterNumber(
            "A meter number has only the digits 0 to 9, with spaces or hyphens between them."
        )
    text = text.translate(_SEPARATORS)
    kind = type or _type_by_length(len(text))
    return _electricity(text) if kind is MeterType.ELECTRICITY else _gas(text)


def mpan_check_digit(first_twelve: str) -> int:
    """The thirteenth digit of the MPAN core that begins with these twelve digits."""
    return (
        sum(int(digit) * weight for digit, weight in zip(first_twelve, _MPAN_WEIGHTS, strict=True)) % 11 % 10
    )


def mprn_check_digits(leading: str) -> str:
    """The last two digits of the MPRN that begins with these four to eight digits."""
    total = sum(int(digit) * (len(leading) - position) for position, digit in enumerate(leading))
    return f"{total % 11:02}"


def _type_by_length(length: int) -> MeterType:
    if length in (CORE_DIGITS, FULL_CHARACTERS):
        return MeterType.ELECTRICITY
    if length in GAS_DIGITS:
        return MeterType.GAS
    raise InvalidMeterNumber(
        f"A meter number has 13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has {length}."
    )


def _electricity(text: str) -> ParsedNumber:
    core = _core(text)
    if core not in TEST_NUMBERS and mpan_check_digit(core[:-1]) != int(core[-1]):
        raise InvalidMeterNumber(
            "The check digit of this electricity number is wrong: compare it with the bill."
        )
    return ParsedNumber(core, MeterType.ELECTRICITY, invalid=False)


def _core(text: str) -> str:
    if len(text) == FULL_CHARACTERS:
        full = _FULL.fullmatch(text)
        if full is None:
            raise InvalidMeterNumber(
                "A full electricity number has 21 digits, and only its 6th to 8th may be letters instead."
            )
        return full[1]
    if len(text) != CORE_DIGITS:
        hint = ": a number of 6 to 10 digits is of type GAS" if len(text) in GAS_DIGITS else ""
        raise InvalidMeterNumber(
            f"An electricity number has 13 digits, or 21 in full, this one has {len(text)}{hint}."
        )
    if _DIGITS.fullmatch(text) is None:
        raise InvalidMeterNumber("An electricity number of 13 digits has no letters.")
    return text


def _gas(text: str) -> ParsedNumber:
    if len(text) not in GAS_DIGITS:
        hint = (
            f": a number of {len(text)} is of type ELECTRICITY"
            if len(text) in (CORE_DIGITS, FULL_CHARACTERS)
            else ""
        )
        raise InvalidMeterNumber(f"A gas number has 6 to 10 digits, this one has {len(text)}{hint}.")
    if _DIGITS.fullmatch(text) is None:
        raise InvalidMeterNumber("A gas number has no letters.")
    return ParsedNumber(text, MeterType.GAS, invalid=mprn_check_digits(text[:-2]) != text[-2:])
