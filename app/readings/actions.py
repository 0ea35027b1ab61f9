"""Recording of readings: validate, compare with the stored ones, write, and append one event per meter."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.auth.actor import Actor, Scoped
from app.consents.coverage import meters_with_valid_consent
from app.core import clock
from app.core.decimals import format_micro
from app.core.errors import ErrorCode, Refusal, Refusals, not_found
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.rows import Table
from app.db.scripts import InTransaction, is_on_sqlite
from app.events import log
from app.meters.models import Meter
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, packed_days
from app.readings.day_rows import Change, MeterDay, record_days, write_days
from app.readings.enums import ReadingChannel, ReadingReason
from app.readings.events import MeterDataReceived
from app.readings.packing import SLOTS

MAX_READINGS = 20_000
MAX_REFUSALS = 100
# Meters that one statement names.
METERS_PER_STATEMENT = 400
# Days that one statement reads and one writes.
DAYS_PER_STATEMENT = 400
# Days that are written along with their event.
FEW_DAYS = 8

_METERS: Final = Table(Meter)
_LOCK: Final = Scoped(
    select(*_METERS.columns)
    .where(col(Meter.id).in_(bindparam("ids", expanding=True)))
    .order_by(col(Meter.id))
    .with_for_update()
)


class Recorded(NamedTuple):
    accepted: int
    changed: int


class PartOfBackfill(NamedTuple):
    """A part of a backfill, counted from 1, and how many parts there are."""

    backfill_id: str
    number: int
    parts: int


class ConsentRequired(Refusal):
    """The meter has no valid consent."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            ErrorCode.CONSENT_REQUIRED,
            "This meter has no valid consent: have one approved, then send the readings again.",
            "meterId",
        )
        self.meter_id = meter.id


def validation_error(start: datetime, micro_kwh: int, now: datetime) -> tuple[str, ErrorCode, str] | None:
    """Validates a reading. Returns the error as (field, code, sentence), or None."""
    if start.minute % 30 or start.second or start.microsecond:
        return (
            "startAt",
            ErrorCode.INVALID,
            f"must be the start of a half-hour in UTC (minute 0 or 30), got {clock.format_utc(start)}",
        )
    if start >= now:
        return "startAt", ErrorCode.OUT_OF_RANGE, "must be in the past: a half-hour is read once it has begun"
    if micro_kwh < 0:
        return "consumption", ErrorCode.OUT_OF_RANGE, f"must be 0 or more kWh, got {format_micro(micro_kwh)}"
    return None


def validate_readings(readings: Sequence[tuple[datetime, int, bool]]) -> Columns:
    """Validates the readings of one mutation, as (UTC start, micro-kWh, estimated).

    Raises Refusals, at most a hundred.
    """
    _require_count(len(readings))
    now = clock.now()
    seen: set[datetime] = set()
    refusals: list[Refusal] = []
    for index, (start, micro_kwh, _) in enumerate(readings):
        found = validation_error(start, micro_kwh, now)
        if found is None and start in seen:
            found = ("startAt", ErrorCode.INVALID, f"is given twice: {clock.format_utc(start)}")
        if found is not None:
            field, code, sentence = found
            refusals.append(Refusal(code, f"{field} {sentence}.", "readings", str(index), field))
            if len(refusals) == MAX_REFUSALS:
                break
        seen.add(start)
    if refusals:
        raise Refusals(refusals)
    return Columns(
        [clock.to_ms(start) // HALF_HOUR_MS for start, _, _ in readings],
        [micro_kwh for _, micro_kwh, _ in readings],
        [estimated for _, _, estimated in readings],
    )


def validate_columns(readings: Columns) -> Columns:
    """Validates the readings of one mutation, whose starts are half-hours and whose amounts are not negative.

    Raises Refusals, at most a hundred.
    """
    starts = readings.starts
    _require_count(len(starts))
    if len(set(starts)) == len(starts) and max(starts) * HALF_HOUR_MS < clock.to_ms(clock.now()):
        return readings
    instants = [clock.from_ms(start * HALF_HOUR_MS) for start in starts]
    return validate_readings(list(zip(instants, readings.amounts, readings.estimated, strict=True)))


def _require_count(count: int) -> None:
    if not count:
        raise Refusal(ErrorCode.REQUIRED, "Send at least one reading.", "readings")
    if count > MAX_READINGS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"Send at most {MAX_READINGS} readings at once, got {count}; POST /readings takes more.",
            "readings",
        )


def record(
    transaction: InTransaction,
    actor: Actor,
    meter_id: str,
    readings: Columns,
    channel: ReadingChannel = ReadingChannel.IMPORT,
) -> Script[tuple[Meter, Recorded]]:
    """Records validated readings of one meter's channel."""
    days = packed_days(readings)
    meters = yield from lock_meters(actor, [meter_id])
    if not meters:
        raise not_found("meter", "meterId")
    meter = meters[0]
    if len(days) > FEW_DAYS:
        changed = yield from write_channels(transaction, meters, {channel: {meter.id: days}})
    else:
        changes = yield from record_days(transaction, meter.id, days, channel, clock.to_ms(clock.now()))
        if changes is None:
            raise ConsentRequired(meter)
        changed = _append_event(transaction, meter, channel, changes)
    return meter, Recorded(len(readings.starts), changed)


def lock_meters(actor: Actor, meter_ids: Iterable[str]) -> Script[list[Meter]]:
    """Locks the actor's meters with these ids, in the order of their ids so that two writers cannot deadlock."""
    meters: list[Meter] = []
    for chunk in _chunks(sorted(set(meter_ids))):
        found = yield _LOCK.by(actor, ids=pad_to_power_of_two(list(chunk)))
        meters += map(_METERS.row, found)
    return meters


def write_channels(
    transaction: InTransaction,
    meters: Sequence[Meter],
    days: Mapping[ReadingChannel, Mapping[str, Mapping[int, bytes]]],
) -> Script[int]:
    """Writes validated readings of locked meters of one account, given as packed days by channel, meter and day.

    Gives how many half-hours changed. Raises CONSENT_REQUIRED before anything is written.
    """
    now = clock.now()
    for chunk in _chunks(meters):
        consented = yield from meters_with_valid_consent([meter.id for meter in chunk], now)
        refusals: list[Refusal] = [ConsentRequired(meter) for meter in chunk if meter.id not in consented]
        if refusals:
            raise Refusals(refusals[:MAX_REFUSALS])
    changed = 0
    for channel, of_channel in days.items():
        changes = yield from _write_days(is_on_sqlite(transaction), channel, of_channel, clock.to_ms(now))
        for meter in meters:
            changed += _append_event(transaction, meter, channel, changes.get(meter.id, ()))
    return changed


def _append_event(
    transaction: InTransaction, meter: Meter, channel: ReadingChannel, changes: Sequence[Change]
) -> int:
    """Tells of the half-hours that changed, if any, and gives their number."""
    if not changes:
        return 0
    event = received(meter, channel, changes)
    log.append(transaction, meter.account_id, event)
    return event.interval_count


def _write_days(
    on_sqlite: bool, channel: ReadingChannel, days: Mapping[str, Mapping[int, bytes]], now_ms: int
) -> Script[dict[str, list[Change]]]:
    changes: dict[str, list[Change]] = {}
    unwritten = (
        (MeterDay(meter_id, day), packed)
        for meter_id, of_meter in days.items()
        for day, packed in of_meter.items()
    )
    # In parts, so that a large upload does not block live streams and other requests.
    while part := dict(islice(unwritten, DAYS_PER_STATEMENT)):
        written = yield from write_days(on_sqlite, part, channel, ReadingReason.PUSH, now_ms)
        for change in written:
            changes.setdefault(change.of.meter_id, []).append(change)
    return changes


def received(
    meter: Meter,
    channel: ReadingChannel,
    changes: Sequence[Change],
    reason: ReadingReason = ReadingReason.PUSH,
    part: PartOfBackfill | None = None,
) -> MeterDataReceived:
    """The event of changes of a meter's channel for one reason."""
    days = sorted((change.of.day, change.changed) for change in changes)
    (first, starts), (last, ends) = days[0], days[-1]
    low = first * SLOTS + (starts & -starts).bit_length() - 1
    high = last * SLOTS + ends.bit_length()
    return MeterDataReceived(
        meter_id=meter.id,
        customer_id=meter.customer_id,
        start=clock.from_ms(low * HALF_HOUR_MS),
        to=clock.from_ms(high * HALF_HOUR_MS),
        interval_count=sum(changed.bit_count() for _, changed in days),
        channel=channel,
        reason=reason,
        estimated_count=sum(change.estimated.bit_count() for change in changes),
        backfill_id=None if part is None else part.backfill_id,
        part=None if part is None else part.number,
        parts=None if part is None else part.parts,
    )


def _chunks(items: Sequence[Meter] | list[str]) -> Iterable[Sequence]:  # type: ignore[type-arg]
    return (
        items[index : index + METERS_PER_STATEMENT] for index in range(0, len(items), METERS_PER_STATEMENT)
    )
