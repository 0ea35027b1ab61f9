"""Reads on PostgreSQL by the driver alone.

A statement by SQLAlchemy takes several times the processor's time of the driver's own way, and before it the pool asks
whether the connection is still alive, which is three more ways to the server. Here a statement is compiled once, to its
text and what its parameters are made of. Whether a connection is alive shows when it is used: what has only read, and
has told nobody yet, is simply read again over a new one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect

AT_ONCE: Final = 5
"""Connections. A process with one core to compute on makes no use of more."""

VARIANTS: Final = 32
"""Texts that are kept of one statement, for lists of so many different lengths."""

BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"

_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    OSError,
)

Rows = Sequence[Sequence[Any]]
Given = Mapping[str, Any]
Watch = Callable[[str], None]


class CompiledRead:
    """A statement's text, and its parameters from those that are given by name.

    Lists among these have the lengths they have here: each of their values is a parameter. What comes back is as the
    driver gives it, which for texts, numbers, booleans, dates, times in UTC and JSON is as SQLAlchemy gives it.
    """

    def __init__(self, statement: Any, given: Given, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(dict(given))
        self.text: str = state.statement
        origins = {
            name: (base, at)
            for base, names in state.parameter_expansion.items()
            for at, name in enumerate(names)
        }
        self._parameters: list[Callable[[Given], Any]] = []
        for name in state.positiontup:
            base, at = origins.get(name, (name, None))
            turned = compiled.binds[base].type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is
            if base in given:
                self._parameters.append(_picked(base, at, turned))
            else:
                self._parameters.append(_fixed(turned(state.parameters[name])))

    def arguments(self, given: Given) -> list[Any]:
        return [parameter(given) for parameter in self._parameters]


class Reads:
    """A few connections that read. `connect` opens one; `watch` is told the text of each statement."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], dialect: Dialect) -> None:
        self._connect = connect
        self._dialect = dialect
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._free: list[asyncpg.Connection] = []
        self._compiled: WeakKeyDictionary[Executable, dict[Any, CompiledRead]] = WeakKeyDictionary()
        self.watch: Watch = _as_it_is

    async def rows(self, statement: Executable, given: Given) -> Rows:
        """Of one statement, which sees one state of the database by itself."""
        async with self._turns:
            if self._free:
                try:
                    async with self._held(self._free.pop()) as connection:
                        return await self.fetch(connection, statement, given)
                except _LOST:
                    # The others were opened to the same server, which has gone meanwhile.
                    self.dispose()
            async with self._held(await self._opened()) as connection:
                return await self.fetch(connection, statement, given)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Snapshot"]:
        """One state of the database for several statements."""
        async with self._turns, self._held(await self._begun()) as connection:
            yield Snapshot(self, connection)
            await connection.execute("COMMIT")

    async def fetch(self, connection: asyncpg.Connection, statement: Executable, given: Given) -> Rows:
        variants = self._compiled.setdefault(statement, {})
        lengths = tuple(len(value) for value in given.values() if isinstance(value, list))
        compiled = variants.get(lengths)
        if compiled is None:
            if len(variants) >= VARIANTS:
                # Lists of all lengths are asked for, so that none of them is worth much.
                variants.clear()
            compiled = variants[lengths] = CompiledRead(statement, given, self._dialect)
        self.watch(compiled.text)
        rows: Rows = await connection.fetch(compiled.text, *compiled.arguments(given))
        return rows

    async def _begun(self) -> asyncpg.Connection:
        if self._free:
            connection = self._free.pop()
            try:
                await connection.execute(BEGIN)
                return connection
            except _LOST:
                connection.terminate()
                self.dispose()
        connection = await self._opened()
        await connection.execute(BEGIN)
        return connection

    @asynccontextmanager
    async def _held(self, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
        """Free again afterwards; one that was left in the middle of something is not worth waiting for."""
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        self._free.append(connection)

    async def _opened(self) -> asyncpg.Connection:
        connection = await self._connect()
        try:
            await connection.execute("SET default_transaction_read_only = on")
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=_to_jsonb, decoder=_from_jsonb, format="binary"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    def dispose(self) -> None:
        """Close what is open and not in use."""
        while self._free:
            self._free.pop().terminate()


class Snapshot:
    """One state of the database, until the block ends that it was opened for."""

    def __init__(self, reads: Reads, connection: asyncpg.Connection) -> None:
        self._reads = reads
        self._connection = connection

    async def rows(self, statement: Executable, given: Given) -> Rows:
        return await self._reads.fetch(self._connection, statement, given)


def _picked(name: str, at: int | None, turned: Callable[[Any], Any]) -> Callable[[Given], Any]:
    if at is not None:
        return lambda given: turned(given[name][at])
    if turned is _as_it_is:
        return lambda given: given[name]
    return lambda given: turned(given[name])


def _fixed(value: Any) -> Callable[[Given], Any]:
    return lambda _: value


def _as_it_is(value: Any) -> Any:
    return value


# A jsonb on the wire begins with the version of its format.
def _to_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def _from_jsonb(raw: bytes) -> Any:
    return json.loads(raw[1:])
