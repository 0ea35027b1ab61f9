"""The demo's table: a row for each event, a column for each way, and how long each arrival took."""

import asyncio
import enum
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from rich import box
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Way(enum.Enum):
    """How an event arrives; the values head the columns."""

    SOCKET = "WebSocket"
    WEBHOOK = "Webhook"
    EMAIL = "Email"


ROOM_FOR_STORY: Final = 100
NO_STORY: Final = "not part of this play"
CAPTION: Final = (
    "Milliseconds from just before the mutation is sent until the event, or the last of several, is here. "
    "✓ The webhook's signature was checked by the Standard Webhooks rule."
)


@dataclass
class Row:
    """A sort of event: its dotted name, what happens (None if it is not played), and how many of it come.

    Times are `time.perf_counter()`; arrivals have them by the events' ids.
    """

    name: str
    story: str | None
    count: int = 1
    sent_at: float | None = None
    event_ids: set[str] = field(default_factory=set)
    arrivals: dict[Way, dict[str, float]] = field(default_factory=lambda: {way: {} for way in Way})

    def is_complete(self, way: Way | None = None) -> bool:
        """Whether all have arrived, by one way or by all of them."""
        return all(len(self.arrivals[one]) == self.count for one in (Way if way is None else (way,)))

    def milliseconds(self, way: Way) -> int | None:
        """From the mutation to the last arrival; None until all have arrived."""
        if self.sent_at is None or not self.is_complete(way):
            return None
        return round((max(self.arrivals[way].values()) - self.sent_at) * 1000)


class Board:
    """Matches arrivals by the event's id. A mail does not name the event's type, so it may wait for the other ways."""

    def __init__(
        self, stories: Mapping[str, str | None], counts: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """`counts` has the events of which more than one comes."""
        self.rows = [Row(name, story, counts.get(name, 1)) for name, story in stories.items()]
        self._by_id: dict[str, Row] = {}
        self._unknown: dict[tuple[str, Way], float] = {}
        self._changed = asyncio.Event()
        # One spinner for all cells and drawings: a new one would start over each time, and never move.
        self._moving = Spinner("dots", style="cyan")

    def sending(self, *names: str) -> None:
        """The mutation behind these events goes out now."""
        now = time.perf_counter()
        for row in self.rows:
            if row.name in names:
                row.sent_at = now

    def arrived(self, way: Way, event_id: str, name: str | None = None) -> bool:
        """Note an arrival; False where it belongs to no row."""
        at = time.perf_counter()
        row = self._row(event_id, name)
        if row is None:
            self._unknown[event_id, way] = at
            return False
        row.arrivals[way].setdefault(event_id, at)
        self._changed.set()
        return True

    async def wait_for(self, names: Iterable[str], seconds: float) -> bool:
        """Whether these events arrived by all ways within the time."""
        rows = [row for row in self.rows if row.name in set(names)]
        try:
            async with asyncio.timeout(seconds):
                while not all(row.is_complete() for row in rows):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def missing(self) -> list[str]:
        """The arrivals that are missing, each as `meter.created by email`."""
        return [
            f"{row.name} by {way.value if way is Way.SOCKET else way.value.lower()}"
            for row in self.rows
            for way in Way
            if row.story is not None and not row.is_complete(way)
        ]

    def table(self, width: int, *, live: bool = True) -> Table:
        """The table as of now; with `live`, arrivals under way have a moving sign."""
        table = Table(box=box.ROUNDED, caption=CAPTION, caption_justify="left", pad_edge=True)
        table.add_column("Event", no_wrap=True)
        with_story = width >= ROOM_FOR_STORY
        if with_story:
            table.add_column("What happens", style="dim", no_wrap=True)
        for way in Way:
            table.add_column(way.value, justify="right", no_wrap=True, min_width=11)
        for row in self.rows:
            style = "dim" if row.sent_at is None else "bold" if row.is_complete() else ""
            cells: list[Text | Spinner] = [Text(row.name, style)]
            if with_story:
                cells.append(Text(NO_STORY if row.story is None else row.story))
            table.add_row(*cells, *(self._cell(row, way, live) for way in Way))
        return table

    def _row(self, event_id: str, name: str | None) -> Row | None:
        known = self._by_id.get(event_id)
        if known is not None or name is None:
            return known
        for row in self.rows:
            if row.name == name and row.sent_at is not None and len(row.event_ids) < row.count:
                row.event_ids.add(event_id)
                self._by_id[event_id] = row
                for way in Way:
                    if (event_id, way) in self._unknown:
                        row.arrivals[way][event_id] = self._unknown.pop((event_id, way))
                return row
        return None

    def _cell(self, row: Row, way: Way, live: bool) -> Text | Spinner:
        milliseconds = row.milliseconds(way)
        if milliseconds is not None:
            tick = "✓ " if way is Way.WEBHOOK else ""
            many = f"{row.count} in " if row.count > 1 else ""
            return Text(f"{tick}{many}{milliseconds} ms", "green", justify="right")
        if row.count > 1 and row.arrivals[way]:
            return Text(f"{len(row.arrivals[way])} of {row.count}", justify="right")
        if row.sent_at is None or not live:
            return Text("–", "dim", justify="right")
        return self._moving
