"""The second stage: each meter with all of its days. Counts them, finds half-hours that two names of one meter give,
and meters without a consent. Then the import is written, shown as a preview, or refused.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from app.consents.coverage import meters_with_valid_consent
from app.consents.models import HostedConsent
from app.core import clock, failpoints
from app.core.decimals import format_micro
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.db.sql import Sql
from app.imports import kept_files
from app.imports.enums import ImportProblemRule, ImportStage, ImportStatus
from app.imports.leases import held
from app.imports.models import FileImport, FileImportDays
from app.imports.problems import ImportProblem, add_problems
from app.imports.stages.ending import end, fail
from app.imports.stages.packed_days import WaitingDay, pack_waiting, unpack_waiting
from app.imports.stages.resolving import covering_consents
from app.imports.stages.work import SAVE, Work
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel, ReadingQuality
from app.readings.packing import SLOTS, Day, pack, slots, summary, unpack

PAGE: Final = 100
"""Rows of days that one statement reads."""
DAYS_AT_ONCE: Final = 2_000
"""Days that one transaction takes to be checked, or those of one meter."""
METERS_AT_ONCE: Final = 200
PREVIEWED_METERS, PREVIEWED_DAYS = 3, 3
SHARE: Final = 0.1
"""The part of the progress that checking makes."""

_DAYS: Final = Table(FileImportDays)
_CHANNELS: Final = {channel.code: channel for channel in ReadingChannel}
_PAGE: Final = Sql("""
    SELECT days.place, days.channel, days.number, days.packed,
        meters.meter_id, meters.customer_id, meters.number, meters.line, meters.file
    FROM file_import_days AS days
    JOIN file_import_meters AS meters ON meters.import_id = days.import_id AND meters.place = days.place
    WHERE days.import_id = :id AND (days.place, days.channel, days.number) > (:place, :channel, :number)
    ORDER BY days.place, days.channel, days.number LIMIT :limit
""")
_FORGET: Final = Sql("""
    DELETE FROM file_import_days WHERE import_id = :id AND place = :place AND channel = :channel
""")
_FORGET_MANY: Final = Sql("""
    DELETE FROM file_import_days WHERE import_id = :id
        AND place IN (SELECT given.place FROM @rows(place bigint))
""")
_SHOW: Final = Sql(
    """
    UPDATE file_import_meters SET preview = CAST(:preview AS jsonb) WHERE import_id = :id AND place = :place
""",
    sqlite="""
    UPDATE file_import_meters SET preview = :preview WHERE import_id = :id AND place = :place
""",
)


class ImportedMeter(NamedTuple):
    """A meter of the file; `meter_id` is None of one that is to be created."""

    place: int
    meter_id: str | None
    customer_id: str | None
    number: str
    line: int
    file: str | None


class Checked(NamedTuple):
    """A meter's days by channel. `cleaned` are those of channels in which half-hours were given twice."""

    meter: ImportedMeter
    half_hours: int
    day_count: int
    first: int
    last: int
    problems: list[ImportProblem]
    cleaned: dict[int, list[WaitingDay]]
    preview: list[dict[str, Any]]


async def check_meters(work: Work) -> None:
    """Checks all meters from where an earlier try ended, and says what is next."""
    await kept_files.drop(work.database, [work.id])
    row = work.claim.row
    first_progress = max(row.progress, work.progress)
    consents = await _customers_consents(work)
    waiting: list[Checked] = []
    days = 0
    async for meter, by_channel in _meters(work, row.checked_place):
        previews = row.dry_run and meter.place < PREVIEWED_METERS
        one = await asyncio.to_thread(_check, meter, by_channel, previews=previews)
        waiting.append(one)
        days += one.day_count
        if days >= DAYS_AT_ONCE or len(waiting) >= METERS_AT_ONCE:
            await _write_down(work, waiting, consents)
            waiting, days = [], 0
            work.progress = first_progress + SHARE * (meter.place + 1) / max(row.meter_count, 1)
    if waiting:
        await _write_down(work, waiting, consents)
    await work.database.transact(lambda transaction: _decide(transaction, work))
    failpoints.reach("import.checked")


async def _customers_consents(work: Work) -> Sequence[HostedConsent]:
    customer_id = work.options.get("customerId")
    if not work.options.get("createMissing") or customer_id is None:
        return ()
    return await covering_consents(work.database, customer_id)


async def _meters(work: Work, after: int) -> AsyncIterator[tuple[ImportedMeter, dict[int, list[bytes]]]]:
    """The meters behind a place, each with the packed days of its channels."""
    position = {"place": after, "channel": 99, "number": 2**31 - 1}
    meter: ImportedMeter | None = None
    by_channel: dict[int, list[bytes]] = {}
    statement = _PAGE.of(work.database.is_sqlite)
    while page := await work.database.read(statement, {**position, "id": work.id, "limit": PAGE}):
        for place, channel, number, packed, meter_id, customer_id, its_number, line, file in page:
            if meter is None or meter.place != place:
                if meter is not None:
                    yield meter, by_channel
                meter, by_channel = ImportedMeter(place, meter_id, customer_id, its_number, line, file), {}
            by_channel.setdefault(channel, []).append(packed)
            position = {"place": place, "channel": channel, "number": number}
    if meter is not None:
        yield meter, by_channel


def _check(meter: ImportedMeter, by_channel: dict[int, list[bytes]], *, previews: bool) -> Checked:
    half_hours = day_count = 0
    first, last = 2**40, -(2**40)
    problems: list[ImportProblem] = []
    cleaned: dict[int, list[WaitingDay]] = {}
    shown: list[dict[str, Any]] = []
    for channel, runs in by_channel.items():
        days = [day for packed in runs for day in unpack_waiting(packed)]
        seen: dict[int, int] = {}
        kept: list[WaitingDay] = []
        has_twice = False
        for one in days:
            present = summary(one.packed).present
            twice = seen.get(one.day, 0) & present
            if twice:
                has_twice = True
                problems.append(_given_twice(one, twice, meter))
                one, present = _without(one, twice), present & ~twice
            if present:
                seen[one.day] = seen.get(one.day, 0) | present
                kept.append(one)
        if has_twice:
            cleaned[channel] = kept
        day_count += len(kept)
        for day, present in seen.items():
            half_hours += present.bit_count()
            first = min(first, day * SLOTS + (present & -present).bit_length() - 1)
            last = max(last, day * SLOTS + present.bit_length() - 1)
        if previews:
            shown.append(_preview(meter, channel, kept))
    return Checked(meter, half_hours, day_count, first, last, problems, cleaned, shown)


def _given_twice(one: WaitingDay, twice: int, meter: ImportedMeter) -> ImportProblem:
    start = clock.format_utc(_start(one.day * SLOTS + slots(twice)[0]))
    sentence = f"The half-hour from {start} of this meter is given twice, by two of its names."
    return ImportProblem("DUPLICATE", sentence, one.line, file=meter.file)


def _without(one: WaitingDay, half_hours: int) -> WaitingDay:
    day = unpack(one.packed)
    return one._replace(packed=pack(Day(day.present & ~half_hours, day.estimated & ~half_hours, day.amounts)))


def _preview(meter: ImportedMeter, channel: int, days: Sequence[WaitingDay]) -> dict[str, Any]:
    shown: dict[int, list[dict[str, str]]] = {}
    first = sorted({one.day for one in days})[:PREVIEWED_DAYS]
    for one in days:
        if one.day in first:
            shown.setdefault(one.day, []).extend(_readings(one))
    return {
        "meterId": meter.meter_id,
        "meterNumber": meter.number,
        "channel": _CHANNELS[channel].name,
        "days": [
            {
                "date": _start(day * SLOTS).date().isoformat(),
                "readings": sorted(shown[day], key=lambda reading: reading["startAt"]),
            }
            for day in first
        ],
    }


def _readings(one: WaitingDay) -> list[dict[str, str]]:
    day = unpack(one.packed)
    return [
        {
            "startAt": clock.format_utc(_start(one.day * SLOTS + slot)),
            "consumption": format_micro(day.amounts[slot]),
            "quality": (
                ReadingQuality.ESTIMATED if day.estimated >> slot & 1 else ReadingQuality.ACTUAL
            ).name,
        }
        for slot in slots(day.present)
    ]


async def _write_down(work: Work, checked: Sequence[Checked], consents: Sequence[HostedConsent]) -> None:
    def act(transaction: InTransaction) -> Script[None]:
        row = yield from held(work.claim)
        ids = [one.meter.meter_id for one in checked if one.meter.meter_id is not None]
        consented = (yield from meters_with_valid_consent(ids, clock.now())) if ids else set()
        refused = []
        for one in checked:
            add_problems(row, one.problems)
            if one.meter.meter_id in consented or _is_covered(one.meter, consents):
                _count(row, one)
            else:
                refused.append(one.meter.place)
                row.rows_refused += one.day_count
                add_problems(row, [consent_required(one.meter)])
            row.rows_refused += len(one.problems)
            for channel, days in one.cleaned.items():
                yield from _rewrite(row.id, one.meter.place, channel, days)
            if one.preview:
                preview = _as_json(one.preview)
                yield _SHOW, {"id": row.id, "place": one.meter.place, "preview": preview}
        if refused:
            yield _FORGET_MANY, {"id": row.id, "rows": _as_json([{"place": one} for one in refused])}
        row.checked_place = checked[-1].meter.place
        yield from SAVE(row)

    await work.database.transact(act)
    failpoints.reach("import.checking")


def consent_required(meter: ImportedMeter) -> ImportProblem:
    """The problem of a meter that no valid consent covers."""
    sentence = (
        "This meter has no valid consent: have one approved, then send the file again."
        if meter.meter_id is not None
        else f"No blanket consent of this customer covers the new meter {meter.number}: have one approved, then send "
        "the file again."
    )
    return ImportProblem("CONSENT_REQUIRED", sentence, meter.line, file=meter.file)


def _is_covered(meter: ImportedMeter, consents: Sequence[HostedConsent]) -> bool:
    return meter.meter_id is None and any(consent.covers(meter.number) for consent in consents)


def _count(row: FileImport, one: Checked) -> None:
    row.readings_accepted += one.half_hours
    starts_at, ends_at = _start(one.first), _start(one.last + 1)
    row.starts_at = starts_at if row.starts_at is None else min(row.starts_at, starts_at)
    row.ends_at = ends_at if row.ends_at is None else max(row.ends_at, ends_at)


def _rewrite(import_id: str, place: int, channel: int, days: list[WaitingDay]) -> Script[None]:
    yield _FORGET, {"id": import_id, "place": place, "channel": channel}
    runs = [days[at : at + PAGE] for at in range(0, len(days), PAGE)]
    yield from _DAYS.insert(
        [
            _DAYS.new(
                import_id=import_id,
                place=place,
                channel=channel,
                number=number,
                days=len(run),
                packed=pack_waiting(run),
            )
            for number, run in enumerate(runs)
        ]
    )


def _decide(transaction: InTransaction, work: Work) -> Script[None]:
    row = yield from held(work.claim)
    row.tries = 0
    if row.dry_run:
        yield from end(transaction, row, ImportStatus.PREVIEW)
    elif row.problem_count and row.on_problem == ImportProblemRule.REFUSE.name:
        yield from fail(transaction, row, refusal(row))
    elif not row.readings_accepted:
        yield from fail(transaction, row, f"No row of the file could be taken: {row.problems[0]['message']}")
    else:
        row.stage = ImportStage.WRITE.name
        yield from SAVE(row)


def refusal(row: FileImport) -> str:
    """The sentence that says why an import with problems is not written."""
    first = row.problems[0]
    where = f" in line {first['line']}" if first["line"] else ""
    many = "1 problem" if row.problem_count == 1 else f"{row.problem_count:,} problems"
    return f"Nothing was written, since the file has {many}. The first{where}: {first['message']}"


def _start(half_hour: int) -> datetime:
    return clock.from_ms(half_hour * HALF_HOUR_MS)


def _as_json(value: Any) -> str:
    return orjson.dumps(value).decode()
