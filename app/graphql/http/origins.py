"""Web origins: pages of allowed origins may call the API, others are refused with the name of the setting."""

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
"""Origins that a process logs at most: strangers can invent any number."""

LONGEST_LOGGED: Final = 200

log = structlog.get_logger(__name__)


class Origins:
    """The allowed origins. Each refused origin is logged once per process."""

    def __init__(self, services: Services) -> None:
        self._allowed = frozenset(services.settings.allowed_origins)
        self._public_host = urlsplit(services.public_url).netloc.lower()
        self._logged: set[str] = set()

    def allows(self, headers: Headers) -> bool:
        """Whether a page of this origin may call. Programs, which send no Origin, may.

        The own host is allowed with any scheme, because a proxy in front may speak TLS.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed or origin.rstrip("/").lower() in self._allowed:
            return True
        host = urlsplit(origin).netloc.lower()
        return bool(host) and host in (headers.get("host", "").lower(), self._public_host)

    def log_refusal(self, headers: Headers) -> None:
        """Logs, once for each origin, the setting that would allow it."""
        origin = headers.get("origin", "")[:LONGEST_LOGGED]
        # The forms of the consent page, which sends no referrer, have the origin "null".
        if origin == "null" or origin in self._logged or len(self._logged) >= LOGGED_AT_MOST:
            return
        self._logged.add(origin)
        log.warning(
            "a page of another origin was refused; if it is one of yours, add the origin to VOLTWIRE_ALLOWED_ORIGINS",
            origin=origin,
        )


class RefusedOrigins:
    """ASGI middleware for HTTP that answers preflights of refused origins with the setting's name.

    Other requests go on: the API trusts no cookies, and the browser keeps the response from the page.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_origin(scope):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._origins.allows(headers):
            await self._app(scope, receive, send)
            return
        self._origins.log_refusal(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await PlainTextResponse(f"{REFUSAL}\n", 403, {"Vary": "Origin"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def has_origin(scope: Scope) -> bool:
    """Whether a browser's page sends the request; the headers of others mean nothing to the middleware here."""
    return any(name == b"origin" for name, _ in scope["headers"])


def cors(origins: Origins, allowed: Sequence[str]) -> list[Middleware]:
    """The middleware that allows the allowed origins and refuses the others."""
    refusing = Middleware(RefusedOrigins, origins)
    if not allowed:
        return [refusing]
    allowing = Middleware(
        CORSMiddleware,
        allow_origins=allowed,
        allow_methods=["GET", "POST", "PUT"],
        # Clients send headers of their own, such as traceparent, which the server may ignore.
        allow_headers=["*"],
        expose_headers=["ETag", "Location", "Retry-After"],
        max_age=600,
    )
    return [refusing, allowing]
