"""The stand-in of ElectraLink, in the shape of the public mock: all that there is of an electricity meter, at once."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar, Final

from starlette.requests import Request

from app.feeds.electralink.client import DETAILS, HISTORY, MPANS
from app.feeds.enums import FeedKind
from app.feeds.source import Window
from app.feeds.stand_ins.meters import ServedMeter
from app.feeds.stand_ins.server import Endpoint, StandIn
from app.feeds.stand_ins.settlement import ACTUAL, CORRECTED, ESTIMATED, LOST, settled_days
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

API_KEY: Final = "stand-in-key-of-electralink"
PASSWORD: Final = "stand-in-password-of-electralink"  # noqa: S105 - of a local server that everyone may ask

_FLAGS: Final = {ACTUAL: "A", CORRECTED: "X", ESTIMATED: "E", LOST: "M"}
_QUANTITIES: Final = {ReadingChannel.IMPORT: "AI", ReadingChannel.EXPORT: "AE"}


class ElectralinkStandIn(StandIn):
    """ElectraLink. A missing period has 0 and the flag M; in `wrong-unit` the values are Wh and say so."""

    kind = FeedKind.ELECTRALINK
    credentials: ClassVar[Mapping[str, str]] = {"apiKey": API_KEY, "password": PASSWORD}

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint(f"/{HISTORY}", self._history),
            Endpoint(f"/{DETAILS}", self._details),
            Endpoint(f"/{MPANS}", self._mpans),
        ]

    def error(self, status: int, message: str) -> Any:
        return {"error": "Error", "message": message, "status": status}

    def truth(self, number: str, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """As the base's; values in another unit are not taken."""
        if self.meters[number].scenario.is_wrong_unit:
            return Columns([], [], [])
        return super().truth(number, window, channel)

    def authorize(self, request: Request) -> None:
        if request.url.path == f"/{MPANS}":
            return
        given = request.headers.get("api-key"), request.headers.get("api-password")
        if None in given:
            raise self.outside("Give the headers Api-Key and Api-Password.", 401)
        if given != (API_KEY, PASSWORD) or self.scenario.has_expired:
            raise self.failed(401, "Invalid API credentials.")

    async def _mpans(self, _request: Request) -> Any:
        numbers = [
            number for number, meter in self.meters.items() if meter.household.type is MeterType.ELECTRICITY
        ]
        return {"count": len(numbers), "mpans": numbers}

    async def _details(self, request: Request) -> Any:
        meter = self._meter(request)
        return {"mpan": meter.number, "siteName": meter.label, "businessType": "Office"}

    async def _history(self, request: Request) -> Any:
        meter = self._meter(request)
        await self.slow_down(meter)
        if meter.scenario.is_revoked:
            raise self.failed(403, "There is no letter of authority for this MPAN.")
        if meter.scenario.is_rubbish:
            return {"MPAN": meter.number, "MC": "<rubbish>"}
        quantities = {_QUANTITIES[channel]: _days(meter, channel) for channel in meter.household.channels}
        return {"MPAN": meter.number, "site": meter.label, "MC": quantities}

    def _meter(self, request: Request) -> ServedMeter:
        mpan = request.query_params.get("mpan")
        if mpan is None:
            raise self.outside("MPAN parameter is required")
        meter = self.meters.get(mpan)
        if meter is None or meter.household.type is not MeterType.ELECTRICITY:
            raise self.failed(404, f"MPAN {mpan} not found")
        return meter


def _days(meter: ServedMeter, channel: ReadingChannel) -> dict[str, Any]:
    unit = "Wh" if meter.scenario.is_wrong_unit else "kWh"
    return {
        f"{day}": {
            f"{period}": {"period": period, "hhc": kwh or 0, "aei": _FLAGS[state], "qty_id": unit}
            for period, kwh, state in periods
        }
        for day, periods in settled_days(meter, date.min, channel)
    }
