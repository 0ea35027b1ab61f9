"""Requests to Glowmarkt: sign-in, homes with their resources, and readings of a resource.

Source: Hildebrand's API document 1.8 and its Swagger. Tokens last for 7 days. An error is `{"error": "…"}`: a missing
header is 400, and a bad token is 401 like the end of a consent.
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from app.feeds.exchange import Exchange, own_words, refused_meter
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.source import Json
from app.outbound.http.transport import TRANSPORT_BODY_BYTES

BASE_URL: Final = "https://api.glowmarkt.com/api/v0-1"
BRIGHT: Final = "b0f1b774-a586-4f72-9edd-27ead8aa7a8d"
"""The application id of the Bright app's users, which is public."""
LONGEST: Final = timedelta(days=10)
"""The longest period of half-hours that one request may ask for."""

MOST_BYTES: Final = 8 * 1024 * 1024
"""The bound of a list of homes, which has some 500 bytes for each."""

TOKEN_LASTS: Final = 7 * 86_400.0
_SHORTEST: Final = 600.0
"""Seconds for which a token counts as good at least, whatever its end: clocks differ."""
_EARLY: Final = 3600.0
"""Seconds before its end at which a token is renewed."""
_NO_HOMES: Final = (
    "The source takes the user name and password but shows no homes (401): the consent there has ended. "
    "Renew it in the Bright app, then call checkFeed."
)
_NO_READINGS: Final = "The source no longer shows this meter (401): renew the customer's consent there."


class _Denied(SourceFailure):
    """401: the token is no longer good, or the consent has ended."""


class GlowmarktClient:
    """Glowmarkt with one user's name and password; signs in when it has to. `now` gives seconds since 1970."""

    def __init__(
        self,
        exchange: Exchange,
        username: str,
        password: str,
        application_id: str = BRIGHT,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._exchange = exchange
        self._sign_in = {"username": username, "password": password}
        self._application = {"applicationId": application_id}
        self._now = now
        self._token = ""
        self._renew_at = -math.inf

    async def homes(self) -> Json:
        """The virtual entities that the user sees. Raises SourceFailure, of a feed unless it passes."""
        return await self._get(
            "virtualentity", {}, _unseen, SourceFailure(Meaning.FEED, _NO_HOMES), MOST_BYTES
        )

    async def resources(self, home_id: str) -> Json:
        """The resources of a virtual entity, with their classifiers. Raises SourceFailure."""
        return await self._get_of_meter(f"virtualentity/{home_id}/resources", {})

    async def first_time(self, resource_id: str) -> Json:
        """The instant of a resource's first reading. Raises SourceFailure."""
        return await self._get_of_meter(f"resource/{resource_id}/first-time", {})

    async def readings(self, resource_id: str, start: datetime, end: datetime) -> Json:
        """The half-hours of `[start, end)` in UTC, LONGEST at most, and perhaps one more. Raises SourceFailure."""
        params = {
            "from": f"{start:%Y-%m-%dT%H:%M:%S}",
            "to": f"{end:%Y-%m-%dT%H:%M:%S}",
            "period": "PT30M",
            "function": "sum",
            # Minutes with the sign inverted; none leaves the answer in UTC.
            "offset": "0",
            # Without it a missing half-hour reads as 0.
            "nulls": "1",
        }
        return await self._get_of_meter(f"resource/{resource_id}/readings", params)

    async def _get_of_meter(self, path: str, params: Mapping[str, str]) -> Json:
        return await self._get(path, params, refused_meter, SourceFailure(Meaning.METER, _NO_READINGS))

    async def _get(
        self,
        path: str,
        params: Mapping[str, str],
        explain: Callable[[int, Any], SourceFailure | None],
        denied: SourceFailure,
        most: int = TRANSPORT_BODY_BYTES,
    ) -> Json:
        """Asks with the token, and once more with a new one after a 401. Raises `denied` if a new one is no better."""

        def meaning(status: int, found: Any) -> SourceFailure | None:
            return _Denied(Meaning.FEED, "") if status == 401 else explain(status, found)

        is_new = await self._signed_in()
        while True:
            headers = {**self._application, "token": self._token}
            try:
                return await self._exchange.get(path, params, headers=headers, explain=meaning, most=most)
            except _Denied:
                if is_new:
                    raise denied from None
                self._renew_at = -math.inf
                is_new = await self._signed_in()

    async def _signed_in(self) -> bool:
        """Signs in unless the token is good for a while, and says whether it did."""
        if self._now() < self._renew_at:
            return False
        answer = await self._exchange.post(
            "auth", self._sign_in, headers=self._application, explain=_no_sign_in
        )
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            if isinstance(answer, dict) and answer.get("valid") is False:
                raise _wrong_credentials("")
            raise SourceFailure(
                Meaning.RETRY, "The source answered a sign-in without a token; it is asked again."
            )
        lasts = _lasts(answer.get("exp"), self._now())
        self._token, self._renew_at = token, self._now() + max(lasts - _EARLY, lasts / 2)
        return True


def _lasts(end: Json, now: float) -> float:
    """Seconds for which a token is good whose end is given in seconds since 1970."""
    if not isinstance(end, int | float) or isinstance(end, bool):
        return TOKEN_LASTS
    return min(max(end - now, _SHORTEST), TOKEN_LASTS)


def _no_sign_in(status: int, found: Any) -> SourceFailure | None:
    if status in (400, 401, 403):
        return _wrong_credentials(f" ({status})", own_words(found))
    return _no_address(status)


def _unseen(status: int, found: Any) -> SourceFailure | None:
    if status in (400, 403):
        words = f" It says: {said}" if (said := own_words(found)) else ""
        return SourceFailure(
            Meaning.FEED,
            f"The source refuses to list homes ({status}): correct settings.applicationId.{words}",
        )
    return _no_address(status)


def _no_address(status: int) -> SourceFailure | None:
    if status != 404:
        return None
    return SourceFailure(
        Meaning.FEED, "There is no Glowmarkt at this address (404): correct settings.baseUrl."
    )


def _wrong_credentials(status: str, said: str = "") -> SourceFailure:
    words = f" It says: {said}" if said else ""
    return SourceFailure(
        Meaning.FEED,
        f"The source refuses the user name and password{status}: send valid ones with updateFeed.{words}",
    )
