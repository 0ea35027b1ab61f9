"""Units and quantities: what a file measures, in what, and the channel that it goes to."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final, NamedTuple

from app.readings.enums import ReadingChannel

CALORIFIC_VALUE: Final = "39.5"
"""MJ/m³, where neither the profile nor the caller knows better."""

_CORRECTION: Final = Fraction("1.02264")
_MJ_PER_KWH: Final = Fraction("3.6")
_CUBIC_METRES: Final = {"m3": Fraction(1), "ft3": Fraction("0.0283168"), "hcf": Fraction("2.83168")}
_ENERGY: Final = {"kwh": Fraction(1), "wh": Fraction(1, 1000), "mwh": Fraction(1000)}
_UNITS: Final = {
    **dict.fromkeys(("kwh", "kwhs", "kilowatthours", "kw/h", "kw.h", "kw-h"), "kwh"),
    **dict.fromkeys(("wh", "watthours"), "wh"),
    **dict.fromkeys(("mwh", "megawatthours"), "mwh"),
    **dict.fromkeys(("m3", "cubicmetres", "cubicmeters", "m^3", "cum", "scm", "metric"), "m3"),
    **dict.fromkeys(("ft3", "cubicfeet", "cf", "cuft", "ft^3", "scf"), "ft3"),
    **dict.fromkeys(("hcf", "ccf", "hundredcubicfeet", "100ft3", "100cf", "imperial", "hcuft"), "hcf"),
}
_FILTERED: Final = re.compile(
    r".*(kvar|kvah|kva|reactive|lagging|leading).*|lag|lead|varh?|vah?|r[ie]|pf|powerfactor|k?w|max.*demand|demand|md"
)
_NUMBER: Final = re.compile(r"[0-9]+$")
_IMPORT: Final = frozenset(
    (
        "ai", "import", "activeimport", "active", "activeenergy", "activepower",
        "consumption", "gc", "generalconsumption", "general", "cl",
        "controlledload", "kwhimport", "importkwh", "kwhi", "del", "delivered", "gas", "electricity", "used", "usage",
    )
)  # fmt: skip
_EXPORT: Final = frozenset(
    ("ae", "export", "activeexport", "kwhexport", "exportkwh", "kwhe", "rec", "feedin", "exported")
)
_GENERATION: Final = frozenset(("gg", "generation", "grossgeneration", "generated", "solar", "pv"))


class Quantity(NamedTuple):
    """The meaning of a row's unit or quantity: a channel, a unit, or the reason for which it is left out."""

    channel: ReadingChannel | None = None
    unit: str | None = None
    filtered: str | None = None


def quantity(text: str) -> Quantity | None:
    """The meaning of a unit, a quantity or a channel as files write it; None if it is unknown."""
    name = plain(text)
    if name in _UNITS:
        return Quantity(unit=_UNITS[name])
    # AI1 is the first of several meters' AI.
    forms = (name, _NUMBER.sub("", name), name.removesuffix("kwh"), name.removeprefix("kwh"))
    for form in forms:
        for names, channel in (
            (_IMPORT, ReadingChannel.IMPORT),
            (_EXPORT, ReadingChannel.EXPORT),
            (_GENERATION, ReadingChannel.GENERATION),
        ):
            if form in names:
                return Quantity(channel=channel)
    if _FILTERED.fullmatch(forms[1]):
        return Quantity(filtered=text.strip()[:20])
    return None


def unit(text: str) -> str | None:
    """The name of a unit as `factor` takes it; None if it is unknown."""
    return _UNITS.get(plain(text))


def factor(unit: str, calorific_value: str | None = None) -> Fraction:
    """kWh in one of a unit. Gas: volume × 1.02264 × calorific value / 3.6.

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


def plain(text: str) -> str:
    """A name without case, spaces and punctuation, for comparison: `Consumption (m³)` is `consumptionm3`."""
    return re.sub(r"[\s_().,\-\[\]'\"#/\ufeff]+", "", text.lower().replace("³", "3"))
