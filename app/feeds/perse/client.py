"""Requests to Perse: the half-hourly history of a meter from a date on.

Source: the client of Energy Sparks, which keeps to 120 requests a minute. Perse gives the host by contract: the one
here is an assumption in Perse's own domain, and the setting `baseUrl` replaces it.
"""

from datetime import date
from typing import Final

from app.feeds.exchange import Exchange, refused_meter
from app.feeds.source import Json

BASE_URL: Final = "https://api.perse.io"
PATH: Final = "meterhistory/v2/realtime-data"
REQUESTS_A_MINUTE: Final = 120.0
MOST_BYTES: Final = 8 * 1024 * 1024
"""The bound of an answer. It always reaches to the present, with about 1.2 KB a day: this is some 18 years."""


class PerseClient:
    """The one request that is known of Perse's API."""

    def __init__(self, exchange: Exchange, api_key: str) -> None:
        self._exchange = exchange
        self._headers = {"api_key": api_key}

    async def history(self, mpan: str, first_day: date) -> Json:
        """The parsed answer: days of settlement periods from a day on, the last ones included. Raises SourceFailure."""
        return await self._exchange.get(
            PATH,
            {"MPAN": mpan, "fromDate": first_day.isoformat()},
            headers=self._headers,
            explain=refused_meter,
            most=MOST_BYTES,
        )
