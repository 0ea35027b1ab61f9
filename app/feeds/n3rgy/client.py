"""n3rgy's Customer Service API, version 2: the header x-api-key, and at most 90 days a request.

Source: n3rgy's OpenAPI document and guide. 403 has three meanings, which its text alone tells apart; 429 says nothing
of when to come again.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from app.core import clock
from app.feeds.exchange import Exchange, own_words
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.shapes import items
from app.feeds.source import MOST_METERS
from app.meters.enums import MeterType

LONGEST: Final = timedelta(days=89)
"""The longest period of a request: the source's limit is 90 days, and it counts ends of half-hours."""
PAGE_SIZE: Final = 100
"""Meters of a page of the list, which is the source's limit."""


class N3rgyClient:
    """Requests with one API key; all raise SourceFailure."""

    def __init__(self, exchange: Exchange, api_key: str) -> None:
        self._exchange = exchange
        self._headers = {"x-api-key": api_key}

    async def entries(self) -> list[Any]:
        """The numbers of the meters whose customers have consented, MOST_METERS at most."""
        found: list[Any] = []
        while len(found) < MOST_METERS:
            params: dict[str, str | int] = {"startAt": len(found), "maxResults": PAGE_SIZE}
            answer = await self._exchange.get("", params, headers=self._headers, explain=_of_list)
            page = items(answer, "entries")
            found += page
            total = answer.get("total")
            if not page or not isinstance(total, int) or len(found) >= total:
                break
        return found[:MOST_METERS]

    async def reading_types(self, number: str, meter: MeterType) -> Any:
        """The reading types of a meter."""
        return await self._exchange.get(_path(number, meter), headers=self._headers, explain=_of_meter)

    async def readings(
        self, number: str, meter: MeterType, reading_type: str, start: datetime, end: datetime
    ) -> Any:
        """The half-hours of `[start, end)`, LONGEST at most."""
        params: dict[str, str | int] = {
            # Half-hours are named by their ends, and both are included.
            "start": f"{start + clock.HALF_HOUR:%Y%m%d%H%M}",
            "end": f"{end:%Y%m%d%H%M}",
            "granularity": "halfhour",
            "outputFormat": "json",
        }
        path = f"{_path(number, meter)}/readingtype/{reading_type}"
        return await self._exchange.get(path, params, headers=self._headers, explain=_of_meter)


def _path(number: str, meter: MeterType) -> str:
    return f"mpxn/{number}/utility/{'electricity' if meter is MeterType.ELECTRICITY else 'gas'}"


def _of_list(status: int, found: Any) -> SourceFailure | None:
    """403 of the list is about the key, since it names no meter."""
    return _bad_key(own_words(found)) if status in (401, 403) else None


def _of_meter(status: int, found: Any) -> SourceFailure | None:
    said = own_words(found)
    plain = said.lower()
    if status == 401:
        return _bad_key(said)
    if status == 400:
        return SourceFailure(Meaning.METER, f"n3rgy refuses the request for this meter (400).{_quoted(said)}")
    if status == 404:
        return SourceFailure(
            Meaning.METER,
            f"n3rgy knows no such smart meter (404): compare its number with a bill.{_quoted(said)}",
        )
    if status != 403:
        return None
    if "consent" in plain:
        return SourceFailure(
            Meaning.METER,
            f"n3rgy has no consent of the customer for this meter (403): add one there.{_quoted(said)}",
        )
    if "frequency" in plain:
        return SourceFailure(
            Meaning.METER,
            "n3rgy does not read this meter (403): set an update frequency other than NEVER for its readings "
            f"there.{_quoted(said)}",
        )
    if not said or any(
        word in plain for word in ("key", "forbidden", "denied", "not authorized", "missing auth")
    ):
        return _bad_key(said)
    return SourceFailure(Meaning.METER, f"n3rgy does not show this meter (403).{_quoted(said)}")


def _bad_key(said: str) -> SourceFailure:
    return SourceFailure(
        Meaning.FEED, f"n3rgy refuses the API key: send a valid one with updateFeed.{_quoted(said)}"
    )


def _quoted(said: str) -> str:
    return f" It says: {said}" if said else ""
