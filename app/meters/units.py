"""Units of energy and of gas, and their exact conversion to kWh. Gas: kWh = m³ × 1.02264 × calorific value / 3.6."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

CALORIFIC_VALUE: Final = "39.5"
"""MJ/m³, where nobody knows better."""

_CORRECTION: Final = Fraction("1.02264")
_MJ_PER_KWH: Final = Fraction("3.6")
_CUBIC_METRES: Final = {"m3": Fraction(1), "ft3": Fraction("0.0283168"), "hcf": Fraction("2.83168")}
_ENERGY: Final = {"kwh": Fraction(1), "wh": Fraction(1, 1000), "mwh": Fraction(1000)}


def factor(unit: str, calorific_value: str | None = None) -> Fraction:
    """kWh in one of a unit: kwh, wh, mwh, m3, ft3 or hcf.

    Raises ValueError with a sentence for a calorific value that is no number from 20 to 60.
    """
    if unit in _ENERGY:
        return _ENERGY[unit]
    text = calorific_value or CALORIFIC_VALUE
    try:
        value = Decimal(text) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not 20 <= value <= 60:
        raise ValueError(f"A calorific value is 20 to 60 MJ/m³, got {text[:20]}.")
    return _CUBIC_METRES[unit] * _CORRECTION * Fraction(value) / _MJ_PER_KWH


def is_volume(unit: str) -> bool:
    return unit in _CUBIC_METRES


def converter(factor: Fraction) -> Callable[[int], int]:
    """Multiplies millionths, exactly, and rounds half up."""
    above, below = factor.numerator, factor.denominator
    if below == 1:
        return lambda amount: amount * above
    twice = 2 * below
    return lambda amount: (2 * amount * above + below) // twice
