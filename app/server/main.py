"""One process of Voltwire: what it opens at start and closes at the end, and its routes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
from app.auth.authenticate import Authenticator
from app.consents import evidence
from app.consents import pages as consent_pages
from app.core.crypto import Keyring
from app.core.errors import CommandError
from app.core.outages import is_lost, kind_of, report
from app.core.settings import Settings
from app.db.database import Database
from app.db.migrations import migrate, migrate_when_there
from app.delivery.destinations.email import pages as delivery_pages
from app.events.doorbell import Doorbell
from app.events.publisher import Ring
from app.graphql.bounds.limits import limits_of
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.http.error_middleware import ErrorMiddleware
from app.graphql.http.negotiation import preferred
from app.graphql.http.origins import Origins, cors
from app.graphql.http.rates import Rates
from app.graphql.http.request import JSON
from app.graphql.http.view import HTML, GraphQLView
from app.graphql.persisted import read_operations
from app.live.hub import Hub
from app.live.registry import Live
from app.live.ws.endpoint import SocketEndpoint
from app.readings import bulk
from app.server import probes
from app.server.metrics import Metrics
from app.server.schema import build_schema
from app.server.worker import Worker
from app.web import start
from app.web.render import page
from app.web.static import PageFiles

log = structlog.get_logger()

STATIC = Path(__file__).parents[1] / "web" / "static"
READY_WITHIN = 2.0
ERROR_PAGES = {
    404: ("There is nothing here", "Check that you opened the whole link, or begin at the start page."),
    405: ("Nothing to see here", "This address is for programs; the start page says how they use it."),
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
        # A tool that looks around without a key asks a few dozen questions at once, and then none.
        self.rates = Rates(settings.rate_limit, strangers_at_once=settings.rate_limit)
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
            await self._open_database(stack)
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

    async def _open_database(self, stack: AsyncExitStack) -> None:
        """Migrate. A database that is away is waited for beside everything else, which takes it for away meanwhile."""
        database = self.services.database
        try:
            await migrate(database)
        except Exception as error:
            if database.is_sqlite or not is_lost(error):
                raise
            report("migrating at start", error)
            database.is_held = True
            waiting = asyncio.create_task(migrate_when_there(database), name="database at start")
            stack.callback(waiting.cancel)

    async def faults(self) -> dict[str, str | None]:
        """The faults of the database and the broadcaster, None where there is none; without addresses."""
        database = broadcaster = None
        try:
            async with asyncio.timeout(READY_WITHIN), self.services.database.reading() as session:
                await session.execute(text("SELECT 1"))
        except Exception as error:
            database = f"The database cannot be used ({kind_of(error)})."
        if not self.doorbell.healthy:
            broadcaster = "The broadcaster cannot be reached."
        return {"database": database, "broadcaster": broadcaster}


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
    origins = Origins(process.services)
    return Starlette(
        routes=_routes(process, origins),
        middleware=[*cors(origins, process.settings.allowed_origins), Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: _on_http_error},
        lifespan=_lifespan(process),
    )


def create_probes(process: Process) -> Starlette:
    """The ASGI application of a worker: what operators ask, and nothing else."""
    return Starlette(
        routes=probes.routes(process),
        middleware=[Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: _on_http_error},
        lifespan=_lifespan(process),
    )


def _lifespan(process: Process) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with process.running():
            yield

    return lifespan


def _routes(process: Process, origins: Origins) -> list[BaseRoute]:
    services, authenticator = process.services, process.authenticator
    view = GraphQLView(services, process.engine, authenticator, process.rates, process.live)
    sockets = SocketEndpoint(process.live, origins)

    return [
        Route("/graphql", view.__call__, methods=["GET", "POST"]),
        WebSocketRoute("/graphql", sockets),
        *bulk.routes(services, authenticator, process.rates),
        *evidence.routes(services, authenticator, process.rates),
        *consent_pages.routes(services, process.rates),
        *delivery_pages.routes(services, process.rates),
        *account_pages.routes(services, process.rates),
        *start.routes(services),
        *probes.routes(process),
        Mount("/static", PageFiles(directory=STATIC)),
    ]


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    headers = getattr(error, "headers", None) or {}
    if preferred(request.headers.get("accept"), (JSON, HTML)) == HTML:
        return _error_page(status, headers)
    code = "NOT_FOUND" if status == 404 else "INVALID"
    return JSONResponse({"code": code, "message": _advice(status, error, headers)}, status, headers)


def _advice(status: int, error: Exception, headers: Mapping[str, str]) -> str:
    """The error as a sentence that tells a developer how to go on."""
    if status == 404:
        return "There is nothing at this path: GraphQL is at /graphql, bulk readings at /readings."
    if status == 405:
        return f"This path does not take the method: use {headers.get('Allow', 'GET')}."
    return str(getattr(error, "detail", ""))


def _error_page(status: int, headers: Mapping[str, str]) -> Response:
    """The same for somebody who looks at it in a browser."""
    title, advice = ERROR_PAGES.get(status, ("This did not work", "Go back, and try it in another way."))
    shown = page("message.html", status, title=title, paragraphs=[advice], way="/")
    shown.headers.update(headers)
    return shown
