"""Finds a layout's columns in a header, with the caller's names where they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.imports.formats.quantities import plain, quantity, unit
from app.imports.profiles.header import Header, Run
from app.imports.profiles.layouts import Days, Layout, Names, Rows, Series
from app.readings.enums import ReadingChannel

ROLES: Final[dict[str, Names]] = {
    "meter": ("meter", "mpan", "mprn", "meternumber", "meterid", "number", "customer", "site"),
    "serial": ("serial", "serialnumber", "meterserial", "msn"),
    "stamp": ("timestamp", "stamp", "start", "startat", "datetime", "from"),
    "end": ("end", "endat", "to", "intervalend"),
    "date": ("date", "day"),
    "time": ("time",),
    "period": ("period", "settlementperiod"),
    "value": ("value", "consumption", "kwh", "reading", "energy", "import"),
    "export": ("export",),
    "generation": ("generation",),
    "controlled_load": ("controlledload",),
    "first": ("first", "firstvalue", "values"),
    "quality": ("quality", "flag", "estimated", "status"),
    "unit": ("unit", "units"),
    "channel": ("channel", "category", "quantity", "type"),
}
"""The roles that the caller may name columns for, and their names."""

_SUFFIXES: Final = ("mwh", "kwh", "wh", "m3", "ft3", "hcf")


class UnknownColumn(ValueError):
    """The caller names a role or a header that is not there; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The places of what both kinds of tables have; None where there is none."""

    meter: int | None
    is_serial: bool
    row_flag: int | None
    unit: int | None
    quantity: int | None
    header_unit: str | None
    width: int


@dataclass(frozen=True, kw_only=True)
class DayColumns(Columns):
    date: int
    values: Run
    flags: Run | None


@dataclass(frozen=True, kw_only=True)
class RowColumns(Columns):
    """`values`: the columns whose sum goes to a channel, None for the default one. `ends`: stamps are ends."""

    stamp: int | None
    date: int | None
    time: int | None
    period: int | None
    values: tuple[tuple[ReadingChannel | None, tuple[int, ...]], ...]
    ends: bool


def resolve(
    layout: Layout, header: Header, given: Mapping[str, str], *, needs_meter: bool = True
) -> DayColumns | RowColumns | None:
    """The layout's columns; None if one that it needs is missing. Raises UnknownColumn."""
    named = _named(header, given)
    if any(header.find(names) is None for names in layout.needs):
        return None
    meter = named.get("meter", None if "serial" in named else header.find(layout.meter))
    is_serial = meter is None
    if meter is None:
        meter = named.get("serial", header.find(layout.serial))
    if meter is None and needs_meter and (layout.meter or layout.serial):
        return None
    if isinstance(layout, Days):
        return _days(layout, header, named, meter, is_serial)
    return _rows(layout, header, named, meter, is_serial) if isinstance(layout, Rows) else None


def _days(
    layout: Days, header: Header, named: dict[str, int], meter: int | None, is_serial: bool
) -> DayColumns | None:
    date = named.get("date", header.find(layout.date))
    found = header.series(layout.values)
    if "first" in named:
        rest = header.width - named["first"]
        run = Run(named["first"], 1, 50 if rest >= 50 and found and found[0].count == 50 else 48)
        found = (run, None) if rest >= run.count else None
    if date is None or found is None:
        return None
    values, flags = found
    taken = {*range(values.first, values.stop), *(range(flags.first, flags.stop) if flags else ())}
    return DayColumns(
        meter=meter,
        is_serial=is_serial,
        date=date,
        values=values,
        flags=flags,
        header_unit=None,
        width=header.width,
        **_rest(layout, header, named, taken | {at for at in (meter, date) if at is not None}),
    )


def _rows(
    layout: Rows, header: Header, named: dict[str, int], meter: int | None, is_serial: bool
) -> RowColumns | None:
    stamp = named.get("end", named.get("stamp", header.find(layout.stamp)))
    date = named.get("date", header.find(layout.date))
    time = named.get("time", header.find(layout.time))
    period = named.get("period", header.find(layout.period))
    end = header.find(layout.end) if stamp is None and date is None else None
    stamp = end if end is not None else stamp
    if "date" in named or (stamp is not None and stamp == time and date is not None):
        stamp = None
    value = named.get("value", header.find(layout.value))
    extra = _channels(layout, header, named, value)
    if (stamp is None and (date is None or (time is None and period is None))) or (
        value is None and not extra
    ):
        return None
    if header.series(Series("any")) is not None:
        return None
    own: list[tuple[ReadingChannel | None, tuple[int, ...]]] = []
    if value is not None:
        own.append((None, (value,)))
    imports = tuple(at for channel, at in extra if channel is ReadingChannel.IMPORT)
    if imports:
        own = [(ReadingChannel.IMPORT, (*(one for _, ats in own for one in ats), *imports))]
    others = [(channel, (at,)) for channel, at in extra if channel is not ReadingChannel.IMPORT]
    first = value if value is not None else extra[0][1]
    taken = {one for one in (meter, stamp, date, time, period, value) if one is not None}
    return RowColumns(
        meter=meter,
        is_serial=is_serial,
        stamp=stamp,
        date=date,
        time=time,
        period=period,
        values=(*own, *others),
        ends=layout.ends or "end" in named or end is not None,
        header_unit=_unit_of(header.names[first]),
        width=header.width,
        **_rest(layout, header, named, taken),
    )


def _channels(
    layout: Rows, header: Header, named: dict[str, int], value: int | None
) -> list[tuple[ReadingChannel, int]]:
    """Columns of export, generation and controlled load beside that of the value."""
    found = [
        (channel, named[role])
        for role, channel in (
            ("export", ReadingChannel.EXPORT),
            ("generation", ReadingChannel.GENERATION),
            ("controlled_load", ReadingChannel.IMPORT),
        )
        if role in named
    ]
    if layout.strict or found:
        return found
    for at, name in enumerate(header.names):
        bare = _bare(name)
        kind = quantity(bare)
        if at == value or kind is None or kind.channel is None or at in named.values():
            continue
        # A second column of consumption is the same energy once more; controlled load is another.
        if kind.channel is not ReadingChannel.IMPORT or bare in ("controlledload", "cl"):
            found.append((kind.channel, at))
    return found


def _rest(layout: Layout, header: Header, named: dict[str, int], taken: set[int]) -> dict[str, int | None]:
    places = {}
    for key, role, names in (
        ("row_flag", "quality", layout.row_flag),
        ("unit", "unit", layout.unit_column),
        ("quantity", "channel", layout.quantity),
    ):
        at = named.get(role)
        if at is None:
            at = header.find(names)
            at = None if at in taken else at
        places[key] = at
        taken = taken | ({at} if at is not None else set())
    return places


def _named(header: Header, given: Mapping[str, str]) -> dict[str, int]:
    named = {}
    for role, text in given.items():
        known = next((name for name, names in ROLES.items() if role == name or plain(role) in names), None)
        if known is None:
            raise UnknownColumn(f'columns: there is no role "{role[:40]}"; the roles are {", ".join(ROLES)}.')
        at = header.find((plain(text),))
        if at is None:
            raise UnknownColumn(f'columns: there is no header "{text[:60]}" for {role[:40]}.')
        named[known] = at
    return named


def _unit_of(name: str) -> str | None:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return unit(suffix)
    return None


def _bare(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name
