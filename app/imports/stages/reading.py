"""The first stage: parses the file in a thread, and puts the days of its meters into the database.

It begins anew after a crash, since a file is parsed much faster than its readings are written.
"""

import asyncio
import time
from typing import Final

from app.core import failpoints
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.imports import kept_files, leftovers
from app.imports.enums import ImportStage
from app.imports.formats.interface import FileRefused, MeterKey, Problem
from app.imports.formats.parsed_file import ParsedFile, open_file
from app.imports.leases import held
from app.imports.models import FileImport, FileImportDays, FileImportMeter
from app.imports.options import format_options
from app.imports.problems import ImportProblem, add_problems, presentable
from app.imports.stages.ending import fail
from app.imports.stages.packed_days import WaitingDay, pack_waiting
from app.imports.stages.resolving import Found, MeterFinder, Named
from app.imports.stages.work import SAVE, Work
from app.readings import actions as readings
from app.readings.enums import ReadingChannel
from app.readings.packing import Day, pack

SLICE_SECONDS: Final = 0.02
"""The thread parses for so long in one call."""
GIVES_WAY_EVERY, GIVES_WAY = 0.001, 0.00005
"""It lets other threads run so often, in seconds, and for so long: they would wait five milliseconds for their turn."""
DAYS_GATHERED: Final = 8_000
"""Days that are gathered before they are written, so that a file in the order of days makes long runs of each meter."""
PROBLEMS_GATHERED: Final = 2_000
DAYS_IN_RUN: Final = 100
"""Days in one row, at most: one write takes whole rows."""
ROWS_AT_ONCE: Final = 100
METERS_AT_ONCE: Final = 200
"""New meters that one transaction writes: a portfolio has tens of thousands, and others wait for each."""
SHARE: Final = 0.5
"""The part of the progress that parsing makes."""

_DAYS: Final = Table(FileImportDays)
_METERS: Final = Table(FileImportMeter)


class MeterGone(Exception):
    """A meter was deleted after the file's name for it was looked up: the file has to be read anew."""


Piece = tuple[MeterKey, ReadingChannel, WaitingDay, str | None]
"""A day of a meter's channel, and the member of an archive that it is from."""


async def read_file(work: Work) -> None:
    """Parses the file to its end. Then the meters are checked, or the import has failed."""
    await leftovers.forget(work.database, work.id, require=lambda: held(work.claim))
    await work.database.transact(lambda _: _begin(work))
    with await kept_files.open_kept(work.database, work.id, work.claim.row.size) as file:
        staging = _Staging(work)
        try:
            parsed = await asyncio.to_thread(
                open_file, file, format_options(work.options, work.claim.row.file_name)
            )
            parser = _Parser(parsed)
            while not parser.has_ended:
                await asyncio.to_thread(parser.parse_slice)
                work.progress = SHARE * min(file.tell() / max(work.claim.row.size, 1), 1)
                if parser.is_full or parser.has_ended:
                    await staging.add(parser.take())
                    failpoints.reach("import.read")
        except FileRefused as error:
            problem = _problem(error.problem)
            await work.database.transact(lambda transaction: _refuse(transaction, work, problem))
            return
        await work.database.transact(lambda transaction: _finish(transaction, work, staging, parsed))
        failpoints.reach("import.file_read")


class _Parser:
    """Turns what a format gives into packed days, a slice of time in each call; used by one thread at a time."""

    def __init__(self, parsed: ParsedFile) -> None:
        self._steps = parsed.steps()
        self.has_ended = False
        self.days: list[Piece] = []
        self.problems: list[ImportProblem] = []

    @property
    def is_full(self) -> bool:
        return len(self.days) >= DAYS_GATHERED or len(self.problems) >= PROBLEMS_GATHERED

    def parse_slice(self) -> None:
        now = time.monotonic()
        until, gives_way = now + SLICE_SECONDS, now + GIVES_WAY_EVERY
        for pieces in self._steps:
            for piece in pieces:
                if isinstance(piece, Problem):
                    self.problems.append(_problem(piece))
                else:
                    day = WaitingDay(
                        piece.day, piece.line, pack(Day(piece.present, piece.estimated, piece.amounts))
                    )
                    self.days.append((piece.meter, piece.channel, day, piece.file))
            now = time.monotonic()
            if now > until or self.is_full:
                return
            if now > gives_way:
                time.sleep(GIVES_WAY)
                gives_way = now + GIVES_WAY_EVERY
        self.has_ended = True

    def take(self) -> tuple[list[Piece], list[ImportProblem]]:
        taken = self.days, self.problems
        self.days, self.problems = [], []
        return taken


def _problem(one: Problem) -> ImportProblem:
    return ImportProblem(one.code, one.message, one.line, one.column, one.file)


class _Staging:
    """Puts packed days into the database, by the place of their meters."""

    def __init__(self, work: Work) -> None:
        self._work = work
        options = work.options
        self._finder = MeterFinder(
            work.database, work.actor, options.get("customerId"), creates=bool(options.get("createMissing"))
        )
        self._places: dict[MeterKey, int | None] = {}
        self._by_meter: dict[Found, int] = {}
        self._runs = 0
        self.refused = 0

    @property
    def meter_count(self) -> int:
        return len(self._by_meter)

    async def add(self, parsed: tuple[list[Piece], list[ImportProblem]]) -> None:
        days, problems = parsed
        meters, unknown = await self._resolve(days)
        problems = [*problems, *unknown]
        runs = await asyncio.to_thread(self._rows, days)
        work = self._work

        def note(_: InTransaction) -> Script[None]:
            row = yield from held(work.claim)
            add_problems(row, problems)
            yield from SAVE(row)

        if problems:
            await work.database.transact(note)
        for at in range(0, len(meters), METERS_AT_ONCE):
            new = await asyncio.to_thread(self._meters, meters[at : at + METERS_AT_ONCE])

            def name(_: InTransaction, new: list[FileImportMeter] = new) -> Script[None]:
                # Meters before the import, as in a customer's deletion, so that the two cannot deadlock.
                locked = yield from readings.lock_meters(
                    work.actor, [one.meter_id for one in new if one.meter_id]
                )
                if len(locked) < sum(one.meter_id is not None for one in new):
                    raise MeterGone
                yield from held(work.claim)
                yield from _METERS.insert(new)

            await work.database.transact(name)
        for at in range(0, len(runs), ROWS_AT_ONCE):
            some = runs[at : at + ROWS_AT_ONCE]

            def write(_: InTransaction, some: list[FileImportDays] = some) -> Script[None]:
                yield from held(work.claim)
                yield from _DAYS.insert(some)

            await work.database.transact(write)

    async def _resolve(self, days: list[Piece]) -> tuple[list[tuple[Named, Found]], list[ImportProblem]]:
        """The meters that these days name for the first time, in the order of their places, and what is wrong."""
        new: dict[MeterKey, Named] = {}
        for key, _, day, file in days:
            if key not in self._places and key not in new:
                new[key] = Named(key, day.line, file)
        named = list(new.values())
        meters: list[tuple[Named, Found]] = []
        problems = []
        for one, found in zip(named, await self._finder.find(named), strict=True):
            if isinstance(found, ImportProblem):
                self._places[one.key] = None
                problems.append(found)
                continue
            place = self._by_meter.get(found)
            if place is None:
                place = self._by_meter[found] = len(self._by_meter)
                meters.append((one, found))
            self._places[one.key] = place
        return meters, problems

    def _meters(self, meters: list[tuple[Named, Found]]) -> list[FileImportMeter]:
        return [
            _METERS.new(
                import_id=self._work.id,
                place=self._by_meter[found],
                meter_id=found.meter_id,
                customer_id=found.customer_id,
                number=found.number,
                line=named.line,
                file=named.file,
            )
            for named, found in meters
        ]

    def _rows(self, days: list[Piece]) -> list[FileImportDays]:
        grouped: dict[tuple[int, int], list[WaitingDay]] = {}
        for key, channel, day, _ in days:
            place = self._places[key]
            if place is None:
                self.refused += 1
            else:
                grouped.setdefault((place, channel.code), []).append(day)
        rows = []
        for (place, channel_code), of_meter in grouped.items():
            for at in range(0, len(of_meter), DAYS_IN_RUN):
                some = of_meter[at : at + DAYS_IN_RUN]
                rows.append(
                    _DAYS.new(
                        import_id=self._work.id,
                        place=place,
                        channel=channel_code,
                        number=self._runs,
                        days=len(some),
                        packed=pack_waiting(some),
                    )
                )
                self._runs += 1
        return rows


def _begin(work: Work) -> Script[None]:
    """Forgets what an earlier try has left."""
    row = yield from held(work.claim)
    row.problems, row.problem_count = [], 0
    row.rows_read = row.rows_refused = row.rounded_count = 0
    yield from SAVE(row)


def _refuse(transaction: InTransaction, work: Work, problem: ImportProblem) -> Script[None]:
    row = yield from held(work.claim)
    row.problems, row.problem_count = [], 0
    add_problems(row, [problem])
    yield from fail(transaction, row, row.problems[0]["message"])


def _finish(transaction: InTransaction, work: Work, staging: _Staging, parsed: ParsedFile) -> Script[None]:
    row: FileImport = yield from held(work.claim)
    counts = parsed.counts
    row.profile = parsed.profile
    row.detection = presentable(row, parsed.detection)
    row.rows_read, row.rows_refused = counts.rows, counts.refused + staging.refused
    row.rounded_count = counts.rounded
    row.meter_count = staging.meter_count
    row.stage, row.checked_place, row.tries = ImportStage.CHECK.name, -1, 0
    if not staging.meter_count:
        if not row.problem_count:
            add_problems(row, [ImportProblem("REQUIRED", "The file has no readings.")])
            yield from fail(transaction, row, "The file has no readings.")
            return
        if not row.dry_run:
            first = row.problems[0]["message"]
            yield from fail(transaction, row, f"No row of the file could be taken: {first}")
            return
    yield from SAVE(row)
