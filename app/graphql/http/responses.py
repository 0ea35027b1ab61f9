"""How an answer goes out: its status, what may keep it, how it is compressed.

Answers are one account's and may hold personal data. What POST brings is kept by nobody. What GET brings may lie in the
client's own cache, where it is asked for again each time, and need not be sent again where nothing has changed; but not
what opens something, such as a consent's link, or was opened by it.

Compressed answers tell by their length what repeats in them (BREACH). That takes somebody who makes the victim send
requests with its credentials and with words of his own; credentials here are headers, which no page of another origin
can make a browser send, never cookies. Still what shows secrets goes out as it is, mutations and queries for what opens
something, as do streams and the consent's pages.
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
_UNKEPT = {"Cache-Control": "no-store", "Vary": VARY}
_LATER = _UNKEPT | {"Retry-After": str(RETRY_AFTER)}


async def success(
    request: Request, prepared: PreparedOperation, answer: dict[str, Any], media: str
) -> Response:
    """What was executed; a field's errors are in it."""
    body, headers = dumps(answer), _UNKEPT
    if "errors" in answer and _says_nothing(prepared, answer):
        return Response(body, 503, _LATER, _with_charset(media))
    if request.method != "POST" and "errors" not in answer and not prepared.is_secret:
        # Weak, because it stands for the compressed answer as well.
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
    """An error before execution. Legacy `application/json` clients get a well-formed answer with 200."""
    headers = _UNKEPT | getattr(error, "headers", {})
    status = error.status
    if status == 400 and media == JSON and not isinstance(error, NotGraphQL):
        status = 200
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="voltwire"'
    return Response(dumps({"errors": error.errors}), status, headers, _with_charset(media))


def unexpected(fault: Exception, media: str) -> Response:
    """A fault of ours outside of any field."""
    error = internal_error(fault)
    status, headers = (503, _LATER) if is_outage(error) else (500, _UNKEPT)
    return Response(dumps({"errors": [error]}), status, headers, _with_charset(media))


def _says_nothing(prepared: PreparedOperation, answer: dict[str, Any]) -> bool:
    """Whether a client loses nothing by asking again: the database is away, and no mutation was carried out."""
    if not any(map(is_outage, answer.get("errors", ()))):
        return False
    return prepared.operation_type == "query" or not any((answer["data"] or {}).values())


def _is_known(if_none_match: str | None, tag: str) -> bool:
    if not if_none_match:
        return False
    known = [one.strip() for one in if_none_match.split(",")]
    return "*" in known or any(one.removeprefix("W/") == tag.removeprefix("W/") for one in known)


def _with_charset(media: str) -> str:
    """An answer that is no stream is JSON, also to who asked for one."""
    return f"{JSON if media == EVENT_STREAM else media}; charset=utf-8"
