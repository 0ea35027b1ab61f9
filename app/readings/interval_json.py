"""JSON of intervals, without an object for each of them.

The 48 objects of a day's half-hours are one text for each selection, with marks where the date and the values go. A day
that has all half-hours, of one quality, takes this text as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from app.core.clock import format_utc
from app.core.decimals import FRACTION_DIGITS, format_micro, format_units
from app.readings.aggregation import Bucket, PackedDay, within
from app.readings.enums import ReadingQuality
from app.readings.packing import ALL, SLOTS, slots, unpack_stored

LONGEST: Final = 1000
"""Characters of an object whose text for a day is kept: names of a selection may be as long as its document."""

KEPT: Final = 64
"""Texts of days that are kept; each takes 12 kilobytes as a rule, and 100 at most."""

INSTANTS_KEPT: Final = 2048
"""Texts of the bounds of buckets that are kept; 400 kilobytes."""

_EPOCH: Final = date(1970, 1, 1)
_ACTUAL, _ESTIMATED = ReadingQuality.ACTUAL, ReadingQuality.ESTIMATED
_TIMES: Final = tuple([f"T{slot // 2:02}:{slot % 2 * 30:02}:00.000Z" for slot in range(SLOTS)])
# Marks in texts: names, times and decimals have none of these.
_DATE, _NEXT_DATE, _START, _END, _QUALITY, _PLACE = "<", ">", "(", ")", "!", "%s"
# JSON of the values of a half-hour and of any bucket, in the order of `Bucket`.
_OF_HALF_HOUR: Final = (f'"{_START}"', f'"{_END}"', f'"{_PLACE}"', f'"{_QUALITY}"', "0")
_OF_BUCKET: Final = (*[f'"{_PLACE}"'] * 4, _PLACE)


class _DayText(NamedTuple):
    """The objects of a day's half-hours, all of one quality, and their text together."""

    objects: tuple[str, ...]
    whole: str


class IntervalWriter:
    """Writes intervals as JSON objects of one selection."""

    def __init__(self, type_name: str, attributes: Mapping[str, str]) -> None:
        """`attributes` of `Bucket`, or __typename, by their response keys."""
        picked = [Bucket._fields.index(one) for one in attributes.values() if one != "__typename"]
        self._half_hour = _object(attributes, type_name, _OF_HALF_HOUR)
        self._bucket = _object(attributes, type_name, _OF_BUCKET)
        self._pick: Any = itemgetter(*picked) if picked else lambda _: ()
        self._amounts = list(attributes.values()).count("micro_kwh")

    def half_hours(self, days: Iterable[PackedDay], first: int, last: int) -> str:
        """The objects of the days' half-hours in `[first, last)`, counted from 1970, with commas between them."""
        text_of = _kept_text if len(self._half_hour) <= LONGEST else _day_text
        texts = text_of(self._half_hour, _ACTUAL.name), text_of(self._half_hour, _ESTIMATED.name)
        written = [self._day(texts, day, packed, within(day, first, last)) for day, packed in days]
        return ",".join(filter(None, written))

    def buckets(self, buckets: Iterable[Bucket]) -> str:
        """The objects of buckets, with commas between them."""
        form, pick = self._bucket, self._pick
        return ",".join(
            [
                form
                % pick(
                    (
                        _instant(start),
                        _instant(end),
                        format_micro(micro_kwh),
                        "ESTIMATED" if quality is _ESTIMATED else "ACTUAL",
                        missing_count,
                    )
                )
                for start, end, micro_kwh, quality, missing_count in buckets
            ]
        )

    def _day(self, texts: tuple[_DayText, _DayText], day: int, packed: bytes, inside: int) -> str:
        stored = unpack_stored(packed)
        present = stored.present & inside
        estimated = stored.estimated & present
        if present == ALL and estimated in (0, ALL):
            text = texts[bool(estimated)].whole
        else:
            text = ",".join([texts[estimated >> slot & 1].objects[slot] for slot in slots(present)])
        on = _EPOCH + timedelta(day)
        text = text.replace(_DATE, on.isoformat()).replace(_NEXT_DATE, (on + timedelta(1)).isoformat())
        if not self._amounts:
            return text
        amounts = format_units(stored.amounts, FRACTION_DIGITS - stored.scale)
        if present != stored.present:
            of_all = zip(slots(stored.present), amounts, strict=True)
            amounts = [amount for slot, amount in of_all if present >> slot & 1]
        if self._amounts > 1:
            amounts = [amount for amount in amounts for _ in range(self._amounts)]
        return text % tuple(amounts)


def _object(attributes: Mapping[str, str], type_name: str, values: Sequence[str]) -> str:
    """An object with these JSON values of the attributes of `Bucket`."""
    of = {"__typename": f'"{type_name}"'} | dict(zip(Bucket._fields, values, strict=True))
    members = [f'"{key}":{of[attribute]}' for key, attribute in attributes.items()]
    return f"{{{','.join(members)}}}"


def _day_text(half_hour: str, quality: str) -> _DayText:
    objects = []
    for slot in range(SLOTS):
        end = _DATE + _TIMES[slot + 1] if slot + 1 < SLOTS else _NEXT_DATE + _TIMES[0]
        text = half_hour.replace(_START, _DATE + _TIMES[slot]).replace(_END, end)
        objects.append(text.replace(_QUALITY, quality))
    return _DayText(tuple(objects), ",".join(objects))


_kept_text = lru_cache(KEPT)(_day_text)


@lru_cache(INSTANTS_KEPT)
def _instant(instant: datetime) -> str:
    return format_utc(instant)
