"""A process of Voltwire: the parts that it opens at start and closes at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from sqlalchemy import text

from app.auth.authenticate import Authenticator
from app.core.errors import CommandError
from app.core.outages import error_name, is_database_away, report
from app.core.settings import Settings
from app.customers.models import EXISTING_CUSTOMERS
from app.db.migrations import migrate, migrate_when_reachable
from app.delivery.destinations.kinds import KINDS
from app.delivery.queue.kinds import DestinationKinds
from app.events.doorbell import Doorbell
from app.events.publisher import Publisher
from app.feeds.credentials import SourceKinds
from app.feeds.kinds import SOURCE_KINDS
from app.graphql.bounds.limits import limits_of
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.http.rates import Rates
from app.graphql.persisted import read_operations
from app.live.hub import Hub
from app.live.registry import ConnectionRegistry
from app.schema import build_schema
from app.server.metrics import Metrics
from app.server.services import services_of
from app.server.worker import Worker

READY_WITHIN: Final = 2.0
"""Seconds in which the database must answer a readiness probe."""


class Process:
    """The parts of one process. `running()` opens them in order and closes them in the reverse."""

    def __init__(
        self,
        settings: Settings,
        *,
        public_url: str,
        with_worker: bool,
        kinds: DestinationKinds = KINDS,
        source_kinds: SourceKinds = SOURCE_KINDS,
    ) -> None:
        self.settings = settings
        base = (settings.public_url or public_url).rstrip("/")
        self.services = services_of(settings, base, kinds, source_kinds)
        database = self.services.database
        self.doorbell = Doorbell.from_url(settings.broadcast_url)
        self.authenticator = Authenticator(database, self.services.keyring, EXISTING_CUSTOMERS)
        # A tool that explores the API without a key sends a few dozen requests at once, and then none.
        self.rates = Rates(settings.rate_limit, strangers_at_once=settings.rate_limit)
        # The operators' list is for clients' documents; the selections of webhook endpoints need not be on it.
        unlisted = Engine(build_schema(), limits_of(settings))
        self.engine = _engine_of_listed_operations(settings) or unlisted
        self.hub = Hub(self.services, self.engine, self.doorbell)
        self.connections = ConnectionRegistry(
            self.services, self.engine, self.authenticator, self.rates, self.hub
        )
        self.publisher = Publisher(database, self.doorbell, self.hub)
        self.worker = Worker(self.services, self.doorbell, engine=unlisted) if with_worker else None
        self.metrics = Metrics(self.hub, self.connections, self.doorbell, self.worker)
        self._working: asyncio.Task[None] | None = None
        self._check: asyncio.Task[dict[str, str | None]] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Migrates the database, opens all parts, and closes them at the end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.services.database.dispose)
            stack.push_async_callback(self.services.sources.aclose)
            await self._open_database(stack)
            await stack.enter_async_context(self.doorbell)
            stack.push_async_callback(self.authenticator.close)
            await stack.enter_async_context(self.publisher)
            await stack.enter_async_context(self.hub)
            if self.worker is not None:
                self._working = asyncio.create_task(self.worker.run(), name="worker")
                stack.push_async_callback(self._end_worker)
            yield

    async def drain(self) -> None:
        """Tells the live streams to reconnect elsewhere, and the worker to claim nothing more."""
        async with asyncio.TaskGroup() as draining:
            if self.worker is not None:
                draining.create_task(self.worker.stop())
            await self.connections.close()
            await self.hub.close()

    async def _end_worker(self) -> None:
        if self.worker is not None and self._working is not None:
            await self.worker.stop()
            await self._working

    async def _open_database(self, stack: AsyncExitStack) -> None:
        """Migrates the database; waits for one that is away in the background, held as unavailable meanwhile."""
        database = self.services.database
        try:
            await migrate(database)
        except Exception as error:
            if database.is_sqlite or not is_database_away(error):
                raise
            report("migrating at start", error)
            database.awaits_migration = True
            waiting = asyncio.create_task(migrate_when_reachable(database), name="database at start")
            stack.callback(waiting.cancel)

    async def faults(self) -> dict[str, str | None]:
        """The faults of the database and the broadcaster, None where there is none; without addresses.

        All callers at one time share one check, because anybody may ask.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._find_faults())
        return await asyncio.shield(self._check)

    async def _find_faults(self) -> dict[str, str | None]:
        database = broadcaster = None
        try:
            async with asyncio.timeout(READY_WITHIN), self.services.database.reading() as session:
                await session.execute(text("SELECT 1"))
        except Exception as error:
            database = f"The database cannot be used ({error_name(error)})."
        if not self.doorbell.healthy:
            broadcaster = "The broadcaster cannot be reached."
        return {"database": database, "broadcaster": broadcaster}


def _engine_of_listed_operations(settings: Settings) -> Engine | None:
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
