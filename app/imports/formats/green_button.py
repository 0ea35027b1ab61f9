"""Green Button: ESPI usage in an Atom feed, whose entries are tied together by links."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from app.imports.formats.assembly import Assembly
from app.imports.formats.cells import Kind
from app.imports.formats.day_records import DayRecords
from app.imports.formats.interface import MeterKey, Options, refused
from app.imports.formats.meters import InvalidMeter, of_file, read
from app.imports.formats.values import BLANK, ODD
from app.imports.formats.xml_events import Element, elements
from app.imports.profiles.catalogue import GREEN_BUTTON
from app.meters.units import converter, factor
from app.readings.enums import ReadingChannel

_HALF_HOUR: Final = 1800
_UNITS: Final = {"72": "wh", "42": "m3", "119": "ft3"}
_CHANNELS: Final = {"1": ReadingChannel.IMPORT, "19": ReadingChannel.EXPORT}
_MEASURED: Final = frozenset(("0", "14", "17", "18", "19"))
"""Codes of ReadingQuality: valid, raw, validated, verified, revenue."""
MAX_ENTRIES: Final = 100_000
MAX_RUN: Final = 100_000
ELEMENTS_OF_STEP: Final = 64
"""Intervals of a block; a year of five minutes has as many."""
_MAX_VALUES: Final = 100
_DESCRIBED: Final = ("UsagePoint", "MeterReading", "ReadingType")
_POWER: Final = re.compile(r"-?[0-9]{1,2}")
_NO_COLUMN: Final = -1


class _Interval(NamedTuple):
    start: int
    duration: int
    amount: int
    is_estimated: bool
    line: int


@dataclass
class _Half:
    """The part of a half-hour that its intervals cover so far."""

    line: int
    seconds: int = 0
    amount: int = 0
    is_estimated: bool = False


@dataclass
class _Entry:
    """An entry of the feed before its blocks: its links and the values of its elements."""

    kind: str = ""
    title: str = ""
    own: str = ""
    up: str = ""
    related: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class _Series:
    """The meter and the reading type of interval blocks; a sentence where they cannot be told."""

    meter: MeterKey
    kind: Kind
    problem: tuple[str, str] | None = None


class GreenButtonSource:
    """Reads the feed twice: first what describes readings, which may stand behind them, then the readings."""

    def __init__(
        self, chunks: Callable[[], Iterable[bytes]], name: str | None, options: Options, assembly: Assembly
    ) -> None:
        self.profile = GREEN_BUTTON.name
        self._chunks = chunks
        self._name = name
        self._options = options
        self._assembly = assembly
        self._records = DayRecords(assembly, options, meter_is_number=False)
        self._entries = list(_described(elements(chunks(), name), name))
        if not any(one.kind == "ReadingType" for one in self._entries):
            raise refused(
                "UNKNOWN_FORMAT",
                "This XML is no Green Button feed: looked for entries with ReadingType and IntervalBlock.",
                1,
                name,
            )
        self._known: dict[str, _Series] = {}
        self.detection = (
            f"Profile green-button, because {GREEN_BUTTON.marks}: times in UTC, units of its reading types."
        )

    def steps(self) -> Iterator[None]:
        self._assembly.holds = False
        up, inside = "", False
        values: dict[str, str] = {}
        run: list[_Interval] = []
        for number, element in enumerate(elements(self._chunks(), self._name)):
            name = element.name
            if not element.is_end:
                if name == "link" and element.attributes.get("rel") == "up":
                    up = element.attributes.get("href", "")
                elif name == "IntervalReading":
                    inside, values = True, {}
            elif name == "IntervalReading":
                inside = False
                self._assembly.counts.rows += 1
                if (found := self._interval(values, element.line)) is not None:
                    run.append(found)
            elif inside:
                values[name] = element.text.strip()
            elif name == "IntervalBlock" or len(run) >= MAX_RUN:
                self._add(self._of(up), run)
                run = []
            if not number % ELEMENTS_OF_STEP:
                yield
        yield

    def _interval(self, values: dict[str, str], line: int) -> _Interval | None:
        start, duration = values.get("start", ""), values.get("duration", "1800")
        if not (_is_number(start) and _is_number(duration)):
            self._assembly.refuse(line, "BAD_DATE", "An interval has a start and a duration in seconds.")
            return None
        cell = values.get("value", "")
        amount = self._records.cells.amounts[cell]
        if amount == ODD:
            amount = self._records.cells.odd(line, _NO_COLUMN, cell)
        if amount == BLANK:
            return None
        return _Interval(int(start), int(duration), amount, values.get("quality", "0") not in _MEASURED, line)

    def _add(self, series: _Series, run: list[_Interval]) -> None:
        """Adds a block: half-hours, or shorter intervals that make up half-hours."""
        if series.problem is not None:
            code, sentence = series.problem
            for one in run:
                self._assembly.refuse(one.line, code, sentence)
            return
        halves: dict[int, _Half] = {}
        for one in run:
            if not one.duration or _HALF_HOUR % one.duration or one.start % one.duration:
                self._assembly.refuse(
                    one.line,
                    "INVALID",
                    f"An interval is a half-hour or an even part of it, got {one.duration} seconds at {one.start}.",
                )
                continue
            amount = self._records.cells.kwh(one.line, _NO_COLUMN, one.amount, series.kind)
            half = halves.setdefault(one.start // _HALF_HOUR, _Half(one.line))
            if half.seconds + one.duration > _HALF_HOUR:
                self._assembly.refuse(one.line, "DUPLICATE", f"The interval at {one.start} is given twice.")
                continue
            half.seconds += one.duration
            half.amount = BLANK if min(amount, half.amount) < 0 else half.amount + amount
            half.is_estimated = half.is_estimated or one.is_estimated
        meter = self._assembly.meters.add(series.meter)
        first, amounts, lines, estimated = 0, list[int](), list[int](), 0
        for half_hour in sorted(halves):
            half = halves[half_hour]
            if lines and half_hour != first + len(lines):
                self._records.add(meter, series.kind, first, amounts, estimated, lines[0], (lines, None))
                amounts, lines, estimated = [], [], 0
            if not lines:
                first = half_hour
            estimated |= int(half.is_estimated) << len(lines)
            # A half-hour of which a part is missing is missing.
            amounts.append(half.amount if half.seconds == _HALF_HOUR else BLANK)
            lines.append(half.line)
        if lines:
            self._records.add(meter, series.kind, first, amounts, estimated, lines[0], (lines, None))

    def _of(self, up: str) -> _Series:
        if up not in self._known:
            self._known[up] = self._found(up)
        return self._known[up]

    def _found(self, up: str) -> _Series:
        """The series of blocks with this link to what they belong to."""
        reading = self._entry("MeterReading", up)
        point = self._entry("UsagePoint", reading.up if reading is not None else up)
        types = [one for one in self._entries if one.kind == "ReadingType"]
        related = [one for one in types if reading is not None and one.own in reading.related]
        meter = self._meter(point)
        if len(related or types) != 1:
            return _Series(meter, Kind(), ("INVALID", "No link tells the ReadingType of this block."))
        values = (related or types)[0].values
        unit, direction = values.get("uom", "72"), values.get("flowDirection", "1")
        power = values.get("powerOfTenMultiplier") or "0"
        if unit not in _UNITS:
            return _Series(
                meter, Kind(), ("UNKNOWN_UNIT", f"There is no unit {unit[:10]} that is known here: 72 is Wh.")
            )
        if direction not in _CHANNELS or not _POWER.fullmatch(power):
            return _Series(meter, Kind(), ("INVALID", "A flow direction is 1 (import) or 19 (export)."))
        try:
            one = factor(_UNITS[unit], self._options.calorific_value)
        except ValueError as error:
            raise refused("BAD_VALUE", f"calorificValue: {error}") from None
        channel = (
            self._options.channel if direction == "1" and self._options.channel else _CHANNELS[direction]
        )
        return _Series(meter, Kind(channel.code, converter(one * Fraction(10) ** int(power))))

    def _entry(self, kind: str, up: str) -> _Entry | None:
        entries = [one for one in self._entries if one.kind == kind]
        linked = [one for one in entries if one.own and (up == one.own or up.startswith(one.own + "/"))]
        linked = linked or [one for one in entries if up and up in one.related]
        return max(linked, key=lambda one: len(one.own), default=entries[0] if len(entries) == 1 else None)

    def _meter(self, point: _Entry | None) -> MeterKey:
        """The number in a usage point's title or address, the caller's meter, or the title as a serial number."""
        named = of_file(self._options.meter, self._options.file_name)
        if point is None or self._options.meter is not None:
            return named
        texts = [point.title, point.own.rpartition("/")[2]]
        for text in texts:
            try:
                return read(text, is_serial=False, is_number=True)
            except InvalidMeter:
                continue
        if named.kind != "none":
            return named
        serial = next((text for text in texts if text), "")
        return MeterKey("serial", serial[:100]) if serial else named


def _described(found: Iterable[Element], name: str | None) -> Iterator[_Entry]:
    """The entries that describe readings."""
    entry = _Entry()
    count = 0
    for element in found:
        if not element.is_end:
            if element.name == "entry":
                entry = _Entry()
            elif element.name == "link":
                _link(entry, element.attributes.get("rel", ""), element.attributes.get("href", ""))
            elif element.name in _DESCRIBED:
                entry.kind = element.name
        elif element.name == "title":
            entry.title = element.text.strip()
        elif element.name == "entry":
            if entry.kind:
                count += 1
                if count > MAX_ENTRIES:
                    raise refused(
                        "LIMIT_REACHED",
                        f"A feed has at most {MAX_ENTRIES:,} meters and types.",
                        element.line,
                        name,
                    )
                yield entry
            entry = _Entry()
        elif entry.kind == "ReadingType" and len(entry.values) < _MAX_VALUES:
            entry.values[element.name] = element.text.strip()


def _link(entry: _Entry, rel: str, href: str) -> None:
    if rel == "self":
        entry.own = href
    elif rel == "up":
        entry.up = href
    elif rel == "related" and len(entry.related) < _MAX_VALUES:
        entry.related.append(href)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12
