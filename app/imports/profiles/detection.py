"""Tells a delimited file's profile by its header, and says why."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from app.imports.formats.interface import FileRefused, Options, Zone, refused
from app.imports.formats.tables import Row
from app.imports.profiles.catalogue import GENERIC, PROFILES, TABLES
from app.imports.profiles.columns import DayColumns, RowColumns, UnknownColumn, resolve
from app.imports.profiles.header import Header
from app.imports.profiles.layouts import Layout, Profile
from app.meters.units import CALORIFIC_VALUE

HEADER_LINES: Final = 15
"""Lines among which the header is looked for; the longest preamble known has nine."""
_SHOWN, _SHOWN_LENGTH = 8, 40
_SPOKEN: Final = {"kwh": "kWh", "wh": "Wh", "mwh": "MWh", "m3": "m³", "ft3": "ft³"}


@dataclass(frozen=True)
class Found:
    """A profile with the layout that fits, its columns and the sentence about it."""

    profile: Profile
    layout: Layout
    header: Header
    columns: DayColumns | RowColumns
    why: str


def detect(rows: Iterator[Row], options: Options, file: str | None) -> Found:
    """Finds the header and takes the rows up to it. Raises FileRefused."""
    candidates = [one for one in TABLES if options.profile in (None, one.name)]
    seen: list[Header] = []
    for line, cells in islice(rows, HEADER_LINES):
        header = Header(line, cells)
        seen.append(header)
        fits = _fits(candidates, header, options, file)
        if fits:
            return _only(fits, options, file)
    raise _unknown(seen, candidates, options, file)


def _fits(candidates: list[Profile], header: Header, options: Options, file: str | None) -> list[Found]:
    found = []
    for profile in candidates:
        given = options.columns if profile.name in GENERIC else {}
        needs_meter = options.meter is None or profile.name not in GENERIC
        for layout in profile.layouts:
            try:
                columns = resolve(layout, header, given, needs_meter=needs_meter)
            except UnknownColumn:
                columns = None
            if columns is not None:
                found.append(Found(profile, layout, header, columns, ""))
                break
    named = [one for one in found if one.profile.name not in GENERIC]
    # Columns are named for the profiles that take any, so that these are meant.
    return found if options.columns else named or found


def _only(fits: list[Found], options: Options, file: str | None) -> Found:
    if options.columns:
        fits = [one for one in fits if one.profile.name in GENERIC] or fits
    if len(fits) > 1:
        told = "; ".join(f"{one.profile.name}: {one.profile.marks}" for one in fits)
        raise refused(
            "AMBIGUOUS_FORMAT",
            f"The header in line {fits[0].header.line} fits several profiles. Choose one by profile. {told}.",
            fits[0].header.line,
            file,
        )
    [found] = fits
    return Found(found.profile, found.layout, found.header, found.columns, _why(found, options))


def _why(found: Found, options: Options) -> str:
    columns, layout = found.columns, found.layout
    chosen = "as asked for" if options.profile is not None else f"because {found.profile.marks}"
    if isinstance(columns, DayColumns):
        labels = found.header.cells
        held = (
            f"a row per day with {columns.values.count} half-hours from column "
            f'"{labels[columns.values.first][:40]}" on'
            + (", each with a flag" if columns.flags is not None else "")
        )
    else:
        held = "a row per reading"
    zone = options.timezone or zone_of(found)
    times = {
        None: "times with their offsets",
        "utc": "times in UTC",
        "london": "UK local time by the clock",
        "settlement": "settlement periods of the UK local day",
    }[zone]
    unit = options.unit or columns.header_unit or layout.unit
    said = (
        f"Profile {found.profile.name}, {chosen}: the header is in line {found.header.line}, {held}, {times}"
    )
    units = (
        f'units as in column "{found.header.cells[columns.unit][:40]}"'
        if columns.unit is not None
        else f"in {_SPOKEN.get(unit, unit)}"
    )
    return f"{said}, {units}."


def volumes(options: Options) -> str:
    """The sentence about volumes of gas."""
    return (
        f"Volumes of gas are converted to kWh with a calorific value of "
        f"{options.calorific_value or CALORIFIC_VALUE} MJ/m³ "
        "(kWh = m³ × 1.02264 × calorific value / 3.6)."
    )


def zone_of(found: Found) -> Zone | None:
    """The zone of the layout, or UTC where the header of the times says so."""
    columns = found.columns
    at = columns.date
    if isinstance(columns, RowColumns) and columns.stamp is not None:
        at = columns.stamp
    if at is not None and any(mark in found.header.names[at] for mark in ("utc", "gmt")):
        return "utc"
    return found.layout.zone


def _unknown(
    seen: list[Header], candidates: list[Profile], options: Options, file: str | None
) -> FileRefused:
    best = max(seen, key=lambda one: sum(1 for name in one.names if name), default=None)
    if best is None:
        return refused("UNKNOWN_FORMAT", "The file has no lines.", 0, file)
    if options.columns and options.profile in (None, *GENERIC):
        try:
            for profile in candidates:
                if profile.name in GENERIC:
                    resolve(profile.layouts[0], best, options.columns)
        except UnknownColumn as error:
            return refused("UNKNOWN_FORMAT", f"{error} {_shown(best)}", best.line, file)
    if options.profile is not None:
        wanted = next((one for one in PROFILES if one.name == options.profile), None)
        looked = f"This is not a file of {options.profile}: {wanted.description}" if wanted else ""
        return refused("UNKNOWN_FORMAT", f"{looked} {_shown(best)}", best.line, file)
    return refused(
        "UNKNOWN_FORMAT",
        "No profile fits this file. Looked for: D0036 (ZHV|), NEM12 (100,NEM12), Green Button XML, and in "
        "the first "
        f"{HEADER_LINES} lines a header with a meter, a date and 48 or 50 half-hours, or with a meter, a "
        f"time and a value. "
        f"{_shown(best)} Choose the profile rows or days, and say by columns which header is what, as in "
        'columns={"meter":"MPAN","timestamp":"Read at","value":"kWh"}.',
        best.line,
        file,
    )


def _shown(header: Header) -> str:
    names = [f'"{cell[:_SHOWN_LENGTH]}"' for cell in header.cells[:_SHOWN]]
    more = f" and {header.width - _SHOWN} more" if header.width > _SHOWN else ""
    return f"Found in line {header.line}: {', '.join(names)}{more}."
