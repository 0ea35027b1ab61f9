"""October's day of 25 hours in rows: its readings wait until the file shows how it counts them."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from app.imports.formats.interface import refused
from app.imports.formats.uk_days import SLOTS, UkDays, clock_change

MAX_WAITING: Final = 500_000


class Resolved(NamedTuple):
    """A reading with its UTC half-hour, or the sentence why it has none."""

    stream: int
    half_hour: int
    amount: int
    estimated: bool
    line: int
    problem: str | None


class _Waiting(NamedTuple):
    amount: int
    estimated: bool
    line: int
    before: int | None
    """The half-hour that the stream had before this one, which tells whether the file is newest first."""


class DoubledHours:
    """Readings whose label has two instants. A file with both hours gives each label twice, in its own order."""

    def __init__(self, uk: UkDays) -> None:
        self._uk = uk
        self._waiting: dict[tuple[int, int], list[_Waiting]] = {}
        self._count = 0

    def add(
        self, stream: int, label: int, amount: int, estimated: bool, line: int, before: int | None
    ) -> None:
        self._count += 1
        if self._count > MAX_WAITING:
            raise refused(
                "LIMIT_REACHED",
                f"A file has at most {MAX_WAITING:,} readings in the hour that comes twice.",
                line,
            )
        self._waiting.setdefault((stream, label), []).append(_Waiting(amount, estimated, line, before))

    def resolve(self, last: Mapping[int, int], ended: int = 0) -> Iterator[Resolved]:
        """All that waits, in the order in which it came. `last` is each stream's last half-hour of the file."""
        for (stream, label), waiting in self._waiting.items():
            early, late = self._uk.instants(label)
            day = label // SLOTS
            first = waiting[0]
            if len(waiting) != 2:
                hour = f"{label % SLOTS // 2:02}:{label % 2 * 30:02}"
                said = "once" if len(waiting) == 1 else f"{len(waiting)} times"
                problem = clock_change(day, 50, f"this file has {hour} {said} instead of twice")
                for one in waiting:
                    yield Resolved(stream, early, one.amount, one.estimated, one.line, problem)
                continue
            if first.before is not None and first.before >= 0:
                newest_first = first.before > late
            else:
                newest_first = last.get(stream, late) < early
            pair = (late, early) if newest_first else (early, late)
            for half_hour, one in zip(pair, waiting, strict=True):
                yield Resolved(stream, half_hour - ended, one.amount, one.estimated, one.line, None)
        self._waiting = {}


class LongDays:
    """Settlement periods of days of 50. A file that has 48 of them and not the last two counts otherwise.

    `waiting`: by stream, the readings of its long day that wait.
    """

    def __init__(self, uk: UkDays) -> None:
        self._uk = uk
        self.waiting: dict[int, dict[int, Resolved]] = {}
        self._days: dict[int, int] = {}
        self._count = 0

    def add(self, stream: int, day: int, reading: Resolved) -> list[Resolved]:
        """Keeps a reading. Returns those that wait no longer: of another day, or given twice."""
        ready = self.resolve(stream) if self._days.get(stream, day) != day else []
        self._days[stream] = day
        waiting = self.waiting.setdefault(stream, {})
        if reading.half_hour in waiting:
            return [*ready, *self.resolve(stream), reading]
        self._count += 1
        if self._count > MAX_WAITING:
            raise refused(
                "LIMIT_REACHED", f"A file has at most {MAX_WAITING:,} readings that wait.", reading.line
            )
        waiting[reading.half_hour] = reading
        return ready

    def resolve(self, stream: int) -> list[Resolved]:
        """The readings of a stream, with the sentence about them if its day has 48."""
        waiting = self.waiting.pop(stream)
        self._count -= len(waiting)
        day = self._days.pop(stream)
        first, count = self._uk.bounds(day)
        if len(waiting) != SLOTS or max(waiting) >= first + SLOTS:
            return list(waiting.values())
        problem = clock_change(day, count, "this file has 48 of them")
        return [one._replace(problem=problem) for one in waiting.values()]

    def streams(self) -> list[int]:
        return list(self.waiting)
