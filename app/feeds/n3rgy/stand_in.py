"""The stand-in of n3rgy, version 2: the list of meters, reading types, and readings with bad values among them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar, Final

from starlette.requests import Request

from app.core import clock
from app.core.decimals import MICRO
from app.feeds.enums import FeedKind
from app.feeds.stand_ins.households import SLOTS, half_hour, instant_of
from app.feeds.stand_ins.meters import ServedMeter, Shown
from app.feeds.stand_ins.scenarios import Loss
from app.feeds.stand_ins.server import Endpoint, StandIn
from app.meters.enums import MeterType
from app.readings.enums import ReadingChannel

API_KEY: Final = "stand-in-key-of-n3rgy"
LONGEST: Final = timedelta(days=90)
LARGEST_PAGE: Final = 100
SENTINELS: Final = {MeterType.ELECTRICITY: 4294967.295, MeterType.GAS: 16777.215}
_CHANNELS: Final = {"consumption": ReadingChannel.IMPORT, "production": ReadingChannel.EXPORT}
_STAMP: Final = "%Y%m%d%H%M"


class N3rgyStandIn(StandIn):
    """n3rgy. Its cache claims to reach into the future, as the source's does at times."""

    kind = FeedKind.N3RGY
    credentials: ClassVar[Mapping[str, str]] = {"apiKey": API_KEY}
    retry_after = False

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint("/", self._list),
            Endpoint("/mpxn/{number}/utility/{utility}", self._types),
            Endpoint("/mpxn/{number}/utility/{utility}/readingtype/{type}", self._readings),
        ]

    def error(self, status: int, message: str) -> Any:
        return {"errors": [{"code": status, "message": message}]}

    def authorize(self, request: Request) -> None:
        given = request.headers.get("x-api-key")
        if given is None:
            raise self.outside("Missing Authentication Token", 403)
        if given != API_KEY or self.scenario.has_expired:
            raise self.failed(403, "Invalid API key.")

    async def _list(self, request: Request) -> Any:
        query = request.query_params
        start, most = query.get("startAt", "0"), query.get("maxResults", str(LARGEST_PAGE))
        if not (start.isdecimal() and most.isdecimal() and 1 <= int(most) <= LARGEST_PAGE):
            raise self.outside("maxResults is 1 to 100.")
        numbers = [meter.number for meter in self.meters.values() if not meter.scenario.is_revoked]
        return {
            "resource": "/",
            "responseTimestamp": _told(clock.now()),
            "startAt": int(start),
            "maxResults": int(most),
            "total": len(numbers),
            "entries": numbers[int(start) : int(start) + int(most)],
        }

    async def _types(self, request: Request) -> Any:
        meter = await self._meter(request)
        exports = ["production"] if ReadingChannel.EXPORT in meter.household.channels else []
        return {
            "resource": request.url.path,
            "responseTimestamp": _told(clock.now()),
            "entries": ["consumption", *exports, "tariff"],
        }

    async def _readings(self, request: Request) -> Any:
        meter = await self._meter(request)
        channel = _CHANNELS.get(request.path_params["type"])
        if channel is None or channel not in meter.household.channels:
            raise self.failed(404, "Reading type not found.")
        start, end = self._period(request)
        answer = {
            "resource": request.url.path,
            "responseTimestamp": _told(clock.now()),
            "start": f"{start:{_STAMP}}",
            "end": f"{end:{_STAMP}}",
            "granularity": "halfhour",
            "availableCacheRange": {
                "start": f"{instant_of(meter.first + 1):{_STAMP}}",
                "end": f"{instant_of(self.clock.today) + timedelta(days=3):{_STAMP}}",
            },
            "unit": "m3" if meter.household.unit == "m3" else "kWh",
        }
        if meter.scenario.is_rubbish:
            return answer | {"devices": [{"deviceId": 7, "values": "none"}]}
        # Timestamps are ends: the first that is asked for is that of the half-hour before it.
        shown = meter.shown(half_hour(start) - 1, half_hour(end), channel)
        return answer | {"devices": self._devices(meter, shown)}

    def _devices(self, meter: ServedMeter, shown: Shown) -> list[dict[str, Any]]:
        """The values of each device: one before an exchange and one after it."""
        found = []
        for serial in meter.serials:
            values: list[dict[str, Any]] = [
                {"primaryValue": amount / MICRO, "timestamp": _stamp(at + 1)}
                for at, amount in zip(shown.starts, shown.amounts, strict=True)
                if serial.first <= at < serial.after
            ]
            lost = [
                _lost(at, loss, meter.household.type)
                for at, loss in shown.lost
                if serial.first <= at < serial.after
            ]
            if values or lost:
                values += lost
                values.sort(key=lambda value: value["timestamp"])
                found.append({"deviceId": f"{serial.number:>016}", "values": values})
        return found

    async def _meter(self, request: Request) -> ServedMeter:
        """The meter that is asked for. Raises Answered for one that the key may not see."""
        meter = self.meters.get(request.path_params["number"])
        if meter is None:
            raise self.failed(404, "No property could be found with identifier.")
        utility = "gas" if meter.household.type is MeterType.GAS else "electricity"
        if request.path_params["utility"] != utility:
            raise self.failed(404, "No utility could be found.")
        await self.slow_down(meter)
        if meter.scenario.is_revoked:
            raise self.failed(403, "Consent for the given MPxN not found.")
        return meter

    def _period(self, request: Request) -> tuple[datetime, datetime]:
        """The first and the last end of a half-hour. Raises Answered for a period outside the source's limits."""
        query = request.query_params
        if query.get("granularity") != "halfhour" or query.get("outputFormat", "json") != "json":
            raise self.outside("The stand-in has half-hours as JSON alone.")
        try:
            start, end = (
                datetime.strptime(query[name], _STAMP).replace(tzinfo=UTC) for name in ("start", "end")
            )
        except (KeyError, ValueError):
            raise self.outside("start and end are written as yyyyMMddHHmm.") from None
        if start > end:
            raise self.outside("start is after end.")
        if end - start >= LONGEST:
            raise self.outside("A request is for 90 days at most.")
        if half_hour(end) > self.clock.today + 2:
            raise self.outside("end is later than yesterday.")
        return start, end


def _lost(at: int, loss: Loss, type: MeterType) -> dict[str, Any]:
    """A half-hour without a reading, in one of the ways of the source."""
    if loss is Loss.INVALID and at // SLOTS % 2:
        return {"primaryValue": SENTINELS[type], "timestamp": _stamp(at + 1)}
    words = "value not available in SMSO" if loss is Loss.NOT_COLLECTED else "invalid value"
    return {"primaryValue": 0, "timestamp": _stamp(at + 1), "additionalInformation": words}


@lru_cache(maxsize=40_000)
def _stamp(at: int) -> str:
    """The timestamp of the half-hour's beginning; midnight is 24:00 of the day before."""
    moment = instant_of(at)
    if at % SLOTS == 0:
        return f"{moment - timedelta(minutes=30):%Y-%m-%d} 24:00"
    return f"{moment:%Y-%m-%d %H:%M}"


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.000Z}"
