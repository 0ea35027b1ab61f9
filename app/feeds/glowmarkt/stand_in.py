"""The stand-in of Glowmarkt: signing in, a home for each meter, and readings in windows of ten days at most."""

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar, Final

import orjson
from starlette.requests import Request

from app.core.decimals import MICRO
from app.feeds.enums import FeedKind
from app.feeds.glowmarkt.client import BRIGHT, LONGEST, TOKEN_LASTS
from app.feeds.glowmarkt.mapping import SECONDS, UNIT
from app.feeds.source import Window
from app.feeds.stand_ins.households import SLOTS, half_hour, instant_of
from app.feeds.stand_ins.meters import ServedMeter
from app.feeds.stand_ins.scenarios import Loss, Scenario
from app.feeds.stand_ins.server import Endpoint, StandIn
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

USERNAME: Final = "stand-in@example.org"
PASSWORD: Final = "stand-in-password-of-glowmarkt"  # noqa: S105 - of a local server that everyone may ask
KEPT_DAYS: Final = 400
"""The days of readings that are kept: a little more than 13 months."""

_NO_VALUE: Final = {MeterType.ELECTRICITY: 4294967.295, MeterType.GAS: 16777.215}
"""Numbers that stand for no value."""
_NAMESPACE: Final = uuid.UUID("0a6bbbf4-8d0e-4b7b-9a3c-5a3c0e5f2b11")
_CLASSIFIERS: Final = {
    (MeterType.ELECTRICITY, ReadingChannel.IMPORT): "electricity.consumption",
    (MeterType.ELECTRICITY, ReadingChannel.EXPORT): "electricity.export",
    (MeterType.GAS, ReadingChannel.IMPORT): "gas.consumption",
}


class GlowmarktStandIn(StandIn):
    """Glowmarkt. Its values are kWh for gas too, and it does not tell which are estimated."""

    kind = FeedKind.GLOWMARKT
    credentials: ClassVar[Mapping[str, str]] = {"username": USERNAME, "password": PASSWORD}
    base_path = "/api/v0-1"

    def play(self, scenario: Scenario) -> None:
        super().play(scenario)
        self._numbers = count(1)
        self._tokens: dict[str, float] = {}
        self._homes = {_id("home", meter.number): meter for meter in self.meters.values()}
        self._resources = {
            _id("resource", meter.number, channel.name): (meter, channel)
            for meter in self.meters.values()
            for channel in meter.household.channels
        }

    def end_tokens(self) -> None:
        """Takes back all tokens, before their end."""
        self._tokens.clear()

    def meter_settings(self, meter: ServedMeter) -> Mapping[str, str]:
        return {"virtualEntityId": _id("home", meter.number)}

    def truth(self, number: str, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """As the base's, of the time that is kept, and with nothing marked as estimated."""
        first = max(window.start, instant_of(self._first(self.meters[number])))
        starts, amounts, _ = super().truth(number, Window(min(first, window.end), window.end), channel)
        return Columns(starts, amounts, [False] * len(starts))

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint("/auth", self._sign_in, "POST"),
            Endpoint("/virtualentity", self._list),
            Endpoint("/virtualentity/{id}/resources", self._list_resources),
            Endpoint("/resource/{id}/first-time", self._first_time),
            Endpoint("/resource/{id}/readings", self._readings),
        ]

    def error(self, status: int, message: str) -> Any:
        return {"error": message}

    def authorize(self, request: Request) -> None:
        application, token = (request.headers.get(name) for name in ("applicationid", "token"))
        if application is None:
            raise self.outside("applicationId is missing")
        if request.url.path == f"{self.base_path}/auth":
            return
        if token is None:
            raise self.outside("token is missing")
        if application != BRIGHT or self._tokens.get(token, 0.0) < time.time():
            raise self._denied()

    async def _sign_in(self, request: Request) -> Any:
        if orjson.loads(await request.body()) != self.credentials or self.scenario.has_expired:
            raise self._denied()
        token, ends_at = f"stand-in.token.{next(self._numbers)}", time.time() + TOKEN_LASTS
        self._tokens[token] = ends_at
        return {"valid": True, "token": token, "exp": int(ends_at), "userGroups": [], "accountId": "stand-in"}

    async def _list(self, _request: Request) -> Any:
        return [
            {
                "veId": home_id,
                "veTypeId": _id("type", "home"),
                "applicationId": BRIGHT,
                "name": f"{meter.label}, {meter.number}",
                "postalCode": "SW1A 1AA",
                "resources": [{"resourceId": one["resourceId"]} for one in self._resources_of(meter)],
            }
            for home_id, meter in self._homes.items()
        ]

    async def _list_resources(self, request: Request) -> Any:
        meter = self._homes.get(request.path_params["id"])
        if meter is None:
            raise self.failed(404, "Virtual entity not found")
        return {"veId": request.path_params["id"], "resources": self._resources_of(meter)}

    def _resources_of(self, meter: ServedMeter) -> list[dict[str, str]]:
        found = []
        for channel in meter.household.channels:
            classifier = _CLASSIFIERS[meter.household.type, channel]
            for suffix, unit in (("", UNIT), (".cost", "pence")):
                resource_id = _id("resource", meter.number, f"{channel.name}{suffix}")
                name = f"{classifier}{suffix}"
                found.append({"resourceId": resource_id, "name": name, "classifier": name, "baseUnit": unit})
        return found

    async def _first_time(self, request: Request) -> Any:
        meter, _ = self._resource(request)
        first = {} if meter.scenario.is_empty else {"firstTs": self._first(meter) * SECONDS}
        return {"data": first}

    async def _readings(self, request: Request) -> Any:
        meter, channel = self._resource(request)
        first, after = self._period(request)
        await self.slow_down(meter)
        if meter.scenario.is_rubbish:
            return {"status": "OK", "units": UNIT, "data": "<rubbish>"}
        # A reading more than was asked for: `to` counts as well.
        starts = range(first, after + 1)
        shown = meter.shown(max(first, self._first(meter)), after + 1, channel)
        values = {
            at: amount / MICRO
            for at, amount in zip(shown.starts, meter.household.in_kwh(shown.amounts), strict=True)
        }
        invalid = _NO_VALUE[meter.household.type]
        values |= {at: invalid for at, loss in shown.lost if loss is Loss.INVALID}
        missing = None if request.query_params.get("nulls") == "1" else 0
        return {
            "status": "OK",
            "name": _CLASSIFIERS[meter.household.type, channel],
            "resourceId": request.path_params["id"],
            "units": UNIT,
            "query": dict(request.query_params),
            "data": [[at * SECONDS, values.get(at, missing)] for at in starts],
        }

    def _resource(self, request: Request) -> tuple[ServedMeter, ReadingChannel]:
        found = self._resources.get(request.path_params["id"])
        if found is None:
            raise self.failed(404, "Resource not found")
        if found[0].scenario.is_revoked:
            raise self._denied()
        return found

    def _period(self, request: Request) -> tuple[int, int]:
        """The half-hours that are asked for. Raises Answered for a request that the source does not take."""
        query = request.query_params
        try:
            start, end = (datetime.fromisoformat(query[name]).replace(tzinfo=UTC) for name in ("from", "to"))
        except (KeyError, ValueError):
            raise self.outside("from and to are instants such as 2026-01-01T00:00:00") from None
        if query.get("period") != "PT30M" or query.get("function") != "sum" or query.get("offset") != "0":
            raise self.outside("This stand-in has period=PT30M, function=sum and offset=0 only")
        if not start < end <= start + LONGEST:
            raise self.outside("The period of PT30M is 10 days at most")
        return half_hour(start), half_hour(end)

    def _first(self, meter: ServedMeter) -> int:
        return max(meter.first, self.clock.today - KEPT_DAYS * SLOTS)

    def _denied(self) -> Exception:
        return self.failed(401, "Access denied")


def _id(*parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))
