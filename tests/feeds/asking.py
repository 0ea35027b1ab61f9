"""Sources of feeds over real loopback HTTP: opened against a stand-in, or against answers that a test writes itself."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.failures import SourceFailure
from app.feeds.source import Fetched, FetchedMeter, Source, SourceKind, SourceMeter, Window
from app.feeds.stand_ins.server import StandIn, serving
from app.outbound.http.transport import Transport
from tests.delivery.receivers import Answer, Request, receiver
from tests.feeds.sources import HASTE, LOOPBACK

NOW = datetime(2026, 4, 15, 12, tzinfo=UTC)
"""The present of stand-ins in tests, two weeks after the clocks went forward."""
YEAR = Window(datetime(2025, 3, 14, tzinfo=UTC), datetime(2026, 4, 14, 23, tzinfo=UTC))
"""Thirteen months to the start of that day in the UK, with both changes of the clocks."""
DAY = Window(datetime(2026, 4, 13, 23, tzinfo=UTC), datetime(2026, 4, 14, 23, tzinfo=UTC))
"""The last day that a source has."""


class Asking:
    """Opens sources of one kind at one address."""

    def __init__(
        self,
        kind: SourceKind,
        url: str,
        transport: Transport,
        *,
        stand_in: StandIn | None = None,
        requests: list[Request] | None = None,
    ) -> None:
        self.kind = kind
        self.url = url
        self.requests = [] if requests is None else requests
        self._stand_in = stand_in
        self._transport = transport

    @property
    def stand_in(self) -> Any:
        assert self._stand_in is not None
        return self._stand_in

    def source(
        self, settings: Mapping[str, str] | None = None, credentials: Mapping[str, str] | None = None
    ) -> Source:
        """A source with the stand-in's credentials and settings, if no others are given. Requests are not spaced."""
        if credentials is None:
            credentials = self.stand_in.credentials
        if settings is None:
            settings = self.stand_in.settings
        exchange = Exchange(self._transport, self.url, TokenBucket(HASTE, 1_000))
        return self.kind.open(credentials, settings, exchange)

    def meter(self, name: str) -> FetchedMeter:
        """A meter of the stand-in by its number or label, with the settings that it needs."""
        served = self.stand_in.meters.get(name) or self.stand_in.meter(name)
        return FetchedMeter(served.number, served.household.type, self.stand_in.meter_settings(served))


@asynccontextmanager
async def asking(kind: SourceKind, stand_in: StandIn) -> AsyncIterator[Asking]:
    """A stand-in that runs."""
    transport = Transport(LOOPBACK)
    try:
        async with serving(stand_in) as url:
            yield Asking(kind, url, transport, stand_in=stand_in)
    finally:
        await transport.aclose()


@asynccontextmanager
async def answering(kind: SourceKind, *answers: Answer) -> AsyncIterator[Asking]:
    """A server that gives each request the next answer, and the last one from then on."""
    transport = Transport(LOOPBACK)
    try:
        async with receiver(*answers) as place:
            yield Asking(kind, place.url("/v1"), transport, requests=place.requests)
    finally:
        await transport.aclose()


async def fails(asked: Any) -> SourceFailure:
    """The failure of a call to a source."""
    with pytest.raises(SourceFailure) as raised:
        await asked
    return raised.value


def causes(found: Fetched) -> list[str]:
    """The reasons that an answer gives, in order, each once."""
    return list(dict.fromkeys(one.cause for one in found.missing))


def listed(meters: Iterable[SourceMeter]) -> list[tuple[str, str, str]]:
    """Number, type and channel of each meter that a source shows."""
    return [(meter.number, meter.type.name, meter.channel.name) for meter in meters]
