"""The context of resolvers: the services of the process, the viewer, and one consistent read per operation.

A context lives for one operation, or for one event of a subscription, never for a connection: no session and no
loader's cache outlives its operation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import strawberry
from sqlalchemy import Executable, Result
from sqlmodel.ext.asyncio.session import AsyncSession
from strawberry.dataloader import DataLoader

from app.auth.actor import Actor
from app.core.crypto import Keyring
from app.core.errors import Unauthenticated
from app.core.settings import Settings
from app.db.database import Database
from app.db.raw_statements import Readable, Rows, Snapshot
from app.delivery.queue.kinds import DestinationKinds
from app.feeds.credentials import Sources
from app.graphql.compiled.plan_cache import PlanCache
from app.graphql.writing import Writing
from app.outbound.mail.link_tokens import MailLinks

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Services:
    """Opened once per process."""

    settings: Settings
    database: Database
    keyring: Keyring
    mail_links: MailLinks
    # The kinds of destinations that events are delivered to.
    kinds: DestinationKinds
    # The way to the sources of feeds.
    sources: Sources
    writing: Writing = field(default_factory=Writing)

    def __post_init__(self) -> None:
        self.database.on_commit(self.writing.note_commit)

    @property
    def public_url(self) -> str:
        """Links into this server begin with it; no slash at the end."""
        return self.mail_links.public_url


class _Loader(DataLoader[K, V]):
    def __init__(self, load: Callable[[list[K]], Awaitable[list[V]]]) -> None:
        super().__init__(load)
        self._awaited: list[asyncio.Future[V]] = []

    def load(self, key: K) -> Awaitable[V]:
        # A field that fails cancels its siblings, but other fields may wait for the same key.
        awaited = asyncio.ensure_future(super().load(key))
        self._awaited.append(awaited)
        return asyncio.shield(awaited)

    def abandon(self) -> None:
        """Cancels all loads that have not ended."""
        for future in self._awaited:
            future.cancel()


@dataclass
class Context:
    services: Services
    # None for a request without credentials.
    actor: Actor | None
    # Readings that the operation has read; see `app.readings.intervals`.
    readings_read: int = 0
    # None where the operation is executed field by field.
    plan_cache: PlanCache | None = None
    # The same for the payloads of mutations.
    payload_plans: PlanCache | None = None
    _session: AsyncSession | None = None
    _snapshot: Snapshot | None = None
    _stack: AsyncExitStack | None = None
    _is_over: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _loaders: dict[Hashable, _Loader[Any, Any]] = field(default_factory=dict)

    @property
    def viewer(self) -> Actor:
        """Raises Unauthenticated."""
        if self.actor is None:
            raise Unauthenticated("Send an API key in x-api-key or Authorization: Bearer.")
        return self.actor

    async def execute(
        self, statement: Executable, parameters: dict[str, Any] | None = None
    ) -> Result[*tuple[Any, ...]]:
        """Runs a read in the operation's session, one at a time."""
        # A field that fails cancels its siblings; a cancelled statement would break the session for all others.
        return await asyncio.shield(self._execute(statement, parameters))

    async def _execute(
        self, statement: Executable, parameters: dict[str, Any] | None
    ) -> Result[*tuple[Any, ...]]:
        async with self._lock:
            return await (await self._open_session()).execute(statement, parameters)

    async def _open_session(self) -> AsyncSession:
        self._require_running()
        if self._session is None:
            await self._close()
            self._stack = AsyncExitStack()
            self._session = await self._stack.enter_async_context(self.services.database.reading())
        return self._session

    async def begin(self) -> None:
        """Opens the session: all reads of the operation from here on see one state."""
        await asyncio.shield(self._begin())

    async def _begin(self) -> None:
        async with self._lock:
            await self._open_session()

    async def rows(self, statement: Readable, parameters: dict[str, Any], *, alone: bool) -> Rows:
        """The rows of a statement without ORM objects. `alone`: it is the operation's only read."""
        if alone and self._session is None:
            return await self.services.database.read(statement, parameters)
        return await asyncio.shield(self._rows(statement, parameters))

    async def _rows(self, statement: Readable, parameters: dict[str, Any]) -> Rows:
        async with self._lock:
            # A compiled root field reads only by this method; without others, no session is needed.
            if self._session is None and self.plan_cache is not None and self.plan_cache.has_one_root:
                return await (await self._open_snapshot()).fetch(statement, parameters)
            return await self.services.database.read_in(await self._open_session(), statement, parameters)

    async def _open_snapshot(self) -> Snapshot:
        self._require_running()
        if self._snapshot is None:
            self._stack = AsyncExitStack()
            self._snapshot = await self._stack.enter_async_context(self.services.database.snapshot())
        return self._snapshot

    def loader(self, key: Hashable, load: Callable[[list[K]], Awaitable[list[V]]]) -> DataLoader[K, V]:
        """The operation's loader with this key, made at first use; `load` returns values in the order of its keys."""
        self._require_running()
        if key not in self._loaders:
            self._loaders[key] = _Loader(load)
        return self._loaders[key]

    async def turn(self) -> None:
        """Fields that have long lists to complete go on one at a time, and other work gets its turn between them."""
        async with self._lock:
            await asyncio.sleep(0)

    def _require_running(self) -> None:
        if self._is_over:
            raise asyncio.CancelledError

    async def end(self) -> None:
        """Ends the operation, with all loads of failed fields."""
        self._is_over = True
        for loader in self._loaders.values():
            loader.abandon()
        await self.renew()

    async def renew(self) -> None:
        """Closes the session and empties the loaders: a mutation has committed, or the operation has ended."""
        async with self._lock:
            self._loaders.clear()
            await self._close()

    async def _close(self) -> None:
        stack, self._stack = self._stack, None
        self._session = self._snapshot = None
        if stack is not None:
            await stack.aclose()


Info = strawberry.Info[Context, Any]
