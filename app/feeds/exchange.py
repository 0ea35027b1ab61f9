"""A feed's requests to its source: to one origin, spaced, with a deadline and a bound; each failure has its meaning."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpx
import orjson

from app.feeds.failures import Meaning, SourceFailure
from app.outbound.http.ssrf_guard import UrlRefused
from app.outbound.retry import parse_retry_after
from app.outbound.text import quotable

DEADLINE: Final = 30.0
"""Seconds for a whole exchange, from the name lookup to the body's last byte."""
QUOTED: Final = 200
"""Characters of a source's own words in a message."""

Explain = Callable[[int, Any], SourceFailure | None]
"""The meaning that a kind gives to a status and the parsed body (None if it is no JSON); None: the usual one."""


class TokenBucket:
    """Spaces requests: `burst` at once after a rest, then `a_minute`."""

    def __init__(self, a_minute: float, burst: int) -> None:
        self._every = 60.0 / a_minute
        self._slack = self._every * (burst - 1)
        # When the next request may be made if none had slack.
        self._next = 0.0

    async def take(self) -> None:
        """Returns when a request may be made."""
        now = time.monotonic()
        self._next = max(self._next, now - self._slack)
        wait, self._next = self._next - now, self._next + self._every
        if wait > 0:
            await asyncio.sleep(wait)


class Exchange:
    """Requests to one source. `transport` guards addresses and bounds bodies to 1 MiB.

    Nothing is sent to another origin than that of `base_url`, whatever links a source gives.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, base_url: str, bucket: TokenBucket) -> None:
        self._transport = transport
        self._base_url = base_url.rstrip("/") + "/"
        self._bucket = bucket

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        explain: Explain | None = None,
    ) -> Any:
        """The parsed JSON of a 2xx answer. `path` is relative to the base URL, or a link below the same origin.

        Raises SourceFailure.
        """
        return await self._ask("GET", path, params, headers, None, explain)

    async def post(
        self,
        path: str,
        content: Any,
        *,
        headers: Mapping[str, str] | None = None,
        explain: Explain | None = None,
    ) -> Any:
        """Posts `content` as JSON, and gives the parsed JSON of a 2xx answer. Raises SourceFailure."""
        given = {"content-type": "application/json", **(headers or {})}
        return await self._ask("POST", path, None, given, orjson.dumps(content), explain)

    async def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
        content: bytes | None,
        explain: Explain | None,
    ) -> Any:
        request = httpx.Request(
            method,
            self._url(path),
            params=params,
            headers={"accept": "application/json", **(headers or {})},
            content=content,
            extensions={"timeout": {"read": DEADLINE}},
        )
        await self._bucket.take()
        try:
            response = await self._transport.handle_async_request(request)
            body = await response.aread()
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        found = _parsed(body)
        if response.is_success:
            if found is None:
                raise SourceFailure(
                    Meaning.RETRY, "The source answered with something else than JSON; it is asked again."
                )
            return found
        failure = explain(response.status_code, found) if explain is not None else None
        raise failure or usual_failure(response.status_code, found, response.headers.get("retry-after"))

    def _url(self, path: str) -> httpx.URL:
        url = urljoin(self._base_url, path)
        if _origin(url) != _origin(self._base_url):
            raise SourceFailure(
                Meaning.RETRY,
                "The source gave a link to another host, which is not followed; it is asked again.",
            )
        return httpx.URL(url)


def usual_failure(status: int, found: Any, retry_after: str | None = None) -> SourceFailure:
    """The failure for a status other than 2xx, unless the kind knows better."""
    words = f" It says: {said}" if (said := own_words(found)) else ""
    match status:
        case 401:
            return SourceFailure(
                Meaning.FEED,
                f"The source refuses the credentials (401): send valid ones with updateFeed.{words}",
            )
        case 403 | 404:
            return SourceFailure(
                Meaning.METER, f"The source does not show this meter to these credentials ({status}).{words}"
            )
        case 429:
            return SourceFailure(
                Meaning.WAIT,
                f"The source asks for a pause (429): its limit of requests is reached.{words}",
                parse_retry_after(retry_after, time.time()),
            )
        case _ if 300 <= status < 400:
            return SourceFailure(
                Meaning.FEED,
                f"The source answered with a redirect ({status}), which is not followed: correct settings.baseUrl.",
            )
        case _:
            return SourceFailure(
                Meaning.RETRY,
                f"The source answered {status}; it is asked again.{words}",
                parse_retry_after(retry_after, time.time()),
            )


def own_words(found: Any) -> str:
    """The words of a source's error, in the usual places, made quotable; empty if there are none."""
    for name in ("detail", "message", "error", "errors"):
        value = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("message")
        if isinstance(value, str) and value.strip():
            return quotable(value.strip()[:QUOTED])
    return ""


def _unreachable(error: httpx.TransportError) -> SourceFailure:
    if isinstance(error.__cause__, UrlRefused):
        return SourceFailure(Meaning.FEED, "Feeds may not reach this address: correct settings.baseUrl.")
    return SourceFailure(Meaning.RETRY, f"The source could not be asked: {error} It is asked again.")


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
