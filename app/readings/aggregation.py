"""Sums of packed days over calendar buckets.

Only days that a bucket's boundary cuts are decoded; the others give their totals.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache, partial
from typing import Final, NamedTuple

from app.core.clock import HALF_HOUR, from_ms, to_ms, uk_date
from app.readings.buckets import HALF_HOUR_MS, HOUR_MS, calendar_bucket, widen
from app.readings.enums import Granularity, ReadingQuality
from app.readings.packing import ALL, SLOTS, read_head, slots, sum_between, summary, unpack

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
    """The sums of a period, and its buckets that have a reading, in order; None for half-hours."""

    buckets: list[Bucket] | None
    micro_kwh: int
    missing_count: int
    present_count: int
    """How many half-hours of the period have a reading."""


class _Bounds(NamedTuple):
    """A bucket, and its first half-hour and the one behind its last, counted from 1970."""

    start: datetime
    end: datetime
    low: int
    high: int


def half_hour_of(instant: datetime) -> int:
    """The half-hour that holds an instant, counted from 1970 in UTC."""
    return to_ms(instant) // HALF_HOUR_MS


def aggregate(
    days: Iterable[PackedDay], granularity: Granularity, start: datetime, end: datetime, now: datetime
) -> Aggregate:
    """Aggregates the widened `[start, end)` of ascending days.

    `missing_count` of a bucket: its half-hours that are over by now and have no reading. The period's counts them for
    every granularity. Raises ValueError as `widen`.
    """
    start, end = widen(start, end, granularity)
    first, last, over = half_hour_of(start), half_hour_of(end), half_hour_of(now)
    if granularity is Granularity.HALF_HOUR:
        return _whole(days, first, last, over)
    return _sums(days, granularity, first, last, over)


def half_hours(days: Iterable[PackedDay], start: datetime, end: datetime) -> list[Bucket]:
    """The half-hours of the widened `[start, end)` that have a reading."""
    buckets = []
    first, last = half_hour_of(start), half_hour_of(end)
    end_at, end = 0, from_ms(0)
    for day, packed in days:
        found = unpack(packed)
        for slot in slots(found.present & within(day, first, last)):
            at = day * SLOTS + slot
            # Most half-hours begin where the previous one ends, so that one datetime serves both.
            start = end if at == end_at else from_ms(at * HALF_HOUR_MS)
            end_at, end = at + 1, start + HALF_HOUR
            quality = _QUALITIES[found.estimated >> slot & 1]
            buckets.append(Bucket(start, end, found.amounts[slot], quality, 0))
    return buckets


def _whole(days: Iterable[PackedDay], first: int, last: int, over: int) -> Aggregate:
    total = count = present_over = 0
    for day, packed in days:
        found = summary(packed)
        inside = within(day, first, last)
        if inside == ALL:
            total += found.total
        else:
            amounts = unpack(packed).amounts
            total += sum([amounts[slot] for slot in slots(inside)])
        present = found.present & inside
        count += present.bit_count()
        present_over += (present & within(day, first, over)).bit_count()
    return Aggregate(None, total, _missing(first, last, over, present_over), count)


def _sums(days: Iterable[PackedDay], granularity: Granularity, first: int, last: int, over: int) -> Aggregate:
    buckets: list[Bucket] = []
    bounds_of = partial(
        _hour_bounds if granularity is Granularity.HOUR else _calendar_bounds, granularity.value
    )
    start = end = from_ms(0)
    bucket_low = bucket_high = first
    # Of the period up to here, and up to the beginning of the bucket.
    total = count = present_over = 0
    total_before = count_before = over_before = estimated = 0
    for day, packed in days:
        begin = day * SLOTS
        low, behind = max(begin, first), min(begin + SLOTS, last)
        head = read_head(packed)
        present_of_day = head.present
        # Of the day from `low` on.
        rest = head.total if low == begin else sum_between(packed, head, low - begin, SLOTS)
        while low < behind:
            if low >= bucket_high:
                if count > count_before:
                    missing = _missing(bucket_low, bucket_high, over, present_over - over_before)
                    buckets.append(
                        Bucket(start, end, total - total_before, _QUALITIES[bool(estimated)], missing)
                    )
                start, end, bucket_low, bucket_high = bounds_of(low)
                total_before, count_before, over_before, estimated = total, count, present_over, 0
            if bucket_high >= begin + SLOTS <= last:
                high, part = behind, rest
            else:
                high = min(behind, bucket_high)
                if 2 * (high - begin) > SLOTS + low - begin:
                    # The other side is shorter.
                    part = rest - sum_between(packed, head, high - begin, SLOTS)
                else:
                    part = sum_between(packed, head, low - begin, high - begin)
                rest -= part
            if high - low == SLOTS:
                present = present_of_day
            else:
                present = present_of_day & (1 << high - begin) - (1 << low - begin)
            if present:
                total += part
                count += present.bit_count()
                estimated |= head.estimated & present
                # The current half-hour may have a reading already, which must not compensate for a missing one.
                at_end = present if high <= over else present & within(day, low, over)
                present_over += at_end.bit_count()
            low = high
    if count > count_before:
        missing = _missing(bucket_low, bucket_high, over, present_over - over_before)
        buckets.append(Bucket(start, end, total - total_before, _QUALITIES[bool(estimated)], missing))
    return Aggregate(buckets, total, _missing(first, last, over, present_over), count)


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


def _hour_bounds(_: str, half_hour: int) -> _Bounds:
    start = from_ms(half_hour // 2 * HOUR_MS)
    return _Bounds(start, start + 2 * HALF_HOUR, half_hour // 2 * 2, half_hour // 2 * 2 + 2)


@lru_cache(CACHED_BUCKETS)
def _calendar_bounds(granularity: str, half_hour: int) -> _Bounds:
    # The value, because a member's hash takes as long as all the rest.
    day = uk_date(from_ms(half_hour * HALF_HOUR_MS))
    start, end = calendar_bucket(day, Granularity(granularity))
    return _Bounds(start, end, half_hour_of(start), half_hour_of(end))
