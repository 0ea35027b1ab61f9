"""Recording of readings: validate, compare with the stored ones, write, and append one event per meter."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Executable, bindparam, inspect
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.consents.coverage import meters_with_valid_consent
from app.core import clock
from app.core.decimals import format_micro
from app.core.errors import ErrorCode, Refusal, Refusals, not_found
from app.db.database import run_script
from app.db.raw_statements import Parameters, Rows, Script, pad_to_power_of_two
from app.db.sql import Sql, rows
from app.events import log
from app.meters.models import Meter
from app.readings.events import MeterDataReceived

MAX_READINGS = 20_000
MAX_REFUSALS = 100
# Meters that one statement names.
METERS_PER_STATEMENT = 400
# Readings that one statement writes.
READINGS_PER_STATEMENT = 2000
# Cached statements, one per viewer, and the measured bytes of each with its SQL text.
CACHED_STATEMENTS, STATEMENT_WEIGHT = 256, 20_000
# Returns the inserted and changed rows; equal rows stay untouched.
_UPSERT = Sql("""
    INSERT INTO readings (meter_id, start_ms, micro_kwh, estimated, recorded_at)
    SELECT given.meter_id, given.start_ms, given.micro_kwh, given.estimated, @instant(:recorded_at)
    FROM @rows(meter_id text, start_ms bigint, micro_kwh bigint, estimated bigint)
    WHERE TRUE ON CONFLICT (meter_id, start_ms) DO UPDATE
    SET micro_kwh = excluded.micro_kwh, estimated = excluded.estimated, recorded_at = excluded.recorded_at
    WHERE readings.micro_kwh <> excluded.micro_kwh OR readings.estimated <> excluded.estimated
    RETURNING meter_id, start_ms
""")
_METER = tuple(inspect(Meter).columns.keys())


class NewReading(NamedTuple):
    """A half-hour by its UTC start in milliseconds, with its consumption in millionths of a kWh."""

    start_ms: int
    micro_kwh: int
    estimated: bool


class Recorded(NamedTuple):
    accepted: int
    changed: int


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


def validate_readings(readings: Sequence[tuple[datetime, int, bool]]) -> list[NewReading]:
    """Validates the readings of one mutation. Raises Refusals, at most a hundred."""
    if not readings:
        raise Refusal(ErrorCode.REQUIRED, "Send at least one reading.", "readings")
    if len(readings) > MAX_READINGS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"Send at most {MAX_READINGS} readings at once, got {len(readings)}; POST /readings takes more.",
            "readings",
        )
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
    return [NewReading(clock.to_ms(start), micro, estimated) for start, micro, estimated in readings]


async def record(
    session: AsyncSession, actor: Actor, meter_id: str, readings: Sequence[tuple[datetime, int, bool]]
) -> tuple[Meter, Recorded]:
    """Records the readings of one meter, given as (UTC start, micro-kWh, estimated)."""
    new = validate_readings(readings)
    meters = await lock_meters(session, actor, [meter_id])
    if not meters:
        raise not_found("meter", "meterId")
    return meters[0], await write(session, meters, {meters[0].id: new})


async def lock_meters(session: AsyncSession, actor: Actor, meter_ids: Iterable[str]) -> list[Meter]:
    """Locks the actor's meters with these ids, in the order of their ids so that two writers cannot deadlock."""
    meters: list[Meter] = []
    for chunk in _chunks(sorted(set(meter_ids))):
        meters += await run_script(session, _lock(actor, list(chunk)))
    return meters


def _lock(actor: Actor, ids: list[str]) -> Script[list[Meter]]:
    found = yield _locking(actor), {"ids": pad_to_power_of_two(ids)}
    return [Meter(**dict(zip(_METER, row, strict=True))) for row in found]


@lru_cache(CACHED_STATEMENTS)
def _locking(actor: Actor) -> Any:
    columns = [getattr(Meter, name) for name in _METER]
    statement = visible(select(*columns).where(col(Meter.id).in_(bindparam("ids", expanding=True))), actor)
    return statement.order_by(col(Meter.id)).with_for_update()


async def write(
    session: AsyncSession, meters: Sequence[Meter], readings: Mapping[str, Sequence[NewReading]]
) -> Recorded:
    """Writes validated readings of locked meters of one account. Raises CONSENT_REQUIRED before anything is written."""
    now = clock.now()
    for chunk in _chunks(meters):
        consented = await meters_with_valid_consent(session, [meter.id for meter in chunk], now)
        refusals: list[Refusal] = [ConsentRequired(meter) for meter in chunk if meter.id not in consented]
        if refusals:
            raise Refusals(refusals[:MAX_REFUSALS])
    changed = 0
    for chunk in _chunks(meters):
        changed += await _write_chunk(session, chunk, readings, now)
    return Recorded(sum(len(readings[meter.id]) for meter in meters), changed)


async def _write_chunk(
    session: AsyncSession,
    meters: Sequence[Meter],
    readings: Mapping[str, Sequence[NewReading]],
    now: datetime,
) -> int:
    new = (
        {
            "meter_id": meter.id,
            "start_ms": one.start_ms,
            "micro_kwh": one.micro_kwh,
            "estimated": int(one.estimated),
        }
        for meter in meters
        for one in readings[meter.id]
    )
    changed: dict[str, list[int]] = {}
    # In parts, so that a large upload does not block live streams and other requests.
    while part := list(islice(new, READINGS_PER_STATEMENT)):
        given = {"rows": rows(part), "recorded_at": clock.to_ms(now)}
        for meter_id, start_ms in await run_script(session, _writing(_UPSERT.on(session), given)):
            changed.setdefault(meter_id, []).append(start_ms)
    for meter in meters:
        if starts := changed.get(meter.id):
            event = MeterDataReceived(
                meter_id=meter.id,
                customer_id=meter.customer_id,
                start=clock.from_ms(min(starts)),
                to=clock.from_ms(max(starts)) + clock.HALF_HOUR,
                interval_count=len(starts),
            )
            log.append(session, meter.account_id, event)
    return sum(map(len, changed.values()))


def _writing(upsert: Executable, given: Parameters) -> Script[Rows]:
    return (yield upsert, given)


def _chunks(items: Sequence[Meter] | list[str]) -> Iterable[Sequence]:  # type: ignore[type-arg]
    return (
        items[index : index + METERS_PER_STATEMENT] for index in range(0, len(items), METERS_PER_STATEMENT)
    )
