"""The stand-in of Perse: settlement days of electricity meters from a day on, 120 requests a minute."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar, Final

from starlette.requests import Request

from app.core import clock
from app.feeds.enums import FeedKind
from app.feeds.perse.client import PATH
from app.feeds.settlement_days import PERIODS, read_date
from app.feeds.source import Window
from app.feeds.stand_ins.households import instant_of
from app.feeds.stand_ins.meters import ServedMeter
from app.feeds.stand_ins.server import Endpoint, StandIn
from app.feeds.stand_ins.settlement import ESTIMATED, LOST, settled_days
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

API_KEY: Final = "stand-in-key-of-perse"
AHEAD: Final = timedelta(days=30)
"""The end of the cache's range lies so far in the future."""


class PerseStandIn(StandIn):
    """Perse. Meters with export also have rows of AE; values of another unit, in `wrong-unit`, are rows of RI alone."""

    kind = FeedKind.PERSE
    credentials: ClassVar[Mapping[str, str]] = {"apiKey": API_KEY}
    requests_a_minute = 120

    def endpoints(self) -> Sequence[Endpoint]:
        return [Endpoint(f"/{PATH}", self._history)]

    def error(self, status: int, message: str) -> Any:
        return {"message": message}

    def truth(self, number: str, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """As the base's; Perse has import alone, and no unit that could be wrong."""
        if channel is not ReadingChannel.IMPORT or self.meters[number].scenario.is_wrong_unit:
            return Columns([], [], [])
        return super().truth(number, window)

    def authorize(self, request: Request) -> None:
        given = request.headers.get("api_key")
        if given is None:
            raise self.outside("Give the header api_key.", 401)
        if given != API_KEY or self.scenario.has_expired:
            raise self.failed(401, "Access denied due to invalid key.")

    async def _history(self, request: Request) -> Any:
        first_day = read_date(request.query_params.get("fromDate"))
        if first_day is None:
            raise self.outside("fromDate is a date such as 2024-10-27.")
        meter = self.meters.get(request.query_params.get("MPAN", ""))
        if meter is None or meter.household.type is not MeterType.ELECTRICITY:
            raise self.failed(404, "MPAN not found.")
        await self.slow_down(meter)
        if meter.scenario.is_revoked:
            raise self.failed(403, "There is no valid letter of authority for this MPAN.")
        if meter.scenario.is_rubbish:
            return {"meta": [], "data": "<rubbish>"}
        today = clock.uk_date(instant_of(self.clock.today))
        first = clock.uk_date(meter.moved_in_at)
        meta = {
            "cacheAvailability": f"{first} TO {today + AHEAD}",
            "cacheLastUpdate": f"{today}T04:00:00",
            "range": f"{first_day} TO {today}",
            "source": "CACHE",
        }
        return {"meta": meta, "data": list(_rows(meter, first_day))}


def _rows(meter: ServedMeter, first_day: date) -> Iterator[dict[str, Any]]:
    quantities = {ReadingChannel.IMPORT: "RI" if meter.scenario.is_wrong_unit else "AI"}
    if ReadingChannel.EXPORT in meter.household.channels:
        quantities[ReadingChannel.EXPORT] = "AE"
    for channel, quantity in quantities.items():
        for day, periods in settled_days(meter, first_day, channel):
            row: dict[str, Any] = {"Date": f"{day}", "MPAN": meter.number, "MeasurementQuantity": quantity}
            row |= {f"P{period}": None for period in range(1, PERIODS + 1)}
            row |= {f"UT{period}": None for period in range(1, PERIODS + 1)}
            for period, kwh, state in periods:
                row[f"P{period}"] = kwh
                row[f"UT{period}"] = {ESTIMATED: "E", LOST: None}.get(state, "A")
            yield row
