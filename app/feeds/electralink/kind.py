"""The kind ELECTRALINK: half-hourly electricity of the market's meters. Its shape is known from a public mock only."""

from collections.abc import Mapping, Sequence
from typing import Final

from app.feeds.electralink.client import BASE_URL, ElectralinkClient
from app.feeds.electralink.mapping import to_fetched, to_meters
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.failures import Meaning, SourceFailure, electricity_only
from app.feeds.shapes import record
from app.feeds.source import NOBODYS_METER, Fetched, FetchedMeter, SourceKind, SourceMeter, Window
from app.meters.enums import MeterType


class Electralink:
    """ElectraLink with one API key and password."""

    def __init__(self, client: ElectralinkClient) -> None:
        self._client = client

    async def discover(self) -> Sequence[SourceMeter]:
        """The meters of the source's list, if it has one.

        The credentials are tried before, by asking for a meter that nobody has, for the list may be open to everyone.
        """
        try:
            record(await self._client.details(NOBODYS_METER))
        except SourceFailure as failure:
            if failure.meaning is not Meaning.METER:
                raise
        try:
            return to_meters(await self._client.mpans())
        except SourceFailure as failure:
            if failure.meaning is not Meaning.METER:
                raise
            return ()

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The readings of the window, by one request: the answer holds all that the source has."""
        if meter.type is not MeterType.ELECTRICITY:
            raise electricity_only("ElectraLink")
        return to_fetched(await self._client.history(meter.number), meter.number, window)


def open_source(
    credentials: Mapping[str, str], settings: Mapping[str, str], exchange: Exchange
) -> Electralink:
    return Electralink(ElectralinkClient(exchange, credentials["apiKey"], credentials["password"]))


ELECTRALINK: Final = SourceKind(
    kind=FeedKind.ELECTRALINK,
    base_url=BASE_URL,
    credentials=("apiKey", "password"),
    open=open_source,
    meter_types=(MeterType.ELECTRICITY,),
)
