"""The kind GLOWMARKT: homes' smart meters as the Bright app's users see them, electricity both ways and gas."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from app.core import clock
from app.feeds.amounts import SMART_METER_MOST
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.glowmarkt.client import BASE_URL, BRIGHT, LONGEST, GlowmarktClient
from app.feeds.glowmarkt.mapping import (
    Home,
    Resource,
    choose_home,
    choose_resources,
    take,
    to_first,
    to_homes,
    to_meters,
    to_resources,
)
from app.feeds.half_hours import HalfHours, half_hour_of
from app.feeds.source import (
    MOST_METERS,
    Fetched,
    FetchedMeter,
    Setting,
    SettingType,
    SourceKind,
    SourceMeter,
    Window,
)

MOST_DISCOVERED: Final = 40
"""Homes whose resources `discover` lists, by a request each: a person waits for it."""
LOOKED_UP_AGAIN: Final = 86_400.0
"""Seconds after which homes and resources are looked up again."""

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Glowmarkt:
    """Glowmarkt with one user. Homes and resources are looked up once a day, first readings once."""

    def __init__(self, client: GlowmarktClient) -> None:
        self._client = client
        self._homes: Sequence[Home] = ()
        self._resources: dict[str, Sequence[Resource]] = {}
        self._first: dict[str, datetime | None] = {}
        self._looked_up: datetime | None = None

    async def discover(self) -> Sequence[SourceMeter]:
        """The resources with readings of the first MOST_DISCOVERED homes, each as a meter.

        Glowmarkt does not tell meter numbers: a meter's is the one in its home's name, or else the home's id.
        """
        self._looked_up = None
        await self._look_up()
        found: list[SourceMeter] = []
        for home in self._homes[:MOST_DISCOVERED]:
            found += to_meters(home, await self._resources_of(home))
        return found[:MOST_METERS]

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The readings of the meter's home, by a request for each channel and 10 days since its first reading."""
        await self._look_up()
        home = choose_home(self._homes, meter.number, meter.type, meter.settings.get("virtualEntityId"))
        resources = choose_resources(
            await self._resources_of(home), meter.type, meter.settings.get("resourceId")
        )
        half_hours = HalfHours(window, SMART_METER_MOST[meter.type])
        firsts = []
        for resource in resources:
            first = await self._first_of(resource)
            firsts.append(first)
            begins = window.start
            if first is not None and first > begins:
                begins = first
                cause = f"The source has readings from {clock.long_date(clock.uk_date(first))} on only."
                half_hours.miss_period(resource.channel, half_hours.first, half_hour_of(first), cause)
            for part in Window(begins, window.end).parts(LONGEST):
                take(half_hours, resource, await self._client.readings(resource.id, *part), part)
        return half_hours.fetched(min((one for one in firsts if one), default=None) if all(firsts) else None)

    async def _look_up(self) -> None:
        now = clock.now()
        if self._looked_up is not None and (now - self._looked_up).total_seconds() < LOOKED_UP_AGAIN:
            return
        self._homes = to_homes(await self._client.homes())
        self._resources.clear()
        self._looked_up = now

    async def _resources_of(self, home: Home) -> Sequence[Resource]:
        if home.id not in self._resources:
            self._resources[home.id] = to_resources(await self._client.resources(home.id))
        return self._resources[home.id]

    async def _first_of(self, resource: Resource) -> datetime | None:
        if resource.id not in self._first:
            try:
                answer = await self._client.first_time(resource.id)
            except SourceFailure as failure:
                # A denial comes again with the first request for readings.
                if failure.meaning is not Meaning.METER:
                    raise
                return None
            self._first[resource.id] = to_first(answer, clock.now())
        return self._first[resource.id]


def open_source(credentials: Mapping[str, str], settings: Mapping[str, str], exchange: Exchange) -> Glowmarkt:
    client = GlowmarktClient(
        exchange, credentials["username"], credentials["password"], settings.get("applicationId", BRIGHT)
    )
    return Glowmarkt(client)


GLOWMARKT: Final = SourceKind(
    kind=FeedKind.GLOWMARKT,
    base_url=BASE_URL,
    credentials=("username", "password"),
    open=open_source,
    settings=(
        Setting(
            "applicationId",
            "The application whose users sign in; that of the Bright app by default.",
            _UUID,
        ),
        Setting(
            "virtualEntityId",
            "The home of the meter, as checkFeed lists it. Glowmarkt does not tell meter numbers: without this setting "
            "the meter's home is the one whose name has its number, or the only one.",
            _UUID,
            SettingType.METER,
        ),
        Setting(
            "resourceId",
            "The resource of the meter, where its home has several for one channel.",
            _UUID,
            SettingType.METER,
        ),
    ),
    # No limit is published.
    requests_a_minute=600.0,
    burst=20,
)
