"""The ASGI applications: all routes of a server, and those of a worker."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.accounts import pages as account_pages
from app.consents import evidence
from app.consents import pages as consent_pages
from app.console import start
from app.delivery.destinations.email import pages as delivery_pages
from app.graphql.http.error_middleware import ErrorMiddleware
from app.graphql.http.negotiation import preferred
from app.graphql.http.origins import Origins, cors, has_origin
from app.graphql.http.page_rates import WAIT, rate_limited, require_page_rate
from app.graphql.http.plain_json import plain_error
from app.graphql.http.rates import Rates
from app.graphql.http.request import JSON
from app.graphql.http.view import HTML, GraphQLView
from app.imports import http as imports
from app.live.sse import SseResponder
from app.live.ws.endpoint import SocketEndpoint
from app.readings import bulk
from app.server import probes
from app.server.process import Process
from app.web.render import page
from app.web.static import PageFiles

GRAPHQL = "/graphql"
METHODS = ("GET", "POST")
STATIC = Path(__file__).parents[1] / "web" / "static"
ERROR_PAGES = {
    404: ("There is nothing here", "Check that you opened the whole link, or begin at the start page."),
    405: ("Nothing to see here", "This address is for programs; the start page says how they use it."),
    429: ("Too many requests", WAIT),
}
ERROR_CODES = {404: "NOT_FOUND", 429: "RATE_LIMITED"}


class Application(Starlette):
    """Hands sockets and programs' requests at `GRAPHQL` past middleware and routes.

    Each socket would keep their frames for its life, and each request would spend some of its time in them.
    """

    def __init__(self, sockets: ASGIApp, requests: ASGIApp, **options: Any) -> None:
        super().__init__(**options)
        self._sockets = sockets
        self._requests = requests

    def build_middleware_stack(self) -> ASGIApp:
        sockets, requests, routed = self._sockets, self._requests, super().build_middleware_stack()

        def handle(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            app = routed
            if scope["type"] != "lifespan" and scope["path"] == GRAPHQL:
                if scope["type"] == "websocket":
                    app = sockets
                elif scope["method"] in METHODS and not has_origin(scope):
                    app = requests
            return app(scope, receive, send)

        return handle


def create_app(process: Process) -> Starlette:
    """The ASGI application of a process."""
    origins = Origins(process.services)
    sockets = SocketEndpoint(process.connections, origins)
    view = GraphQLView(
        process.services,
        process.engine,
        process.authenticator,
        process.rates,
        SseResponder(process.connections),
    )
    return Application(
        sockets,
        ErrorMiddleware(view.respond),
        routes=_routes(process, sockets, view),
        middleware=[*cors(origins, process.settings.allowed_origins), Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: _on_http_error(process.rates)},
        lifespan=_lifespan(process),
    )


def create_probes(process: Process) -> Starlette:
    """The ASGI application of a worker: probes for operators, and nothing else."""
    return Starlette(
        routes=probes.routes(process),
        middleware=[Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: _on_http_error(process.rates)},
        lifespan=_lifespan(process),
    )


def _lifespan(process: Process) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with process.running():
            yield

    return lifespan


def _routes(process: Process, sockets: SocketEndpoint, view: GraphQLView) -> list[BaseRoute]:
    services, authenticator = process.services, process.authenticator
    return [
        Route(GRAPHQL, view.__call__, methods=METHODS),
        # For a server with a root path, which `Application` does not look at.
        WebSocketRoute(GRAPHQL, sockets),
        *bulk.routes(services, authenticator, process.rates),
        *imports.routes(services, authenticator, process.rates),
        *evidence.routes(services, authenticator, process.rates),
        *consent_pages.routes(services, process.rates),
        *delivery_pages.routes(services, process.rates),
        *account_pages.routes(services, process.rates),
        *start.routes(services, process.rates),
        *probes.routes(process),
        Route(
            "/static/{path:path}",
            rate_limited(process.rates, PageFiles(directory=STATIC).respond),
            methods=["GET"],
        ),
    ]


def _on_http_error(rates: Rates) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        if getattr(error, "status_code", 500) in (404, 405):
            try:
                require_page_rate(rates, request)
            except HTTPException as limit:
                error = limit
        status = getattr(error, "status_code", 500)
        headers = getattr(error, "headers", None) or {}
        if preferred(request.headers.get("accept"), (JSON, HTML)) == HTML:
            return _error_page(status, headers)
        code = ERROR_CODES.get(status, "INVALID")
        return plain_error(status, code, _advice(status, error, headers), **headers)

    return answer


def _advice(status: int, error: Exception, headers: Mapping[str, str]) -> str:
    """The error as a sentence that tells a developer what to do."""
    if status == 404:
        return "There is nothing at this path: GraphQL is at /graphql, bulk readings at /readings, files at /imports."
    if status == 405:
        return f"This path does not take the method: use {headers.get('Allow', 'GET')}."
    return str(getattr(error, "detail", ""))


def _error_page(status: int, headers: Mapping[str, str]) -> Response:
    """The error as a page for browsers."""
    title, advice = ERROR_PAGES.get(status, ("This did not work", "Go back, and try it in another way."))
    shown = page("message.html", status, title=title, paragraphs=[advice], way="/")
    shown.headers.update(headers)
    return shown
