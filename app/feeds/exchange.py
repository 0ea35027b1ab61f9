"""A feed's requests to its source: to one origin, spaced, with a deadline and a bound; each failure has its meaning."""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, urljoin, urlsplit

import httpx
import orjson

from app.feeds.failures import Meaning, SourceFailure
from app.outbound.http.ssrf_guard import UrlRefused
from app.outbound.http.transport import MOST_BYTES, TRANSPORT_BODY_BYTES
from app.outbound.retry import parse_retry_after
from app.outbound.text import quotable

DEADLINE: Final = 30.0
"""Seconds for a whole exchange, from the name lookup to the body's last byte."""
QUOTED: Final = 200
"""Characters of a source's own words in a message."""
LONGEST_ERROR: Final = 65_536
"""Bytes of an error's body; the words of a longer one are left out, for it takes long to look for secrets there."""
HIDDEN: Final = "(hidden)"
"""Stands for a secret that a source repeats in its error."""
_UNSENDABLE: Final = (
    "The credentials hold characters that no request can carry: send valid ones with updateFeed."
)

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
    """Requests to one source. `transport` guards addresses and bounds bodies.

    Nothing is sent to another origin than that of `base_url`, whatever links a source gives. The `secrets`, and the
    values of the headers, are hidden in a source's own words. `deadline` is that of each exchange, in seconds.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        bucket: TokenBucket,
        secrets: Iterable[str] = (),
        deadline: float = DEADLINE,
    ) -> None:
        self._transport = transport
        self._base_url = base_url.rstrip("/") + "/"
        self._bucket = bucket
        self._secrets = tuple(secrets)
        self._deadline = deadline

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        explain: Explain | None = None,
        most: int = TRANSPORT_BODY_BYTES,
    ) -> Any:
        """The parsed JSON of a 2xx answer. `path` is relative to the base URL, or a link below the same origin.

        An answer of over `most` bytes is not read. Raises SourceFailure.
        """
        return await self._ask("GET", path, params, headers, None, explain, most)

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
        most: int = TRANSPORT_BODY_BYTES,
    ) -> Any:
        url = self._url(path)
        try:
            request = httpx.Request(
                method,
                url,
                params=params,
                headers={"accept": "application/json", **(headers or {})},
                content=content,
                extensions={"timeout": {"read": self._deadline}, MOST_BYTES: most},
            )
        except UnicodeError:
            # Without its cause, which quotes the header.
            raise SourceFailure(Meaning.FEED, _UNSENDABLE) from None
        if any(not value.isprintable() for value in request.headers.values()):
            raise SourceFailure(Meaning.FEED, _UNSENDABLE)
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
        secrets = (*self._secrets, *(headers or {}).values())
        found = _without(found, secrets) if len(body) <= LONGEST_ERROR else None
        failure = explain(response.status_code, found) if explain is not None else None
        raise failure or usual_failure(response.status_code, found, response.headers.get("retry-after"))

    def _url(self, path: str) -> httpx.URL:
        try:
            url = urljoin(self._base_url, path)
            if _origin(url) == _origin(self._base_url):
                return httpx.URL(url)
        except (ValueError, httpx.InvalidURL) as error:
            raise SourceFailure(
                Meaning.RETRY, "The source gave a link that is no address; it is asked again."
            ) from error
        raise SourceFailure(
            Meaning.RETRY,
            "The source gave a link to another host, which is not followed; it is asked again.",
        )


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


def refused_meter(status: int, found: Any) -> SourceFailure | None:
    """The meaning of a 400 where the meter's number is all that differs between requests."""
    if status != 400:
        return None
    words = f" It says: {said}" if (said := own_words(found)) else ""
    return SourceFailure(Meaning.METER, f"The source refuses the request for this meter (400).{words}")


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


def _without(found: Any, secrets: Iterable[str]) -> Any:
    """Parsed JSON in which no secret is left, as it is or as URLs, JSON and Basic authentication write it."""
    forms = {re.escape(form) for secret in secrets if secret for form in _forms(secret)}
    if found is None or not forms:
        return found
    try:
        # Written anew, for JSON can spell any character in several ways.
        text = orjson.dumps(found).decode()
    except orjson.JSONEncodeError:
        return None
    longest_first = sorted(forms, key=len, reverse=True)
    return _parsed(re.sub("|".join(longest_first), HIDDEN, text, flags=re.IGNORECASE).encode())


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield orjson.dumps(secret).decode()[1:-1]
    yield base64.b64encode(secret.encode(errors="replace")).decode().rstrip("=")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
