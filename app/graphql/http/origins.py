"""Web origins: which pages may call the API, and how those that may not are told of the setting that decides."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.graphql.context import Services

REFUSAL: Final = "This origin is not in VOLTWIRE_ALLOWED_ORIGINS."
LOGGED_AT_MOST: Final = 100
"""Origins that a process names in its log. Strangers choose them, so that there is no end to them."""

LONGEST_LOGGED: Final = 200

log = structlog.get_logger(__name__)


class Origins:
    """The origins that one process lets in. It logs each of the others once."""

    def __init__(self, services: Services) -> None:
        self._allowed = frozenset(services.settings.allowed_origins)
        self._public_host = urlsplit(services.public_url).netloc.lower()
        self._logged: set[str] = set()

    def allows(self, headers: Headers) -> bool:
        """Whether a page of this origin may call. Programs send no Origin, and they may.

        The same host counts whatever the scheme, because a proxy in front may speak TLS for us.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed or origin.rstrip("/").lower() in self._allowed:
            return True
        host = urlsplit(origin).netloc.lower()
        return bool(host) and host in (headers.get("host", "").lower(), self._public_host)

    def log_refusal(self, headers: Headers) -> None:
        """Tell the operators, once for each origin, which setting would let this one in."""
        origin = headers.get("origin", "")[:LONGEST_LOGGED]
        # The consent page sends no referrer, and so its own forms name their origin as "null".
        if origin == "null" or origin in self._logged or len(self._logged) >= LOGGED_AT_MOST:
            return
        self._logged.add(origin)
        log.warning(
            "a page of another origin was refused; if it is one of yours, add the origin to VOLTWIRE_ALLOWED_ORIGINS",
            origin=origin,
        )


class RefusedOrigins:
    """ASGI middleware for HTTP: preflights of refused origins are answered with the setting's name.

    Other requests go on: nothing here trusts cookies, and the browser keeps the answer from the page.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == b"origin" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._origins.allows(headers):
            await self._app(scope, receive, send)
            return
        self._origins.log_refusal(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await PlainTextResponse(REFUSAL, 403, {"Vary": "Origin"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def cors(origins: Origins, allowed: Sequence[str]) -> list[Middleware]:
    """The middleware that lets pages of the allowed origins call, and tells the others why they may not."""
    refusing = Middleware(RefusedOrigins, origins)
    if not allowed:
        return [refusing]
    allowing = Middleware(
        CORSMiddleware,
        allow_origins=allowed,
        allow_methods=["GET", "POST", "PUT"],
        # Clients send headers of their own, such as traceparent; which of them count is ours to say.
        allow_headers=["*"],
        expose_headers=["ETag", "Location", "Retry-After"],
        max_age=600,
    )
    return [refusing, allowing]
