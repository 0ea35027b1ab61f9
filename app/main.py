"""One process of Voltwire: what it opens at start and closes at the end, and its routes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from app.accounts import pages as account_pages
from app.api.asked import JSON
from app.api.context import Services
from app.api.engine import Engine
from app.api.failures import RequestErrors
from app.api.limits import limits_of
from app.api.live import Live
from app.api.masked import MaskFaults
from app.api.negotiation import preferred
from app.api.origins import Origins, cors
from app.api.persisted import read_operations
from app.api.rates import Rates
from app.api.schema import build_schema
from app.api.sockets import SocketEndpoint
from app.api.view import HTML, GraphQLView
from app.auth.authenticate import Authenticator
from app.consents import evidence
from app.consents import pages as consent_pages
from app.crypto import Keyring
from app.database import Database
from app.delivery import pages as delivery_pages
from app.errors import CommandError
from app.events.doorbell import Doorbell
from app.events.hub import Hub
from app.events.ring import Ring
from app.metrics import Metrics
from app.migrations import migrate
from app.readings import bulk
from app.settings import Settings
from app.web import start
from app.web.render import page
from app.web.static import PageFiles
from app.worker import Worker

log = structlog.get_logger()

STATIC = Path(__file__).parent / "web" / "static"
READY_WITHIN = 2.0
ERROR_PAGES = {
    404: ("There is nothing here", "Check that you opened the whole link, or begin at the start page, at /."),
    405: ("Nothing to see here", "This address is for programs; the start page, at /, says how they use it."),
}


class Process:
    """The parts of one process. `running()` opens them in order and closes them in the reverse."""

    def __init__(self, settings: Settings, *, public_url: str, with_worker: bool) -> None:
        self.settings = settings
        keyring = Keyring(settings.secret_keys)
        database = Database(settings.database)
        base = (settings.public_url or public_url).rstrip("/")
        self.services = Services(settings, database, keyring, public_url=base)
        self.doorbell = Doorbell.from_url(settings.broadcast_url)
        self.authenticator = Authenticator(database, keyring)
        self.rates = Rates(settings.rate_limit)
        # What endpoints select is no operation of a client, so that no list is asked for it.
        unlisted = Engine(build_schema(), limits_of(settings))
        self.engine = _listed(settings) or unlisted
        self.hub = Hub(self.services, self.engine, self.doorbell)
        self.live = Live(self.services, self.engine, self.authenticator, self.rates, self.hub)
        self.ring = Ring(database, self.doorbell, self.hub)
        self.worker = Worker(self.services, self.doorbell, engine=unlisted) if with_worker else None
        self.metrics = Metrics(self)
        self._working: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Migrate, open everything, and close it at the end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.services.database.dispose)
            await migrate(self.services.database)
            await stack.enter_async_context(self.doorbell)
            stack.push_async_callback(self.authenticator.close)
            await stack.enter_async_context(self.ring)
            await stack.enter_async_context(self.hub)
            if self.worker is not None:
                self._working = asyncio.create_task(self.worker.run(), name="worker")
                stack.push_async_callback(self._end_worker)
            yield

    async def drain(self) -> None:
        """Tell the live streams to reconnect elsewhere, and the worker to claim nothing more."""
        async with asyncio.TaskGroup() as draining:
            if self.worker is not None:
                draining.create_task(self.worker.stop())
            await self.live.close()
            await self.hub.close()

    async def _end_worker(self) -> None:
        if self.worker is not None and self._working is not None:
            await self.worker.stop()
            await self._working

    async def is_ready(self) -> dict[str, bool]:
        """Whether the database answers, and the broadcaster is reached."""
        try:
            async with asyncio.timeout(READY_WITHIN), self.services.database.reading() as session:
                await session.execute(text("SELECT 1"))
            database = True
        except Exception:
            database = False
        return {"database": database, "broadcaster": self.doorbell.healthy}


def _listed(settings: Settings) -> Engine | None:
    """The engine for the documents of the operators' list, if there is one. Raises CommandError."""
    if settings.operations_file is None:
        return None
    operations = read_operations(settings.operations_file)
    engine = Engine(build_schema(), limits_of(settings), operations)
    for key, document in operations.items():
        try:
            engine.require_valid(document)
        except RequestErrors as error:
            raise CommandError(f"VOLTWIRE_OPERATIONS_FILE: the document {key} is refused: {error}") from None
    return engine


def create_app(process: Process) -> Starlette:
    """The ASGI application of a process."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with process.running():
            yield

    origins = Origins(process.services)
    return Starlette(
        routes=_routes(process, origins),
        middleware=[*cors(origins, process.settings.allowed_origins), Middleware(MaskFaults)],
        exception_handlers={HTTPException: _on_http_error},
        lifespan=lifespan,
    )


def _routes(process: Process, origins: Origins) -> list[BaseRoute]:
    services, authenticator = process.services, process.authenticator
    view = GraphQLView(services, process.engine, authenticator, process.rates, process.live)
    sockets = SocketEndpoint(process.live, origins)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        parts = await process.is_ready()
        return JSONResponse(parts, 200 if all(parts.values()) else 503)

    async def metrics(_request: Request) -> Response:
        return process.metrics.response()

    return [
        Route("/graphql", view.__call__, methods=["GET", "POST"]),
        WebSocketRoute("/graphql", sockets),
        *bulk.routes(services, authenticator, process.rates),
        *evidence.routes(services, authenticator, process.rates),
        *consent_pages.routes(services, process.rates),
        *delivery_pages.routes(services, process.rates),
        *account_pages.routes(services, process.rates),
        *start.routes(services),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Mount("/static", PageFiles(directory=STATIC)),
    ]


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    headers = getattr(error, "headers", None) or {}
    if preferred(request.headers.get("accept"), (JSON, HTML)) == HTML:
        return _error_page(status, headers)
    code = "NOT_FOUND" if status == 404 else "INVALID"
    body = {"code": code, "message": str(getattr(error, "detail", "")) or "There is nothing here."}
    return JSONResponse(body, status, headers)


def _error_page(status: int, headers: Mapping[str, str]) -> Response:
    """The same for somebody who looks at it in a browser."""
    title, advice = ERROR_PAGES.get(status, ("This did not work", "Go back, and try it in another way."))
    shown = page("message.html", status, title=title, paragraphs=[advice])
    shown.headers.update(headers)
    return shown
