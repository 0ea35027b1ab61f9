"""Values of a source to exact millionths of a kWh; what is no reading is missing, with the reason in a sentence."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from operator import lt, sub
from typing import Any, Final

from app.core import clock
from app.core.decimals import MICRO, format_micro
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.shapes import unreadable
from app.feeds.source import MissingPeriod, Setting, SettingType, Window
from app.meters.enums import MeterType
from app.meters.sentinels import LOWEST_SENTINEL, SENTINELS
from app.meters.units import converter, factor
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

NO_VALUE: Final = "The source has no value for this half-hour."
NO_NUMBER: Final = "The source gave something else than a number for this half-hour."
NEGATIVE: Final = "The source gave a negative value for this half-hour."
TWO_VALUES: Final = "The source gave different values for this half-hour."

SMART_METER_MOST: Final = {MeterType.ELECTRICITY: 60 * MICRO, MeterType.GAS: 400 * MICRO}
"""Millionths of a kWh in half an hour beyond which no smart meter counts: three phases of 100 A give 36 kWh, and the
largest gas meter of homes passes 16 m³ an hour, 90 kWh."""
ANY_METER_MOST: Final = 1_000_000 * MICRO
"""The bound for meters of any size: 2 GW."""

CALORIFIC_VALUE: Final = Setting(
    "calorificValue",
    "MJ/m³ of the gas, 39.5 by default; a bill has it.",
    re.compile(r"[2-5][0-9](\.[0-9]{1,6})?"),
    SettingType.METER,
)
"""The setting of kinds that give gas by its volume."""

_LONGEST_NUMBER: Final = 40


class Unit:
    """The conversion of a source's unit (a name of `app.meters.units`) to kWh, and the bound of a half-hour."""

    def __init__(
        self, name: str = "kwh", calorific_value: str | None = None, most: int = ANY_METER_MOST
    ) -> None:
        """Raises ValueError with a sentence for an impossible calorific value."""
        in_kwh = factor(name, calorific_value)
        self.name = name
        self.most = most
        self.is_kwh = in_kwh == 1
        self.convert = converter(in_kwh)


def meter_unit(name: str, settings: Mapping[str, str], most: int) -> Unit:
    """The unit of a meter, by the calorific value of its settings. Raises SourceFailure for an impossible one."""
    try:
        return Unit(name, settings.get(CALORIFIC_VALUE.name), most)
    except ValueError as error:
        raise SourceFailure(Meaning.METER, f"settings.calorificValue of the meter: {error}") from None


class Amounts:
    """The half-hours of one channel of one device in a window, as they come from a source.

    Half-hours outside the window are left out, as sources give more than they are asked for. A half-hour that comes
    twice with different values is missing, since nothing tells which is right.
    """

    def __init__(self, window: Window, channel: ReadingChannel, unit: Unit) -> None:
        self.first = clock.to_ms(window.start) // HALF_HOUR_MS
        self.after = clock.to_ms(window.end) // HALF_HOUR_MS
        self.channel = channel
        self.unit = unit
        self.values: dict[int, int] = {}
        self.estimated: set[int] = set()
        self.lost: dict[int, str] = {}

    def put_all(self, starts: Sequence[int], values: Sequence[Any]) -> None:
        """Adds actual values of half-hours, counted from 1970: fast for ascending plain numbers of new ones."""
        if all(map(lt, starts, starts[1:])):
            inside = slice(bisect_left(starts, self.first), bisect_left(starts, self.after))
            starts, values = starts[inside], values[inside]
            is_new = self.values.keys().isdisjoint(starts) and self.lost.keys().isdisjoint(starts)
            if starts and is_new and (micro := self._plain(values)) is not None:
                self.values.update(zip(starts, micro, strict=True))
                return
        for at, value in zip(starts, values, strict=True):
            self.put(at, value)

    def put(self, at: int, value: Any, *parts: Any, is_estimated: bool = False) -> None:
        """Adds a value, and `parts` to it, which a meter of several elements has. Raises SourceFailure for rubbish."""
        if not self.first <= at < self.after:
            return
        total = 0
        for one in (value, *parts):
            read = micro_of(one)
            if isinstance(read, str):
                self.lose(at, read)
                return
            total += read
        amount = total if self.unit.is_kwh else self.unit.convert(total)
        if amount > self.unit.most:
            self.lose(at, _too_much(total, self.unit.name))
        elif at in self.lost and self.lost[at] == TWO_VALUES:
            return
        elif self.values.setdefault(at, amount) != amount:
            del self.values[at]
            self.lose(at, TWO_VALUES)
        else:
            self.lost.pop(at, None)
            if is_estimated:
                self.estimated.add(at)

    def lose(self, at: int, cause: str) -> None:
        """Notes the reason for which a half-hour is missing, unless there is a value."""
        if self.first <= at < self.after and at not in self.values:
            self.lost.setdefault(at, cause)

    def add(self, other: "Amounts") -> None:
        """Adds what another device of the same meter has counted, such as the one before an exchange.

        Each device counts a part of a half-hour that both have. Where they have the same value, the source answered
        with the meter's for either.
        """
        for at, amount in other.values.items():
            mine = self.values.get(at)
            self.values[at] = amount if mine is None or mine == amount else mine + amount
        self.estimated |= other.estimated
        self.lost = {at: cause for at, cause in (self.lost | other.lost).items() if at not in self.values}

    def columns(self) -> Columns:
        """The values in ascending order."""
        starts = list(self.values)
        if not all(map(lt, starts, starts[1:])):
            starts.sort()
        flags = [at in self.estimated for at in starts] if self.estimated else [False] * len(starts)
        return Columns(starts, [self.values[at] for at in starts], flags)

    def missing(self) -> list[MissingPeriod]:
        """The half-hours that are missing for a reason, as periods in ascending order."""
        return periods(self.channel, self.lost.items())

    def _plain(self, values: Sequence[Any]) -> list[int] | None:
        """The millionths of values that are all ordinary numbers; else None."""
        if not set(map(type, values)) <= {float, int}:
            return None
        if min(values) < 0 or max(values) * MICRO >= min(LOWEST_SENTINEL, self.unit.most / 20):
            return None
        exact = [value * MICRO for value in values]
        micro = list(map(round, exact))
        if max(map(abs, map(sub, exact, micro))) > 0.25:
            return None
        return micro if self.unit.is_kwh else list(map(self.unit.convert, micro))


def micro_of(value: Any) -> int | str:
    """Millionths of a number of JSON, rounded as a decimal, half to even; or the reason why it is no reading.

    Numbers in strings are read as well. Raises SourceFailure for a list or an object.
    """
    if value is None or value == "":
        return NO_VALUE
    if isinstance(value, list | dict):
        raise unreadable("it has a list or an object where a number belongs")
    if isinstance(value, bool):
        return NO_NUMBER
    written = str(value).strip()
    try:
        number = Decimal(written) if len(written) <= _LONGEST_NUMBER else Decimal("NaN")
    except InvalidOperation:
        return NO_NUMBER
    if not number.is_finite():
        return NO_NUMBER
    if number < 0:
        return NEGATIVE
    if number.adjusted() > 12:
        return f"The source gave {written} for this half-hour, which no meter counts."
    micro = int((number * MICRO).to_integral_value(ROUND_HALF_EVEN)) if number.adjusted() > -30 else 0
    if micro in SENTINELS:
        return f"The source gave {format_micro(micro)} for this half-hour, which stands for no value."
    return micro


def periods(channel: ReadingChannel, lost: Iterable[tuple[int, str]]) -> list[MissingPeriod]:
    """Periods of half-hours that follow each other and are missing for the same reason."""
    found: list[MissingPeriod] = []
    first = after = 0
    last_cause: str | None = None
    for at, cause in [*sorted(lost), (-1, "")]:
        if last_cause is not None and (at != after or cause != last_cause):
            start, end = clock.from_ms(first * HALF_HOUR_MS), clock.from_ms(after * HALF_HOUR_MS)
            found.append(MissingPeriod(channel, start, end, last_cause))
            last_cause = None
        if last_cause is None:
            first, last_cause = at, cause
        after = at + 1
    return found


def _too_much(micro: int, unit: str) -> str:
    shown = "m³" if unit == "m3" else "kWh" if unit == "kwh" else unit
    return (
        f"The source gave {format_micro(micro)} {shown} for half an hour, more than such a meter counts: "
        "it may be in another unit than the source says."
    )
