"""The kind OCTOPUS: Octopus Energy for its own customers, each with the API key of their account."""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from app.core import clock
from app.feeds.amounts import CALORIFIC_VALUE, Amounts, Unit, meter_unit
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.half_hours import half_hour_of, start_of
from app.feeds.octopus.client import NotPaired, OctopusClient
from app.feeds.octopus.mapping import MOST_POINTS, Point, is_serial, joined, source_meters
from app.feeds.source import (
    MOST_METERS,
    Fetched,
    FetchedMeter,
    MissingPeriod,
    Setting,
    SettingType,
    SourceKind,
    SourceMeter,
    Window,
)
from app.meters.enums import MeterType

KEPT_SECONDS: Final = 3600.0
"""For so long an account's meter points are not asked for again."""
SOON_SECONDS: Final = 60.0
"""The same where a meter is not among them: it may be new."""

ACCOUNT_NUMBER, SERIAL_NUMBERS = "accountNumber", "serialNumbers"
GAS_UNIT: Final = "gasUnit"

_NONE_HERE: Final = (
    "Octopus has no half-hours of this period: they come days late at times, and never from a meter that is not smart "
    "or is not set to half-hourly readings."
)


class Octopus:
    """Octopus Energy with one API key."""

    def __init__(self, client: OctopusClient, account_number: str | None) -> None:
        self._client = client
        self._account_number = account_number
        self._points: list[Point] = []
        self._read_at: float | None = None

    async def discover(self) -> Sequence[SourceMeter]:
        """The meters at the homes that the account has not moved out of."""
        await self._read_points()
        return source_meters(self._points, clock.now())[:MOST_METERS]

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The half-hours of all devices that the meter point has had, while the customer has lived there."""
        point = await self._point(meter)
        starts_at = None if point.moved_in_at is None else _next_half_hour(point.moved_in_at)
        ends_at = None if point.moved_out_at is None else start_of(half_hour_of(point.moved_out_at))
        part = Window(
            window.start if starts_at is None else max(window.start, starts_at),
            window.end if ends_at is None else min(window.end, ends_at),
        )
        missing = []
        if ends_at is not None and ends_at < window.end:
            left = f"Octopus says that the customer moved out on {clock.long_date(clock.uk_date(ends_at))}."
            missing.append(MissingPeriod(point.channel, max(ends_at, window.start), window.end, left))
        if part.start >= part.end:
            return Fetched({}, missing, starts_at)
        amounts, rows = await self._consumption(point, meter, part)
        if rows == 0:
            missing.insert(0, MissingPeriod(point.channel, part.start, part.end, _NONE_HERE))
        columns = amounts.columns()
        readings = {point.channel: columns} if columns.starts else {}
        return Fetched(readings, [*amounts.missing(), *missing], starts_at)

    async def _consumption(self, point: Point, meter: FetchedMeter, window: Window) -> tuple[Amounts, int]:
        """The half-hours of a point's devices together, and the number of rows that they had."""
        unit = _unit(point, meter.settings)
        whole, rows = Amounts(window, point.channel, unit), 0
        unknown: NotPaired | None = None
        found = 0
        for serial in point.serials:
            amounts = Amounts(window, point.channel, unit)
            try:
                rows += await self._client.add_consumption(point.number, point.type, serial, window, amounts)
            except NotPaired as failure:
                # The source forgets a meter that was removed long ago.
                unknown = failure
                continue
            found += 1
            whole.add(amounts)
        if unknown is not None and not found:
            raise unknown
        return whole, rows

    async def _point(self, meter: FetchedMeter) -> Point:
        """The meter point, with the serials of its settings too. Raises SourceFailure unless there is one."""
        given = [one.strip() for one in meter.settings.get(SERIAL_NUMBERS, "").split(",")]
        serials = [one for one in given if is_serial(one)]
        points = await self._listed(meter, KEPT_SECONDS) or await self._listed(meter, SOON_SECONDS)
        if not points:
            raise SourceFailure(
                Meaning.METER,
                "The Octopus account does not have this meter: compare its number with the meters of checkFeed.",
            )
        point = joined(points, serials)
        if not point.serials:
            raise SourceFailure(
                Meaning.METER,
                "Octopus tells no serial number of this meter: give settings.serialNumbers with setMeterFeed.",
            )
        return point

    async def _listed(self, meter: FetchedMeter, kept: float) -> list[Point]:
        """The points of a meter's number, by what the account was at most `kept` seconds ago."""
        if self._read_at is None or time.monotonic() - self._read_at > kept:
            await self._read_points()
        return [one for one in self._points if (one.number, one.type) == (meter.number, meter.type)]

    async def _read_points(self) -> None:
        if self._account_number is not None:
            numbers = [self._account_number]
        else:
            numbers = await self._client.account_numbers()
        points: list[Point] = []
        for number in numbers:
            points += await self._client.points(number)
        self._points = points[:MOST_POINTS]
        self._read_at = time.monotonic()


def _unit(point: Point, settings: Mapping[str, str]) -> Unit:
    if point.type is MeterType.ELECTRICITY:
        return Unit(most=point.most)
    name = "kwh" if settings.get(GAS_UNIT, "M3").upper() == "KWH" else "m3"
    return meter_unit(name, settings, point.most)


def _next_half_hour(instant: datetime) -> datetime:
    """The first half-hour that does not begin before an instant."""
    start = start_of(half_hour_of(instant))
    return start if start == instant else start + clock.HALF_HOUR


def open_source(credentials: Mapping[str, str], settings: Mapping[str, str], exchange: Exchange) -> Octopus:
    return Octopus(OctopusClient(exchange, credentials["apiKey"]), settings.get(ACCOUNT_NUMBER))


OCTOPUS: Final = SourceKind(
    kind=FeedKind.OCTOPUS,
    base_url="https://api.octopus.energy/v1",
    credentials=("apiKey",),
    open=open_source,
    settings=(
        Setting(
            ACCOUNT_NUMBER,
            "The number of the Octopus account, such as A-1234ABCD; all accounts of the key if left out.",
            re.compile(r"A-[0-9A-Za-z]{4,16}"),
        ),
        Setting(
            SERIAL_NUMBERS,
            "Serial numbers of devices that the account does not list, such as one before an exchange, with commas.",
            re.compile(r"[0-9A-Za-z][0-9A-Za-z /_.,-]{0,199}"),
            SettingType.METER,
        ),
        Setting(
            GAS_UNIT,
            "M3 (the default) for gas meters of the second generation, KWH for Secure's of the first: Octopus does not "
            "say which it gives. With the wrong one a bill differs by eleven times.",
            re.compile(r"M3|KWH"),
            SettingType.METER,
        ),
        CALORIFIC_VALUE,
    ),
    requests_a_minute=120.0,
    burst=10,
)
