"""Finds columns in a line of headers."""

import re
from dataclasses import dataclass
from typing import Final

from app.imports.formats.quantities import plain
from app.imports.profiles.layouts import Names, Series

_CLOCK: Final = re.compile(r"h?([0-9]{1,2}):([0-9]{2})(?::00)?")
_HHMM: Final = re.compile(r"h?([0-9]{0,2}?)([03]0)|0{1,4}")
_NUMBERED: Final = re.compile(r"(.*?)0*([1-9][0-9]?)")
_COUNTS: Final = (48, 50)
_HALF_HOUR: Final = 30


@dataclass(frozen=True)
class Run:
    """Columns at a regular distance: the first, the distance and how many."""

    first: int
    stride: int
    count: int
    ends: bool | None = None
    """Whether labels are the ends of half-hours; None for numbers."""

    @property
    def stop(self) -> int:
        return self.first + self.stride * (self.count - 1) + 1

    def cells(self, count: int) -> slice:
        return slice(self.first, self.first + self.stride * (count - 1) + 1, self.stride)


class Header:
    """A line of headers, and what they are without case, spaces and punctuation."""

    def __init__(self, line: int, cells: list[str]) -> None:
        self.line = line
        self.given = cells
        self.cells = [" ".join(cell.split()) for cell in cells]
        self.names = [plain(cell) for cell in cells]
        self.width = len(cells)

    def find(self, names: Names) -> int | None:
        """The column of the first of these names that is there."""
        for name in names:
            if name in self.names:
                return self.names.index(name)
        return None

    def series(self, wanted: Series) -> tuple[Run, Run | None] | None:
        """The columns of values and of their flags."""
        runs = self._runs(wanted.labels)
        for at, run in enumerate(runs):
            if wanted.columns not in (0, run.count):
                continue
            if wanted.from_start is not None and run.ends is not None and run.ends == wanted.from_start:
                continue
            if wanted.flags == "none":
                return run, None
            if wanted.flags == "any":
                return run, self._between(run) or self._block(runs[at + 1 :], run)
            if wanted.flags == "between":
                between = self._between(run)
                return (run, between) if between is not None else None
            following = runs[at + 1 :] if wanted.flags == wanted.labels else self._runs(wanted.flags)
            flags = self._block(following, run)
            return (run, flags) if flags is not None else None
        return None

    def _between(self, run: Run) -> Run | None:
        return Run(run.first + 1, run.stride, run.count) if run.stride == 2 else None

    def _block(self, runs: list[Run], run: Run) -> Run | None:
        return next((one for one in runs if one.count >= run.count and one.first != run.first), None)

    def _runs(self, labels: str) -> list[Run]:
        if labels == "clock":
            return self._clock_runs([_clock(name) for name in self.names])
        if labels == "hhmm":
            return self._clock_runs([_hhmm(name) for name in self.names])
        if labels == "any":
            runs = self._clock_runs([_clock(name) for name in self.names])
            runs = runs or self._clock_runs([_hhmm(name) for name in self.names])
            return runs or self._numbered_runs(None)
        return self._numbered_runs(labels)

    def _clock_runs(self, minutes: list[int | None]) -> list[Run]:
        for stride in (1, 2):
            for first, start in enumerate(minutes):
                if start not in (0, _HALF_HOUR):
                    continue
                count = 0
                at = first
                while at < len(minutes) and minutes[at] is not None:
                    expected = start + _HALF_HOUR * count
                    # The last end of a day may be written as 00:00.
                    if minutes[at] != expected and (minutes[at], expected) != (0, 1440):
                        break
                    count += 1
                    at += stride
                if count in _COUNTS:
                    return [Run(first, stride, count, ends=start == _HALF_HOUR)]
        return []

    def _numbered_runs(self, prefix: str | None) -> list[Run]:
        found: list[Run] = []
        for first, name in enumerate(self.names):
            start = _NUMBERED.fullmatch(name)
            if start is None or start[2] != "1" or prefix not in (None, start[1]):
                continue
            for stride in (1, 2):
                count = 1
                while first + stride * count < len(self.names):
                    following = _NUMBERED.fullmatch(self.names[first + stride * count])
                    if following is None or following.groups() != (start[1], str(count + 1)):
                        break
                    count += 1
                if count in _COUNTS:
                    found.append(Run(first, stride, count))
                    break
        return found


def _clock(name: str) -> int | None:
    found = _CLOCK.fullmatch(name)
    return int(found[1]) * 60 + int(found[2]) if found is not None else None


def _hhmm(name: str) -> int | None:
    found = _HHMM.fullmatch(name)
    if found is None:
        return None
    return int(found[1] or 0) * 60 + int(found[2]) if found[2] else 0
