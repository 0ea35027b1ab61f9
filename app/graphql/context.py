"""What a resolver has at hand: the services of the process, who asks, and one consistent read per operation.

A context lives for one operation, or for one event of a subscription; never for a connection, so that no session and
no loader's memory outlives what it was opened for.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import strawberry
from sqlalchemy import Executable, Result
from sqlmodel.ext.asyncio.session import AsyncSession
from strawberry.dataloader import DataLoader

from app.auth.actor import Actor
from app.core.crypto import Keyring
from app.core.errors import Unauthenticated
from app.core.settings import Settings
from app.db.database import Database
from app.db.raw_statements import Rows, Snapshot

if TYPE_CHECKING:
    from app.graphql.compiled.reads import Plans

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Services:
    """What a process has, opened once."""

    settings: Settings
    database: Database
    keyring: Keyring
    # Where links into this server begin, without a slash at the end.
    public_url: str
    # How many mutations are under way here, by account: whoever hands out their events may wait for the next.
    writing: Counter[str] = field(default_factory=Counter)


class _Loader(DataLoader[K, V]):
    def __init__(self, load: Callable[[list[K]], Awaitable[list[V]]]) -> None:
        super().__init__(load)
        self._awaited: list[asyncio.Future[V]] = []

    def load(self, key: K) -> Awaitable[V]:
        # A field that fails cancels its siblings, but what they wait for others of the answer may wait for as well.
        awaited = asyncio.ensure_future(super().load(key))
        self._awaited.append(awaited)
        return asyncio.shield(awaited)

    def abandon(self) -> None:
        """Nobody needs any more what is still awaited."""
        for one in self._awaited:
            one.cancel()


@dataclass
class Context:
    services: Services
    # None for a request without credentials.
    actor: Actor | None
    # How many readings the operation has read so far; see `app.readings.intervals`.
    readings_read: int = 0
    # The compiled reads of the operation's document; None where everything goes the ordinary way.
    plans: "Plans | None" = None
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
        """Run a read in the operation's own session, one at a time."""
        # A field that fails cancels its siblings; a statement cut off would take the session from all the others.
        return await asyncio.shield(self._execute(statement, parameters))

    async def _execute(
        self, statement: Executable, parameters: dict[str, Any] | None
    ) -> Result[*tuple[Any, ...]]:
        async with self._lock:
            return await (await self._opened()).execute(statement, parameters)

    async def _opened(self) -> AsyncSession:
        self._require_running()
        if self._session is None:
            await self._close()
            self._stack = AsyncExitStack()
            self._session = await self._stack.enter_async_context(self.services.database.reading())
        return self._session

    async def begin(self) -> None:
        """What the operation reads from here on, in whichever way, is one state."""
        await asyncio.shield(self._begin())

    async def _begin(self) -> None:
        async with self._lock:
            await self._opened()

    async def rows(self, statement: Executable, parameters: dict[str, Any], *, alone: bool) -> Rows:
        """The rows of a statement without ORM objects. `alone`: the operation reads nothing else."""
        if alone and self._session is None:
            return await self.services.database.read(statement, parameters)
        return await asyncio.shield(self._rows(statement, parameters))

    async def _rows(self, statement: Executable, parameters: dict[str, Any]) -> Rows:
        async with self._lock:
            # One root field that is compiled reads nothing but this way.
            if self._session is None and self.plans is not None and self.plans.has_one_root:
                return await (await self._seen()).rows(statement, parameters)
            connection = await (await self._opened()).connection()
            return (await connection.execute(statement, parameters)).all()

    async def _seen(self) -> Snapshot:
        self._require_running()
        if self._snapshot is None:
            self._stack = AsyncExitStack()
            self._snapshot = await self._stack.enter_async_context(self.services.database.snapshot())
        return self._snapshot

    def loader(self, key: Hashable, load: Callable[[list[K]], Awaitable[list[V]]]) -> DataLoader[K, V]:
        """The operation's loader of this key, made at first use; `load` gives the values in the keys' order."""
        self._require_running()
        if key not in self._loaders:
            self._loaders[key] = _Loader(load)
        return self._loaders[key]

    def _require_running(self) -> None:
        if self._is_over:
            raise asyncio.CancelledError

    async def end(self) -> None:
        """The operation is over. What loaders of failed fields still would read is not read."""
        self._is_over = True
        for loader in self._loaders.values():
            loader.abandon()
        await self.renew()

    async def renew(self) -> None:
        """Forget what was read: a mutation has committed, or the operation is over."""
        async with self._lock:
            self._loaders.clear()
            await self._close()

    async def _close(self) -> None:
        stack, self._stack = self._stack, None
        self._session = self._snapshot = None
        if stack is not None:
            await stack.aclose()


Info = strawberry.Info[Context, Any]
