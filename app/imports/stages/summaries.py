"""Sums of the changed half-hours of a meter's channel, and the event that tells of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Self

import orjson

from app.core import clock
from app.db.raw_statements import Script
from app.db.sql import Sql
from app.meters.models import Meter
from app.readings.buckets import HALF_HOUR_MS
from app.readings.day_rows import Change
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.events import MeterDataReceived
from app.readings.packing import SLOTS

_SUM_UP: Final = Sql(
    "UPDATE file_import_meters SET written = CAST(:written AS jsonb) WHERE import_id = :id AND place = :place",
    sqlite="UPDATE file_import_meters SET written = :written WHERE import_id = :id AND place = :place",
)


class Summary(NamedTuple):
    """The first and the last changed half-hour, counted from 1970, how many there are, and how many estimated."""

    first: int
    last: int
    half_hours: int
    estimated: int

    @classmethod
    def of(cls, changes: Iterable[Change], before: Sequence[int] | None = None) -> Self | None:
        """The sum of changes and of what was summed up before; None of nothing."""
        first, last, count, estimated = before or (2**40, -(2**40), 0, 0)
        for change in changes:
            start, changed = change.of.day * SLOTS, change.changed
            first = min(first, start + (changed & -changed).bit_length() - 1)
            last = max(last, start + changed.bit_length() - 1)
            count += changed.bit_count()
            estimated += change.estimated.bit_count()
        return cls(first, last, count, estimated) if count else None

    def event(self, meter: Meter, channel: ReadingChannel, reason: ReadingReason) -> MeterDataReceived:
        return MeterDataReceived(
            meter_id=meter.id,
            customer_id=meter.customer_id,
            start=clock.from_ms(self.first * HALF_HOUR_MS),
            to=clock.from_ms((self.last + 1) * HALF_HOUR_MS),
            interval_count=self.half_hours,
            channel=channel,
            reason=reason,
            estimated_count=self.estimated,
        )


def sum_up(import_id: str, place: int, written: Mapping[str, Sequence[int]]) -> Script[None]:
    """Writes a meter's sums of half-hours that no event tells of yet."""
    sums = {channel: list(summary) for channel, summary in written.items()}
    yield _SUM_UP, {"id": import_id, "place": place, "written": orjson.dumps(sums).decode()}
