"""Units and quantities: what a file measures, in what, and the channel that it goes to."""

import re
from typing import Final, NamedTuple

from app.readings.enums import ReadingChannel

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
    """The name of a unit as `app.meters.units` takes it; None if it is unknown."""
    return _UNITS.get(plain(text))


def plain(text: str) -> str:
    """A name without case, spaces and punctuation, for comparison: `Consumption (m³)` is `consumptionm3`."""
    return re.sub(r"[\s_().,\-\[\]'\"#/\ufeff]+", "", text.lower().replace("³", "3"))
