"""The kind PERSE: half-hourly electricity of business meters, import alone."""

from collections.abc import Mapping, Sequence
from typing import Final

from app.core import clock
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.failures import Meaning, SourceFailure, electricity_only
from app.feeds.perse.client import BASE_URL, REQUESTS_A_MINUTE, PerseClient
from app.feeds.perse.mapping import to_fetched
from app.feeds.source import NOBODYS_METER, Fetched, FetchedMeter, SourceKind, SourceMeter, Window
from app.meters.enums import MeterType


class Perse:
    """Perse with one API key."""

    def __init__(self, client: PerseClient) -> None:
        self._client = client

    async def discover(self) -> Sequence[SourceMeter]:
        """Nothing, for Perse lists no meters; the key is tried by asking for a meter that nobody has."""
        today = clock.uk_date(clock.now())
        try:
            answer = await self._client.history(NOBODYS_METER, today)
            to_fetched(
                answer, NOBODYS_METER, Window(clock.start_of_uk_day(today), clock.end_of_uk_day(today))
            )
        except SourceFailure as failure:
            if failure.meaning is not Meaning.METER:
                raise
        return ()

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The readings of the window, by one request: the answer holds all days from the window's first on."""
        if meter.type is not MeterType.ELECTRICITY:
            raise electricity_only("Perse")
        answer = await self._client.history(meter.number, clock.uk_date(window.start))
        return to_fetched(answer, meter.number, window)


def open_source(credentials: Mapping[str, str], settings: Mapping[str, str], exchange: Exchange) -> Perse:
    return Perse(PerseClient(exchange, credentials["apiKey"]))


PERSE: Final = SourceKind(
    kind=FeedKind.PERSE,
    base_url=BASE_URL,
    credentials=("apiKey",),
    open=open_source,
    meter_types=(MeterType.ELECTRICITY,),
    requests_a_minute=REQUESTS_A_MINUTE,
)
