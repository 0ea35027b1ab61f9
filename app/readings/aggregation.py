"""Sums of packed days over calendar buckets.

Only days that a bucket's boundary cuts are decoded; the others give their totals.
"""

from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from app.core.clock import HALF_HOUR, from_ms, to_ms, uk_date
from app.readings.buckets import HALF_HOUR_MS, HOUR_MS, calendar_bucket, widen
from app.readings.enums import Granularity, ReadingQuality
from app.readings.packing import ALL, SLOTS, slots, summary, unpack

CACHED_BUCKETS: Final = 1024
"""Calendar buckets whose bounds are kept; half a megabyte at most."""

PackedDay = tuple[int, bytes]
"""A day, counted from 1970 in UTC, and its packed half-hours."""

_QUALITIES: Final = (ReadingQuality.ACTUAL, ReadingQuality.ESTIMATED)


class Bucket(NamedTuple):
    """The readings of `[start, end)`: their sum, ESTIMATED if any of them is, and the count of missing ones."""

    start: datetime
    end: datetime
    micro_kwh: int
    quality: ReadingQuality
    missing_count: int


class Aggregate(NamedTuple):
    """The buckets of a period that have a reading, in order, and the sums of the period."""

    buckets: list[Bucket]
    micro_kwh: int
    missing_count: int


class _Bounds(NamedTuple):
    """A bucket, and its first half-hour and the one behind its last, counted from 1970."""

    start: datetime
    end: datetime
    low: int
    high: int


def half_hour_of(instant: datetime) -> int:
    """The half-hour that holds an instant, counted from 1970 in UTC."""
    return to_ms(instant) // HALF_HOUR_MS


def count_readings(days: Iterable[PackedDay], start: datetime, end: datetime) -> int:
    """How many half-hours of `[start, end)` the days hold."""
    first, last = half_hour_of(start), half_hour_of(end)
    return sum((summary(packed).present & within(day, first, last)).bit_count() for day, packed in days)


def aggregate(
    days: Iterable[PackedDay], granularity: Granularity, start: datetime, end: datetime, now: datetime
) -> Aggregate:
    """Aggregates the widened `[start, end)` of ascending days.

    `missing_count` of a bucket: its half-hours that are over by now and have no reading; always 0 for HALF_HOUR. The
    period's counts them for every granularity. Raises ValueError as `widen`.
    """
    start, end = widen(start, end, granularity)
    first, last, over = half_hour_of(start), half_hour_of(end), half_hour_of(now)
    if granularity is Granularity.HALF_HOUR:
        return _half_hours(days, first, last, over)
    return _sums(days, granularity, first, last, over)


def _half_hours(days: Iterable[PackedDay], first: int, last: int, over: int) -> Aggregate:
    buckets = []
    total = present_over = 0
    end_at, end = 0, from_ms(0)
    for day, packed in days:
        found = unpack(packed)
        present = found.present & within(day, first, last)
        present_over += (present & within(day, first, over)).bit_count()
        for slot in slots(present):
            at = day * SLOTS + slot
            # Most half-hours begin where the previous one ends, so that one datetime serves both.
            start = end if at == end_at else from_ms(at * HALF_HOUR_MS)
            end_at, end = at + 1, start + HALF_HOUR
            micro = found.amounts[slot]
            total += micro
            buckets.append(Bucket(start, end, micro, _QUALITIES[found.estimated >> slot & 1], 0))
    return Aggregate(buckets, total, _missing(first, last, over, present_over))


def _sums(days: Iterable[PackedDay], granularity: Granularity, first: int, last: int, over: int) -> Aggregate:
    buckets: list[Bucket] = []
    bounds = _Bounds(from_ms(0), from_ms(0), first, first)
    total = micro = count = estimated = present_over = bucket_over = 0
    for day, packed in days:
        begin = day * SLOTS
        low, end = max(begin, first), min(begin + SLOTS, last)
        found = summary(packed)
        amounts = None
        while low < end:
            if low >= bounds.high:
                if count:
                    buckets.append(_bucket(bounds, micro, estimated, bucket_over, over))
                bounds = _bounds(low, granularity)
                micro = count = estimated = bucket_over = 0
            high = min(end, bounds.high)
            if high - low == SLOTS:
                present, part = found.present, found.total
            else:
                amounts = amounts or unpack(packed).amounts
                present = found.present & within(day, low, high)
                part = sum(amounts[low - begin : high - begin])
            if present:
                micro += part
                total += part
                count += present.bit_count()
                estimated |= found.estimated & present
                # The current half-hour may have a reading already, which must not compensate for a missing one.
                at_end = present if begin + SLOTS <= over else present & within(day, low, over)
                bucket_over += at_end.bit_count()
                present_over += at_end.bit_count()
            low = high
    if count:
        buckets.append(_bucket(bounds, micro, estimated, bucket_over, over))
    return Aggregate(buckets, total, _missing(first, last, over, present_over))


def _bucket(bounds: _Bounds, micro: int, estimated: int, present: int, over: int) -> Bucket:
    missing = _missing(bounds.low, bounds.high, over, present)
    return Bucket(bounds.start, bounds.end, micro, _QUALITIES[bool(estimated)], missing)


def _missing(low: int, high: int, over: int, present: int) -> int:
    """How many half-hours of `[low, high)` are over and not present."""
    return max(min(high, over) - low, 0) - present


def within(day: int, low: int, high: int) -> int:
    """The bitmap of a day's half-hours in `[low, high)`."""
    begin = day * SLOTS
    if low <= begin and high >= begin + SLOTS:
        return ALL
    below = (1 << min(max(low - begin, 0), SLOTS)) - 1
    return (1 << min(max(high - begin, 0), SLOTS)) - 1 & ~below


def _bounds(half_hour: int, granularity: Granularity) -> _Bounds:
    if granularity is Granularity.HOUR:
        start = from_ms(half_hour // 2 * HOUR_MS)
        return _Bounds(start, start + 2 * HALF_HOUR, half_hour // 2 * 2, half_hour // 2 * 2 + 2)
    return _calendar_bounds(uk_date(from_ms(half_hour * HALF_HOUR_MS)), granularity)


@lru_cache(CACHED_BUCKETS)
def _calendar_bounds(day: date, granularity: Granularity) -> _Bounds:
    start, end = calendar_bucket(day, granularity)
    return _Bounds(start, end, half_hour_of(start), half_hour_of(end))
