"""The kind N3RGY: n3rgy data, for British smart meters of electricity and gas over the DCC."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from app.core import clock
from app.core.lru import WeightedLru
from app.feeds.amounts import CALORIFIC_VALUE, Amounts
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.n3rgy.client import LONGEST, N3rgyClient
from app.feeds.n3rgy.mapping import amounts_of, held_from, reading_types, source_meters, unit_of
from app.feeds.source import (
    Fetched,
    FetchedMeter,
    MissingPeriod,
    SourceKind,
    SourceMeter,
    Window,
)
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

METERS_KEPT: Final = 20_000
"""Meters whose reading types are remembered."""
_METER_WEIGHT: Final = 200


class N3rgy:
    """n3rgy with one API key."""

    def __init__(self, client: N3rgyClient) -> None:
        self._client = client
        self._types: WeightedLru[str, dict[ReadingChannel, str]] = WeightedLru(
            METERS_KEPT, METERS_KEPT * _METER_WEIGHT
        )

    async def discover(self) -> Sequence[SourceMeter]:
        """The meters whose customers have consented."""
        return source_meters(dict.fromkeys(await self._client.entries()))

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The readings of a window, by requests of 89 days; nothing of today, whose half-hours may be unfinished."""
        today = datetime.combine(clock.now().date(), datetime.min.time(), UTC)
        window = Window(window.start, min(window.end, today))
        readings: dict[ReadingChannel, Columns] = {}
        missing: list[MissingPeriod] = []
        if window.start >= window.end:
            return Fetched(readings)
        for channel, reading_type in (await self._reading_types(meter)).items():
            whole = Columns([], [], [])
            for part in window.parts(LONGEST):
                columns, lost = await self._part(meter, channel, reading_type, part)
                whole.extend(columns)
                missing += lost
            if whole.starts:
                readings[channel] = whole
        return Fetched(readings, missing)

    async def _part(
        self, meter: FetchedMeter, channel: ReadingChannel, reading_type: str, part: Window
    ) -> tuple[Columns, list[MissingPeriod]]:
        answer = await self._client.readings(meter.number, meter.type, reading_type, *part)
        unit = unit_of(answer, meter.type, meter.settings)
        amounts = amounts_of(answer, part, channel, unit)
        _explain_start(amounts, held_from(answer))
        return amounts.columns(), amounts.missing()

    async def _reading_types(self, meter: FetchedMeter) -> dict[ReadingChannel, str]:
        key = f"{meter.type.name}{meter.number}"
        found = self._types.get(key)
        if found is None:
            found = reading_types(await self._client.reading_types(meter.number, meter.type))
            self._types.put(key, found, _METER_WEIGHT)
        return found


def _explain_start(amounts: Amounts, first: int | None) -> None:
    """Gives the half-hours before n3rgy's cache their reason.

    The cache's beginning is no move-in: n3rgy fills the cache over hours after a consent, from the newest half-hours
    back.
    """
    if first is None or first <= amounts.first or any(at < first for at in amounts.values):
        return
    day = clock.long_date(clock.uk_date(clock.from_ms(first * HALF_HOUR_MS)))
    for at in range(amounts.first, min(first, amounts.after)):
        amounts.lose(at, f"n3rgy holds readings of this meter from {day} on.")


def open_source(credentials: Mapping[str, str], settings: Mapping[str, str], exchange: Exchange) -> N3rgy:
    return N3rgy(N3rgyClient(exchange, credentials["apiKey"]))


N3RGY: Final = SourceKind(
    kind=FeedKind.N3RGY,
    base_url="https://api-v2.data.n3rgy.com",
    credentials=("apiKey",),
    open=open_source,
    settings=(CALORIFIC_VALUE,),
    requests_a_minute=120.0,
    burst=10,
)
