"""Octopus Energy's API: HTTP Basic with the API key as user name, an account's meter points, and consumption.

Source: developer.octopus.energy. The account numbers of a key are told by its GraphQL API alone, which is asked for
nothing else, because it counts points.
"""

import base64
from typing import Any, Final
from urllib.parse import quote

from app.core import clock
from app.feeds.amounts import Amounts
from app.feeds.exchange import Exchange, own_words
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.octopus.mapping import Point, account_numbers, add_page, points_of
from app.feeds.shapes import record, text, unreadable
from app.feeds.source import Window
from app.meters.enums import MeterType
from app.readings.buckets import HALF_HOUR_MS

PAGE_SIZE: Final = 5_000
"""Half-hours of a page, of 125 bytes each: a body may have 1 MiB. The source's own limit is 25,000."""
SMALLEST_PAGE: Final = 100
"""The page size of a source that ignores the one that it is asked for; only the last page is smaller."""
MOST_ACCOUNTS: Final = 20

_SIGN_IN: Final = "mutation SignIn($key: String!) { obtainKrakenToken(input: { APIKey: $key }) { token } }"
_ACCOUNTS: Final = "query Accounts { viewer { accounts { number } } }"


class NotPaired(SourceFailure):
    """The source knows no such serial number at a meter point."""


class OctopusClient:
    """Requests with one API key; all raise SourceFailure."""

    def __init__(self, exchange: Exchange, api_key: str) -> None:
        self._exchange = exchange
        self._key = api_key
        pair = base64.b64encode(f"{api_key}:".encode()).decode()
        self._headers = {"authorization": f"Basic {pair}"}

    async def points(self, account_number: str) -> list[Point]:
        """The meter points of an account."""
        path = f"accounts/{quote(account_number, safe='')}/"
        return points_of(await self._exchange.get(path, headers=self._headers, explain=_of_account))

    async def account_numbers(self) -> list[str]:
        """The numbers of the accounts that the key may see."""
        signed_in = await self._query({"query": _SIGN_IN, "variables": {"key": self._key}}, {})
        given = record(record(signed_in).get("data") or {}).get("obtainKrakenToken") or {}
        token = text(given, "token")
        if token is None or not token.isascii() or not token.isprintable():
            raise SourceFailure(
                Meaning.FEED, "Octopus refuses the API key: send a valid one with updateFeed."
            )
        numbers = account_numbers(await self._query({"query": _ACCOUNTS}, {"authorization": token}))
        return numbers[:MOST_ACCOUNTS]

    async def add_consumption(
        self, number: str, type: MeterType, serial: str, window: Window, amounts: Amounts
    ) -> int:
        """Adds a device's half-hours of a window; gives the number of rows. Raises NotPaired for an unknown pair."""
        fuel = "electricity" if type is MeterType.ELECTRICITY else "gas"
        path: str | None = f"{fuel}-meter-points/{number}/meters/{quote(serial, safe='')}/consumption/"
        params: dict[str, str | int] | None = {
            "period_from": f"{window.start:%Y-%m-%dT%H:%M:%SZ}",
            "period_to": f"{window.end:%Y-%m-%dT%H:%M:%SZ}",
            "page_size": PAGE_SIZE,
            "order_by": "period",
        }
        expected = (clock.to_ms(window.end) - clock.to_ms(window.start)) // HALF_HOUR_MS
        rows, seen = 0, set[str]()
        while path is not None:
            if path in seen or len(seen) > expected // SMALLEST_PAGE + 2:
                raise unreadable("its pages never end")
            seen.add(path)
            page = await self._exchange.get(path, params, headers=self._headers, explain=_of_meter)
            # The link to the next page has all parameters.
            params = None
            count, path = add_page(page, amounts)
            rows += count
        return rows

    async def _query(self, content: dict[str, Any], headers: dict[str, str]) -> Any:
        return await self._exchange.post("graphql/", content, headers=headers, explain=_of_account)


def _of_account(status: int, found: Any) -> SourceFailure | None:
    if status in (403, 404):
        said = own_words(found)
        return SourceFailure(
            Meaning.FEED,
            f"Octopus does not show the account to this API key ({status}): correct settings.accountNumber (and "
            "settings.baseUrl, if you gave one), or send the key of that account with updateFeed."
            f"{f' It says: {said}' if said else ''}",
        )
    return None


def _of_meter(status: int, _found: Any) -> SourceFailure | None:
    if status == 404:
        return NotPaired(
            Meaning.METER,
            "Octopus knows no such meter (404): compare the meter's number and settings.serialNumbers with a bill.",
        )
    if status == 403:
        return SourceFailure(
            Meaning.METER,
            "Octopus does not show this meter to this API key (403): use the key of the account that it belongs to.",
        )
    return None
