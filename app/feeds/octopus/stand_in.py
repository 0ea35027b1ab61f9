"""The stand-in of Octopus Energy: accounts, consumption with its pages and offsets, and a key's account numbers."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final

import orjson
from starlette.requests import Request

from app.core import clock
from app.core.decimals import MICRO
from app.feeds.enums import FeedKind
from app.feeds.source import Window
from app.feeds.stand_ins.households import half_hour, instant_of
from app.feeds.stand_ins.meters import Serial, ServedMeter, Shown
from app.feeds.stand_ins.scenarios import Scenario
from app.feeds.stand_ins.server import Endpoint, StandIn
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

ACCOUNT: Final = "A-5EED0001"
API_KEY: Final = "sk_live_stand_in_of_octopus"
LARGEST_PAGE: Final = 25_000
USUAL_PAGE: Final = 100
IN_ACCOUNT: Final = 200
"""Meters of an account at most; neighbours beyond it are in accounts of their own."""


class OctopusStandIn(StandIn):
    """Octopus Energy. Each answer holds a half-hour more at both ends than it was asked for."""

    kind = FeedKind.OCTOPUS
    credentials: ClassVar[Mapping[str, str]] = {"apiKey": API_KEY}
    settings: ClassVar[Mapping[str, str]] = {"accountNumber": ACCOUNT}
    base_path = "/v1"
    has_export_numbers = True

    def play(self, scenario: Scenario) -> None:
        super().play(scenario)
        self._moved_out: dict[str, datetime] = {}
        self._points: dict[str, tuple[ServedMeter, ReadingChannel]] = {}
        for meter in self.meters.values():
            self._points[meter.number] = meter, ReadingChannel.IMPORT
            if meter.export_number is not None:
                self._points[meter.export_number] = meter, ReadingChannel.EXPORT

    def move_out(self, number: str, at: datetime) -> None:
        """The account's customer leaves the home of a meter; its next tenant's readings are shown all the same."""
        self._moved_out[number] = at

    def meter_settings(self, meter: ServedMeter) -> Mapping[str, str]:
        is_gas_in_kwh = meter.household.type is MeterType.GAS and meter.household.unit == "kwh"
        return {"gasUnit": "KWH"} if is_gas_in_kwh else {}

    def truth(self, number: str, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """As the base's; an export point has readings of the channel EXPORT alone."""
        meter, its_channel = self._points[number]
        return meter.truth(window, its_channel)

    def endpoints(self) -> Sequence[Endpoint]:
        of_serial = "{number}/meters/{serial}/consumption/"
        return [
            Endpoint("/accounts/{number}/", self._account),
            Endpoint(f"/electricity-meter-points/{of_serial}", self._electricity),
            Endpoint(f"/gas-meter-points/{of_serial}", self._gas),
            Endpoint("/graphql/", self._query, "POST"),
        ]

    def error(self, status: int, message: str) -> Any:
        return {"detail": message}

    def authorize(self, request: Request) -> None:
        if request.url.path == f"{self.base_path}/graphql/":
            return
        pair = base64.b64encode(f"{API_KEY}:".encode()).decode()
        given = request.headers.get("authorization")
        if given is None:
            raise self.outside("Authentication credentials were not provided.", 401)
        if given != f"Basic {pair}" or self.scenario.has_expired:
            raise self.failed(401, "Invalid API key.")

    async def _query(self, request: Request) -> Any:
        asked = orjson.loads(await request.body())
        if "obtainKrakenToken" in asked.get("query", ""):
            if asked["variables"] != {"key": API_KEY} or self.scenario.has_expired:
                return {"data": {"obtainKrakenToken": None}, "errors": [{"message": "Invalid data."}]}
            return {"data": {"obtainKrakenToken": {"token": "token-of-the-stand-in"}}}
        if request.headers.get("authorization") != "token-of-the-stand-in":
            return {"data": {"viewer": None}, "errors": [{"message": "Unauthorized."}]}
        return {"data": {"viewer": {"accounts": [{"number": number} for number in self._accounts()]}}}

    def _accounts(self) -> dict[str, list[ServedMeter]]:
        """The meters by the number of their account."""
        meters = list(self.meters.values())
        parts = range(0, len(meters), IN_ACCOUNT)
        return {f"A-5EED{1 + at // IN_ACCOUNT:04}": meters[at : at + IN_ACCOUNT] for at in parts}

    async def _account(self, request: Request) -> Any:
        number = request.path_params["number"]
        meters = self._accounts().get(number)
        if meters is None:
            raise self.failed(404, "Not found.")
        homes = [self._home(place, meter) for place, meter in enumerate(meters)]
        return {"number": number, "properties": homes}

    def _home(self, place: int, meter: ServedMeter) -> Any:
        moved_out = self._moved_out.get(meter.number)
        points = [self._point(meter, meter.number, is_export=False)]
        if meter.export_number is not None:
            points.append(self._point(meter, meter.export_number, is_export=True))
        is_gas = meter.household.type is MeterType.GAS
        return {
            "id": 1_000 + place,
            "moved_in_at": meter.moved_in_at.astimezone(clock.UK).isoformat(),
            "moved_out_at": None if moved_out is None else moved_out.astimezone(clock.UK).isoformat(),
            "address_line_1": f"{place + 1} Stand-in Street",
            "address_line_2": "",
            "town": "LONDON",
            "county": "",
            "postcode": "SW1A 1AA",
            "electricity_meter_points": [] if is_gas else points,
            "gas_meter_points": points if is_gas else [],
        }

    def _point(self, meter: ServedMeter, number: str, *, is_export: bool) -> Any:
        is_gas = meter.household.type is MeterType.GAS
        devices = [{"serial_number": serial.number, "registers": []} for serial in meter.serials]
        agreements = [
            {
                "tariff_code": "E-1R-VAR-22-11-01-A",
                "valid_from": "2023-04-01T00:00:00+01:00",
                "valid_to": None,
            }
        ]
        point = {
            "consumption_standard": 12_000 if is_gas else 3_100,
            "meters": devices,
            "agreements": agreements,
        }
        if is_gas:
            return {"mprn": number, **point}
        return {"mpan": number, "profile_class": 8 if is_export else 1, "is_export": is_export, **point}

    async def _electricity(self, request: Request) -> Any:
        return await self._consumption(request, MeterType.ELECTRICITY)

    async def _gas(self, request: Request) -> Any:
        return await self._consumption(request, MeterType.GAS)

    async def _consumption(self, request: Request, type: MeterType) -> Any:
        meter, channel = self._points.get(request.path_params["number"], (None, ReadingChannel.IMPORT))
        if meter is None or meter.household.type is not type:
            raise self.failed(404, "Not found.")
        serial = next((one for one in meter.serials if one.number == request.path_params["serial"]), None)
        if serial is None:
            raise self.failed(404, "Not found.")
        await self.slow_down(meter)
        if meter.scenario.is_revoked:
            raise self.failed(403, "You do not have permission to perform this action.")
        first, after = self._period(request)
        page, size = self._page(request)
        if meter.scenario.is_rubbish:
            return {"count": 3, "next": None, "previous": None, "results": "<rubbish>"}
        # A half-hour more at both ends, as the source's answers have been seen to hold.
        shown = _of_serial(meter, serial, first - 1, after + 1, channel)
        rows = list(_rows(shown))
        if request.query_params.get("order_by") != "period":
            rows.reverse()
        part = rows[(page - 1) * size : page * size]
        if not part and page > 1:
            raise self.failed(404, "Invalid page.")
        is_last = page * size >= len(rows)
        return {
            "count": len(rows),
            "next": None if is_last else str(request.url.include_query_params(page=page + 1)),
            "previous": None if page == 1 else str(request.url.include_query_params(page=page - 1)),
            "results": part,
        }

    def _period(self, request: Request) -> tuple[int, int]:
        """The half-hours that are asked for. Raises Answered for a period that the source does not take."""
        start, end = (request.query_params.get(name) for name in ("period_from", "period_to"))
        if start is None and end is not None:
            raise self.outside("period_to needs a period_from.")
        try:
            first = 0 if start is None else half_hour(_moment(start))
            after = 1 << 40 if end is None else half_hour(_moment(end))
        except ValueError:
            raise self.outside("A period is an instant in ISO 8601.") from None
        return first, after

    def _page(self, request: Request) -> tuple[int, int]:
        query = request.query_params
        page, size = query.get("page", "1"), query.get("page_size", str(USUAL_PAGE))
        if not (page.isdecimal() and size.isdecimal() and 1 <= int(size) <= LARGEST_PAGE and int(page)):
            raise self.outside(f"A page has 1 to {LARGEST_PAGE} half-hours.")
        return int(page), int(size)


def _of_serial(meter: ServedMeter, serial: Serial, first: int, after: int, channel: ReadingChannel) -> Shown:
    return meter.shown(max(first, serial.first), min(after, serial.after), channel)


def _rows(shown: Shown) -> Iterator[dict[str, Any]]:
    for at, amount in zip(shown.starts, shown.amounts, strict=True):
        yield {
            "consumption": amount / MICRO,
            "interval_start": _london(at),
            "interval_end": _london(at + 1),
        }


def _moment(text: str) -> datetime:
    """An instant; without an offset it is London's time."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=clock.UK)


@lru_cache(maxsize=40_000)
def _london(at: int) -> str:
    text = instant_of(at).astimezone(clock.UK).isoformat()
    return f"{text[:19]}Z" if text.endswith("+00:00") else text
