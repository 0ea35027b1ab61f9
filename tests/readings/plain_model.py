"""A plain model of readings: each half-hour's values in order, and the events that tell of their changes."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from app.core import clock
from app.events.models import EventRecord
from app.readings.buckets import HALF_HOUR_MS

Value = tuple[int, bool]
"""Micro-kWh, and whether it is estimated."""


class Cell(NamedTuple):
    """A half-hour of a meter's channel, counted from 1970."""

    meter_id: str
    channel: str
    half_hour: int


class Received(NamedTuple):
    """The keys of a `meter_data.received`: the half-hours `[first, end)` and the counts of changed ones."""

    meter_id: str
    channel: str
    first: int
    end: int
    count: int
    estimated: int


class Model:
    """The history of each half-hour, the current value last, and the events of each channel in order."""

    def __init__(self) -> None:
        self.values: dict[Cell, list[Value]] = defaultdict(list)
        self.received: list[Received] = []

    def write(self, given: Mapping[Cell, Value], *, tells: bool = True) -> int:
        """Takes a write; gives how many half-hours it changed. An earlier version's write has told already."""
        changed = {cell: value for cell, value in given.items() if self.values[cell][-1:] != [value]}
        for cell, value in changed.items():
            self.values[cell].append(value)
        if tells:
            self.received += received(changed)
        return len(changed)


def received(changed: Mapping[Cell, Value]) -> list[Received]:
    """The events of a write that changed these half-hours: one for each meter's channel."""
    by_channel: dict[tuple[str, str], dict[int, Value]] = defaultdict(dict)
    for cell, value in changed.items():
        by_channel[cell.meter_id, cell.channel][cell.half_hour] = value
    return [
        Received(*key, min(of), max(of) + 1, len(of), sum(estimated for _, estimated in of.values()))
        for key, of in by_channel.items()
    ]


def told(event: EventRecord) -> Received:
    """The keys of an event of the log."""
    data = event.data
    first, end = (clock.to_ms(clock.parse_utc(data[name])) // HALF_HOUR_MS for name in ("from", "to"))
    return Received(
        data["meterId"], data["channel"], first, end, data["intervalCount"], data["estimatedCount"]
    )
