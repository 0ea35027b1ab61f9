"""Parts of an import that one transaction writes, made of the waiting days in the order of their meters."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from app.db.sql import Sql
from app.imports.stages.checking import ImportedMeter
from app.imports.stages.packed_days import unpack_waiting
from app.imports.stages.work import Work
from app.readings.packing import Day, pack, unpack

ROWS_READ: Final = 64

_NEXT: Final = Sql("""
    SELECT days.place, days.channel, days.number, days.days, days.packed,
        meters.meter_id, meters.customer_id, meters.number, meters.line, meters.file, CAST(meters.written AS TEXT)
    FROM file_import_days AS days
    JOIN file_import_meters AS meters ON meters.import_id = days.import_id AND meters.place = days.place
    WHERE days.import_id = :id AND (days.place, days.channel, days.number) > (:place, :channel, :number)
    ORDER BY days.place, days.channel, days.number LIMIT :limit
""")


Series = tuple[int, int]
"""A meter's place and the code of a channel."""
Sums = dict[int, dict[str, Sequence[int]]]
"""By place and channel, the sum of changed half-hours that no event has told of."""


class Run(NamedTuple):
    """A row of waiting days with their meter. `written` sums up its parts that are written, by channel."""

    channel: int
    number: int
    days: int
    packed: bytes
    meter: ImportedMeter
    written: dict[str, Sequence[int]]

    @property
    def series(self) -> Series:
        return self.meter.place, self.channel


class Part(NamedTuple):
    """Runs that one transaction writes, by series; `unfinished` is the one of which more are left."""

    runs: dict[Series, list[Run]]
    days: dict[Series, dict[int, bytes]]
    unfinished: Series | None
    sums: Sums

    @property
    def day_count(self) -> int:
        return sum(map(len, self.days.values()))

    @property
    def meters(self) -> dict[int, ImportedMeter]:
        return {place: runs[0].meter for (place, _), runs in self.runs.items()}


class WaitingDays:
    """The runs that wait, read some at a time. `sums` are those that parts since the reading have changed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._runs: list[Run] = []
        self._has_more = True
        self.sums: Sums = {}

    async def take(self, size: int) -> Part | None:
        """The next part of about so many days, at least one run; None at the end."""
        while self._has_more and sum(run.days for run in self._runs) <= size:
            await self._read()
        if not self._runs:
            return None
        count, at = 0, 0
        for at, run in enumerate(self._runs, 1):
            count += run.days
            if at < len(self._runs) and count + self._runs[at].days > size:
                break
        taken, self._runs = self._runs[:at], self._runs[at:]
        follower = self._runs[0].series if self._runs else None
        unfinished = follower if follower == taken[-1].series else None
        return await asyncio.to_thread(_part_of, taken, unfinished, self.sums)

    async def _read(self) -> None:
        database = self._work.database
        # With no run left in memory, all before were written and deleted: the first that waits is the next.
        last = self._runs[-1] if self._runs else None
        after = (-1, -1, -1) if last is None else (*last.series, last.number)
        position = dict(zip(("place", "channel", "number"), after, strict=True))
        given = {"id": self._work.id, "limit": ROWS_READ, **position}
        page = await database.read(_NEXT.of(database.is_sqlite), given)
        self._has_more = len(page) == ROWS_READ
        for place, channel, number, days, packed, *meter, written in page:
            sums = orjson.loads(written)
            self._runs.append(Run(channel, number, days, packed, ImportedMeter(place, *meter), sums))


def _part_of(runs: Sequence[Run], unfinished: Series | None, sums: Sums) -> Part:
    by_series: dict[Series, list[Run]] = {}
    days: dict[Series, dict[int, bytes]] = {}
    for run in runs:
        by_series.setdefault(run.series, []).append(run)
        of_series = days.setdefault(run.series, {})
        for one in unpack_waiting(run.packed):
            before = of_series.get(one.day)
            of_series[one.day] = one.packed if before is None else _together(before, one.packed)
    stored = {run.meter.place: run.written for run in runs}
    return Part(
        by_series, days, unfinished, stored | {place: sums[place] for place in stored if place in sums}
    )


def _together(packed: bytes, also_packed: bytes) -> bytes:
    """The half-hours of two parts of one day, which have none in common."""
    first, second = unpack(packed), unpack(also_packed)
    amounts = [one or other for one, other in zip(first.amounts, second.amounts, strict=True)]
    return pack(Day(first.present | second.present, first.estimated | second.estimated, amounts))
