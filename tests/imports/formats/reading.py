"""Reads files in tests, and sums up what they hold."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from app.imports.formats.interface import FileRefused, MeterReadings, Options, Problem
from app.imports.formats.parsed_file import ParsedFile, open_file
from app.readings.packing import slots

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
MPAN, OTHER, THIRD = "2499999999991", "1312345678907", "9999999999995"
MPRN = "3938424403"

Reading = tuple[int, bool]
Series = dict[tuple[str, str], dict[datetime, Reading]]
"""Micro-kWh and whether they are estimated, by UTC start, by meter and channel."""


class Taken:
    """The readings and problems of a file, read to its end."""

    def __init__(self, content: bytes | str, **options: Any) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        self.file: ParsedFile = open_file(io.BytesIO(data), Options(**{"now": NOW, **options}))
        self.readings: Series = {}
        self.problems: list[Problem] = []
        self.days: list[MeterReadings] = []
        for found in self.file:
            if isinstance(found, Problem):
                self.problems.append(found)
                continue
            self.days.append(found)
            assert len(found.amounts) == 48
            series = self.readings.setdefault((found.meter.text, found.channel.value), {})
            midnight = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=found.day)
            for slot in slots(found.present):
                start = midnight + timedelta(minutes=30 * slot)
                assert start not in series
                series[start] = found.amounts[slot], bool(found.estimated >> slot & 1)
        assert self.counts.readings == sum(map(len, self.readings.values()))

    @property
    def counts(self) -> Any:
        return self.file.counts

    def total(self, meter: str = MPAN, channel: str = "IMPORT") -> int:
        return sum(amount for amount, _ in self.readings[meter, channel].values())

    def estimated(self, meter: str = MPAN, channel: str = "IMPORT") -> list[datetime]:
        return [start for start, (_, estimated) in sorted(self.readings[meter, channel].items()) if estimated]

    @property
    def places(self) -> list[tuple[str, int, int | None]]:
        return [(one.code, one.line, one.column) for one in self.problems]


def refusal(content: bytes | str, **options: Any) -> Problem:
    """The problem for which the whole file is refused."""
    try:
        Taken(content, **options)
    except FileRefused as error:
        return error.problem
    raise AssertionError("The file was taken.")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
