"""Half-hours as columns: the texts of many are converted together, by a few calls for all of them.

A conversion accepts the usual forms alone, and of these exactly the ones that `clock.parse_utc` and `to_micro` accept.
It raises ValueError for a column with anything else in it, which the caller then takes text by text.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice
from operator import lt
from typing import Final, NamedTuple

from app.core import clock
from app.core.decimals import MICRO
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingQuality
from app.readings.packing import ALL, BITS, SLOTS, Day, pack

_DATE_CHARACTERS: Final = 10
_ESTIMATED: Final = ReadingQuality.ESTIMATED.name
_QUALITIES: Final = tuple(ReadingQuality.__members__)
# Digits become 0, and what no plain decimal has becomes x.
_SHAPE: Final = bytes(
    ord("0") if character in b"0123456789" else character if character in b".," else ord("x")
    for character in range(256)
)
# No digit before or behind the point, more than 9 digits before it, more than 6 behind it.
_UNUSUAL: Final = (b"x", b",,", b",.", b".,", b"0" * 10, b".0000000")


class Columns(NamedTuple):
    """Starts of half-hours, counted from 1970, their millionths of a kWh, and whether each is estimated."""

    starts: list[int]
    amounts: list[int]
    estimated: list[bool]

    def part(self, first: int, end: int) -> "Columns":
        return Columns(self.starts[first:end], self.amounts[first:end], self.estimated[first:end])

    def extend(self, more: "Columns") -> None:
        self.starts.extend(more.starts)
        self.amounts.extend(more.amounts)
        self.estimated.extend(more.estimated)


class StartTexts:
    """Converts the starts of half-hours, and remembers the dates and times that it has met."""

    def __init__(self) -> None:
        self._dates = _Dates()
        self._times = _Times()

    def half_hours(self, texts: Sequence[str]) -> list[int]:
        """The half-hours, counted from 1970, that begin at these instants."""
        dates, times = self._dates, self._times
        return [dates[text[:_DATE_CHARACTERS]] + times[text[_DATE_CHARACTERS:]] for text in texts]


class _Dates(dict[str, int]):
    """The half-hour that begins a date."""

    def __missing__(self, date: str) -> int:
        self[date] = half_hour = clock.to_ms(clock.parse_utc(f"{date}T00:00Z")) // HALF_HOUR_MS
        return half_hour


class _Times(dict[str, int]):
    """The half-hour of the day that begins at a time, which is the rest of an instant behind its date."""

    def __missing__(self, time: str) -> int:
        half_hour, rest = divmod(clock.to_ms(clock.parse_utc(f"1970-01-01{time}")), HALF_HOUR_MS)
        if rest:
            raise ValueError("This is not the start of a half-hour.")
        self[time] = half_hour
        return half_hour


def micro_amounts(texts: Sequence[str]) -> list[int]:
    """The millionths of decimals of at most 9 integer and 6 fraction digits, none of them negative."""
    shape = f",{','.join(texts)},".encode().translate(_SHAPE)
    if any(unusual in shape for unusual in _UNUSUAL):
        raise ValueError("This is not a plain decimal.")
    # Both roundings together are off by less than 10**15 * 2**-52, a quarter, so that the nearest integer is exact.
    return [round(amount * MICRO) for amount in map(float, texts)]


def are_estimated(qualities: Sequence[str | None], not_given: str | None) -> list[bool]:
    """Whether each quality is ESTIMATED; one that is not given is ACTUAL."""
    kinds = set(qualities)
    if not kinds <= {*_QUALITIES, not_given}:
        raise ValueError("This is not a quality.")
    if _ESTIMATED not in kinds:
        return [False] * len(qualities)
    return [quality == _ESTIMATED for quality in qualities]


def days_of(
    starts: Iterable[int], amounts: Iterable[int], estimated: Iterable[bool]
) -> Iterator[tuple[int, Day]]:
    """Half-hours, counted from 1970, by their days in order. Raises ValueError if one is given twice."""
    columns = Columns(list(starts), list(amounts), list(estimated))
    if not _ascends(columns.starts):
        columns = _sorted(columns)
        if not _ascends(columns.starts):
            raise ValueError("A half-hour is given twice.")
    return _days(columns)


def packed_days(columns: Columns) -> dict[int, bytes]:
    """Packed days of half-hours, each of which is given once."""
    return {day: pack(half_hours) for day, half_hours in days_of(*columns)}


def _ascends(starts: Sequence[int]) -> bool:
    return all(map(lt, starts, islice(starts, 1, None)))


def _sorted(columns: Columns) -> Columns:
    starts, amounts, estimated = columns
    order = sorted(range(len(starts)), key=starts.__getitem__)
    return Columns(
        [starts[at] for at in order], [amounts[at] for at in order], [estimated[at] for at in order]
    )


def _days(columns: Columns) -> Iterator[tuple[int, Day]]:
    starts, amounts, estimated = columns
    is_any_estimated = True in estimated
    at, count = 0, len(starts)
    while at < count:
        day = starts[at] // SLOTS
        end = bisect_left(starts, (day + 1) * SLOTS, at, min(at + SLOTS, count))
        if end - at == SLOTS:
            flags = estimated[at:end] if is_any_estimated else ()
            yield day, Day(ALL, sum(compress(BITS, flags)), amounts[at:end])
        else:
            slots = [start - day * SLOTS for start in starts[at:end]]
            bits = [BITS[slot] for slot in slots]
            values = [0] * SLOTS
            for slot, amount in zip(slots, amounts[at:end], strict=True):
                values[slot] = amount
            yield day, Day(sum(bits), sum(compress(bits, estimated[at:end])), values)
        at = end
