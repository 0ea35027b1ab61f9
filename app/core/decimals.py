"""Exact decimals: kWh in the API, whole micro-kWh in the database, so that sums are exact on every database."""

import re
from collections.abc import Iterable
from decimal import Decimal

INTEGER_DIGITS = 12
FRACTION_DIGITS = 6
MICRO = 1_000_000

_TOO_LARGE = 1_000_000_000_000
_PLAIN = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?")

_LAST = {
    digits: tuple([f"{value:0{digits}}".rstrip("0") for value in range(10**digits)]) for digits in (1, 2, 3)
}
"""The texts of so many digits without trailing zeros."""
_FRACTIONS = {digits: tuple([text and f".{text}" for text in texts]) for digits, texts in _LAST.items()}
_FIRST_THREE = tuple([f".{value:03}" for value in range(1000)])


def to_micro(value: object) -> int:
    """Millionths of a decimal given as str, int or Decimal: `to_micro("295005.6") == 295_005_600_000`.

    At most 12 integer and 6 fraction digits, counted as written; more is an error, never rounded. A string is
    plain (`-12.5`; no exponent, no sign +, digits on both sides of a point). A float is always refused, because it
    may have lost digits of the decimal that it was read from. Raises ValueError with a sentence.
    """
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, bool):
        raise ValueError("A decimal is a number or a string, not true or false.")
    if isinstance(value, int):
        if abs(value) >= _TOO_LARGE:
            raise _too_large()
        return value * MICRO
    if isinstance(value, float):
        raise ValueError("A float has lost digits on the way: send a string.")
    if isinstance(value, Decimal):
        return _from_decimal(value)
    raise ValueError('A decimal is a number or a string such as "295005.6".')


def format_micro(micro: int) -> str:
    """A plain decimal without exponent or trailing zeros: `format_micro(295_005_600_000) == "295005.6"`."""
    whole, fraction = divmod(abs(micro), MICRO)
    sign = "-" if micro < 0 else ""
    if fraction == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:06}".rstrip("0")


def format_units(values: Iterable[int], digits: int) -> list[str]:
    """The same for many values of 0 or more, in units of 10**-digits, of which there are 6 at most."""
    if digits == 0:
        return [str(value) for value in values]
    unit = 10**digits
    if digits <= 3:
        fractions = _FRACTIONS[digits]
        return [f"{value // unit}{fractions[value % unit]}" for value in values]
    fractions, first, last, low = _FRACTIONS[3], _FIRST_THREE, _LAST[digits - 3], 10 ** (digits - 3)
    return [
        f"{value // unit}{first[value // low % 1000]}{last[value % low]}"
        if value % low
        else f"{value // unit}{fractions[value // low % 1000]}"
        for value in values
    ]


def _from_text(text: str) -> int:
    found = _PLAIN.fullmatch(text)
    if found is None:
        raise ValueError(
            'Write a decimal in plain digits, such as "295005.6", without exponent or separators.'
        )
    whole, fraction = found[1], found[2] or ""
    if len(whole) > INTEGER_DIGITS:
        raise _too_large()
    if len(fraction) > FRACTION_DIGITS:
        raise _too_fine()
    micro = int(whole) * MICRO + int(fraction.ljust(FRACTION_DIGITS, "0"))
    return -micro if text[0] == "-" else micro


def _from_decimal(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError("A decimal must be a finite number.")
    if value.adjusted() >= INTEGER_DIGITS:
        raise _too_large()
    if -exponent > FRACTION_DIGITS:
        raise _too_fine()
    return int(value.scaleb(FRACTION_DIGITS))


def _too_large() -> ValueError:
    return ValueError(f"A decimal has at most {INTEGER_DIGITS} digits before the point.")


def _too_fine() -> ValueError:
    return ValueError(
        f"A decimal has at most {FRACTION_DIGITS} digits after the point; it is never rounded for you."
    )
