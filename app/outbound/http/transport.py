"""Outbound HTTP: httpx's transport interface over guarded connections of our own, and a fast path for webhooks.

Several times faster than httpx's own pool (`./scripts/bench delivery`), and bounded in every direction: one deadline
for the whole exchange, 16 KB of an answer, no redirects, no cookies, no proxies, no decompression.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial

import httpx

from app.core.lru import memoized
from app.outbound.attempt import KEPT_BYTES, Attempt, AttemptOutcome
from app.outbound.http.connection import Answer, ExchangeFailed, HttpConnection, NoAnswer, NotConnected
from app.outbound.http.pool import Pool, RequestUrl
from app.outbound.http.ssrf_guard import AddressRefused, Lookup, Networks, UrlRefused
from app.outbound.text import quotable, storable_text

DEFAULT_DEADLINE = 15.0
TRANSPORT_BODY_BYTES = 1024 * 1024
"""The bound of an answer read through httpx's interface, unless the request's extension MOST_BYTES says another."""
MOST_BYTES = "voltwire.most_bytes"
PARSED_KEPT, PARSED_WEIGHT = 4_000_000, 1400
"""Bytes of parsed URLs that are remembered, and of each beside its text, as measured."""

_DEFAULT_HEADERS = (("user-agent", "Voltwire"), ("accept", "*/*"), ("accept-encoding", "identity"))
_HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding"}
)
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)

_FAILURES = (ExchangeFailed, OSError, ValueError, RuntimeError)
"""Errors for which a URL, header, name, network or receiver is to blame; uvloop raises RuntimeError for some."""


class Transport(httpx.AsyncBaseTransport):
    """Sends HTTP requests. One per process; made anywhere, opened at first use in the running loop.

    `ssl_context` is the system's default, verifying one unless given, and `lookup` the system's name lookup: tests have
    authorities and names of their own. The number of connections is unbounded here: the senders have a cap per
    endpoint, and a limit of the pool would let hanging receivers hold up the others.
    """

    def __init__(
        self,
        allow_networks: Networks = (),
        *,
        ssl_context: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._open = partial(Pool, tuple(allow_networks), ssl_context, lookup)
        parse = partial(RequestUrl.of, allow_networks=tuple(allow_networks))
        self._parse = memoized(PARSED_KEPT, PARSED_WEIGHT)(parse)
        self._pool: Pool | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Attempt:
        """POST and record the attempt; nothing that a network or a receiver does makes it raise.

        `timeout` (seconds) covers everything from the name lookup to the body's last byte. The status decides once the
        headers are complete: a receiver that answered 2xx has the message, even if the answer's body then breaks off or
        drips, and a second POST would only be a duplicate. After 16 KB of body the connection is closed. A kept
        connection that breaks before the first byte of an answer is replaced by a new one, once.
        """
        started_at = time.time_ns() // 1_000_000
        # The loop's clock; asking for the running loop costs more than the time.
        begun = time.monotonic()
        answer = Answer()
        try:
            answer = await self._exchange("POST", url, headers.items(), body, KEPT_BYTES, begun + timeout)
            outcome, error = _judge_status(answer)
        except _FAILURES as failure:
            outcome, error = _explain(failure, timeout)
        has_answer = answer.status > 0
        return Attempt(
            started_at=started_at,
            duration_ms=round((time.monotonic() - begun) * 1000),
            outcome=outcome,
            status=answer.status or None,
            response_body=storable_text(answer.body, cut=answer.is_cut) if has_answer else None,
            error=error,
            retry_after=answer.header(b"retry-after"),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The interface for httpx: `httpx.AsyncClient(transport=Transport(…))`.

        The smallest of the request's timeouts is the deadline for the whole exchange. A body of more than 1 MiB, or
        than the request's extension MOST_BYTES, raises httpx.ReadError. Bodies are asked for uncompressed; one that
        comes compressed nevertheless is handed over as it is, without its Content-Encoding.
        """
        limits = [value for value in request.extensions.get("timeout", {}).values() if value is not None]
        ends_at = asyncio.get_running_loop().time() + min(limits, default=DEFAULT_DEADLINE)
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in _HOP_HEADERS]
        body = await request.aread()
        most = request.extensions.get(MOST_BYTES, TRANSPORT_BODY_BYTES)
        try:
            answer = await self._exchange(request.method, str(request.url), headers, body, most, ends_at)
            if answer.flaw is not None:
                raise answer.flaw
        except _FAILURES as failure:
            raise _as_httpx(failure, request) from failure
        return httpx.Response(
            answer.status,
            headers=[pair for pair in answer.headers if pair[0].lower() != b"content-encoding"],
            stream=httpx.ByteStream(answer.body),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": answer.reason},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        most: int,
        ends_at: float,
    ) -> Answer:
        parsed = self._parse(url)
        request = _head(method, parsed, headers, len(body)) + body
        pool = self._pool
        if pool is None:
            pool = self._pool = self._open()
        is_bodiless = method == "HEAD"
        if (connection := pool.take(parsed)) is not None:
            try:
                answer = await connection.exchange(request, most, ends_at, is_bodiless=is_bodiless)
                return _kept(pool, parsed, connection, answer)
            except ExchangeFailed:
                # The receiver closed an idle connection just before it was used again, which is no failure. But it may
                # have read the request and broken off, so a new connection decides, even if there are more idle ones.
                if not connection.is_untouched:
                    raise
        async with asyncio.timeout_at(ends_at):
            connection = await pool.connect(parsed)
        answer = await connection.exchange(request, most, ends_at, is_bodiless=is_bodiless)
        return _kept(pool, parsed, connection, answer)


def _kept(pool: Pool, url: RequestUrl, connection: HttpConnection, answer: Answer) -> Answer:
    if connection.is_reusable:
        pool.keep(url, connection)
    return answer


def _head(method: str, url: RequestUrl, headers: Iterable[tuple[str, str]], size: int) -> bytes:
    """The request's head. Raises ValueError for a header that could be read as several, or as none."""
    lines = [f"{method} {url.target} HTTP/1.1"]
    given = set()
    for name, value in headers:
        given.add(_lower(name))
        lines.append(f"{name}: {value}")
    if "host" not in given:
        lines.append(f"host: {url.authority}")
    lines += [f"{name}: {value}" for name, value in _DEFAULT_HEADERS if name not in given]
    if size or method in _METHODS_WITH_BODY:
        lines.append(f"content-length: {size}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    if head.count("\n") != len(lines) + 1 or head.count("\r") != len(lines) + 1 or "\0" in head:
        raise ValueError("The value of a header holds a line break or a NUL")
    return head.encode()


@lru_cache(maxsize=1024)
def _lower(name: str) -> str:
    """A header's name in lower case. Raises ValueError for one that HTTP does not allow."""
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("The name of a header holds a character that it may not have")
    return name.lower()


def _judge_status(answer: Answer) -> tuple[AttemptOutcome, str | None]:
    status = answer.status
    if 200 <= status < 300:
        return AttemptOutcome.SUCCEEDED, None
    if 300 <= status < 400:
        location = answer.header(b"location")
        place = f" to {location}" if location else ""
        error = (
            f"The receiver answered {status}, a redirect{place}. Redirects are not followed: "
            "set the endpoint's URL to the final one."
        )
        return AttemptOutcome.HTTP_STATUS, error
    return AttemptOutcome.HTTP_STATUS, f"The receiver answered {status}."


def _explain(failure: Exception, timeout: float | None) -> tuple[AttemptOutcome, str]:
    """The outcome and the sentence for an exchange without an answer."""
    match failure:
        case AddressRefused():
            return AttemptOutcome.BLOCKED_ADDRESS, str(failure)
        case UrlRefused():
            return AttemptOutcome.CONNECTION, str(failure)
        case ExchangeFailed():
            return failure.outcome, str(failure)
        case TimeoutError():
            span = "in time" if timeout is None else f"within {timeout:g} seconds"
            return AttemptOutcome.TIMEOUT, f"There was no complete answer {span}."
        case _:
            return (
                AttemptOutcome.CONNECTION,
                f"The request could not be made: {quotable(str(failure))}.",
            )


def _as_httpx(failure: Exception, request: httpx.Request) -> httpx.TransportError:
    kind: type[httpx.TransportError]
    match failure:
        case TimeoutError():
            kind = httpx.ReadTimeout
        case AddressRefused() | NotConnected():
            kind = httpx.ConnectError
        case UrlRefused():
            kind = httpx.UnsupportedProtocol
        case NoAnswer():
            kind = httpx.RemoteProtocolError
        case _:
            kind = httpx.ReadError
    return kind(_explain(failure, None)[1], request=request)
