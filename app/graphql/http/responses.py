"""Makes HTTP responses: status, caching and compression.

Responses are one account's and may hold personal data. No cache may store a response to POST. The client's own cache
may store a response to GET, revalidate it at each use, and so save its transfer; but not with a secret in it, such as
a consent's link, nor one that a secret gave access to.

The length of a compressed response tells an attacker what repeats in it (BREACH), if he can make the victim send
requests with its credentials and words of his. Credentials here are headers, which no page of another origin can make a
browser send, and never cookies. Still mutations and responses with secrets are not compressed, as are neither streams
nor the consent's pages.
"""

from hashlib import blake2b
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.core.outages import RETRY_AFTER
from app.graphql.engine import dumps
from app.graphql.failures import RequestErrors, internal_error, is_outage
from app.graphql.http.compression import SHORTEST, gzipped, takes_gzip
from app.graphql.http.request import JSON, NotGraphQL
from app.graphql.prepared_operation import PreparedOperation

GRAPHQL_JSON = "application/graphql-response+json"
EVENT_STREAM = "text/event-stream"

VARY = "Accept, Accept-Encoding, Authorization, X-Api-Key"
_UNCACHED = {"Cache-Control": "no-store", "Vary": VARY}
_LATER = _UNCACHED | {"Retry-After": str(RETRY_AFTER)}


async def success(
    request: Request, prepared: PreparedOperation, response: dict[str, Any], media: str
) -> Response:
    """The response of an operation that was executed; it may have errors of fields."""
    body, headers = dumps(response), _UNCACHED
    if "errors" in response and _may_be_retried(prepared, response):
        return Response(body, 503, _LATER, _with_charset(media))
    if request.method != "POST" and "errors" not in response and not prepared.is_secret:
        # Weak, because it stands for the compressed response as well.
        tag = f'W/"{blake2b(body, digest_size=16).hexdigest()}"'
        headers = {"Cache-Control": "private, no-cache", "ETag": tag, "Vary": VARY}
        if _is_known(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
    if (
        len(body) >= SHORTEST
        and prepared.operation_type == "query"
        and not prepared.is_secret
        and takes_gzip(request.headers.get("accept-encoding"))
    ):
        body, headers = await gzipped(body), {**headers, "Content-Encoding": "gzip"}
    return Response(body, headers=headers, media_type=_with_charset(media))


def failure(error: RequestErrors, media: str) -> Response:
    """An error before execution. Legacy `application/json` clients get a well-formed response with 200."""
    headers = _UNCACHED | getattr(error, "headers", {})
    status = error.status
    if status == 400 and media == JSON and not isinstance(error, NotGraphQL):
        status = 200
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="voltwire"'
    return Response(dumps({"errors": error.errors}), status, headers, _with_charset(media))


def unexpected(fault: Exception, media: str) -> Response:
    """An unexpected exception outside of any field."""
    error = internal_error(fault)
    status, headers = (503, _LATER) if is_outage(error) else (500, _UNCACHED)
    return Response(dumps({"errors": [error]}), status, headers, _with_charset(media))


def _may_be_retried(prepared: PreparedOperation, response: dict[str, Any]) -> bool:
    """Whether the client may try again safely: the database is away, and no mutation was executed."""
    if not any(map(is_outage, response.get("errors", ()))):
        return False
    return prepared.operation_type == "query" or not any((response["data"] or {}).values())


def _is_known(if_none_match: str | None, tag: str) -> bool:
    if not if_none_match:
        return False
    known = [one.strip() for one in if_none_match.split(",")]
    return "*" in known or any(one.removeprefix("W/") == tag.removeprefix("W/") for one in known)


def _with_charset(media: str) -> str:
    """A single response is JSON, also for a client that asked for a stream."""
    return f"{JSON if media == EVENT_STREAM else media}; charset=utf-8"
