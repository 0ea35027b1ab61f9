"""Requests to ElectraLink: everything that it has of a meter, at once.

Its shape is an assumption: it is known only from a public mock of ElectraLink's EAC API (ITHedgeHog/IntervalGenerator).
So are the host and the list of MPANs, which a source may not have.
"""

from typing import Final

from app.feeds.exchange import Exchange, refused_meter
from app.feeds.source import Json

BASE_URL: Final = "https://api.electralink.co.uk"
HISTORY: Final = "v2/mpanhhperperiod"
DETAILS: Final = "v2/mpanadditionaldetails"
MPANS: Final = "mpans"
MOST_BYTES: Final = 16 * 1024 * 1024
"""The bound of an answer, which has some 3 KB a day and quantity: this is about 14 years of one."""


class ElectralinkClient:
    """The requests that the mock answers."""

    def __init__(self, exchange: Exchange, api_key: str, password: str) -> None:
        self._exchange = exchange
        self._headers = {"api-key": api_key, "api-password": password}

    async def history(self, mpan: str) -> Json:
        """All half-hours of a meter, by quantity, settlement day and period. Raises SourceFailure."""
        return await self._get(HISTORY, {"mpan": mpan})

    async def details(self, mpan: str) -> Json:
        """The details of a meter. Raises SourceFailure."""
        return await self._get(DETAILS, {"mpan": mpan})

    async def mpans(self) -> Json:
        """The numbers of all meters. Raises SourceFailure."""
        return await self._get(MPANS, {})

    async def _get(self, path: str, params: dict[str, str]) -> Json:
        return await self._exchange.get(
            path, params, headers=self._headers, explain=refused_meter, most=MOST_BYTES
        )
