"""Exact decimals: kWh outside, whole micro-kWh inside, so that sums are exact on every database."""

import re
from decimal import Decimal

INTEGER_DIGITS = 12
FRACTION_DIGITS = 6
MICRO = 1_000_000

_TOO_LARGE = 1_000_000_000_000
_PLAIN = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?")
# From here on doubles lie further apart than a millionth, and only 15 digits are sure to survive in one.
_COARSE_FLOAT = 2.0**33
_SURE_FLOAT_DIGITS = 15


def to_micro(value: object) -> int:
    """Millionths of a decimal given as str, int, float or Decimal: `to_micro("295005.6") == 295_005_600_000`.

    At most 12 integer and 6 fraction digits, counted as written; more is an error, never rounded. A string is
    plain (`-12.5`; no exponent, no sign +, digits on both sides of a point). A float stands for the shortest
    decimal that reads back as it, and is refused where it may have been rounded before it came here.
    Raises ValueError with a sentence.
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
        return _from_float(value)
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


def _from_float(value: float) -> int:
    decimal = Decimal(repr(value))
    micro = _from_decimal(decimal)
    if abs(value) >= _COARSE_FLOAT and len(decimal.as_tuple().digits) > _SURE_FLOAT_DIGITS:
        raise ValueError("A number of this size has lost digits on the way: send it as a string.")
    return micro


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
