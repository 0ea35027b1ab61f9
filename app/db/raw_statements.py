"""Statements by the driver alone, past SQLAlchemy's way of executing.

A statement takes several times the processor's time that way than by the driver's own. Here it is compiled once, to its
text and to what its parameters are made of. `sqlite.Reads` and `postgres.Reads` run it, and so does `sqlite.Connection`
what a transaction writes.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Executable
from sqlalchemy.engine import Dialect

VALUES_KEPT: Final = 2048
"""Values in lists that the texts which are kept of one statement take together."""

PICKS_KEPT, PICK_WEIGHT = 16_384, 480

Rows = Sequence[Sequence[Any]]
Given = Mapping[str, Any]
Watch = Callable[[str], None]

T = TypeVar("T")

Script = Generator[tuple[Executable, Given | Sequence[Given]], Rows, T]
"""Statements one after the other: each is yielded with what it is given, and its rows come back.

Given a list it is executed for each of these, in any order. A script may run in another thread.
"""


class Snapshot(Protocol):
    """One state of the database, until the block ends that it was opened for."""

    async def rows(self, statement: Executable, given: Given) -> Rows: ...


class Reads(Protocol):
    """A few connections that read. `watch` is told the text of each statement."""

    watch: Watch

    async def rows(self, statement: Executable, given: Given) -> Rows:
        """Of one statement, which sees one state of the database by itself."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """One state of the database for several statements."""

    async def dispose(self) -> None:
        """Close what is open and not in use."""


class Prepared:
    """A statement's text, and its parameters from those that are given by name.

    Lists among these have the lengths they have here: each of their values is a parameter.
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
            turned = compiled.binds[base].type.dialect_impl(dialect).bind_processor(dialect) or as_it_is
            if base in given:
                self._parameters.append(_picked(base, at, turned))
            else:
                self._parameters.append(_fixed(turned(state.parameters[name])))

    def arguments(self, given: Given) -> list[Any]:
        return [parameter(given) for parameter in self._parameters]


class Statements:
    """What was prepared, for as long as the statement itself is kept by whoever built it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kept: WeakKeyDictionary[Executable, dict[Any, Prepared]] = WeakKeyDictionary()

    def prepared(self, statement: Executable, given: Given) -> Prepared:
        variants = self._kept.setdefault(statement, {})
        lengths = tuple(len(value) for value in given.values() if isinstance(value, list))
        found = variants.get(lengths)
        if found is None:
            found = Prepared(statement, given, self._dialect)
            if sum(map(sum, variants), sum(lengths)) > VALUES_KEPT:
                # Lists of all lengths are asked for, so that none of them is worth much.
                variants.clear()
            if sum(lengths) <= VALUES_KEPT:
                variants[lengths] = found
        return found


def padded(values: list[Any]) -> list[Any]:
    """As many as a power of two, by repeating one, so that a database prepares few different statements."""
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))


def as_it_is(value: Any) -> Any:
    return value


def _picked(name: str, at: int | None, turned: Callable[[Any], Any]) -> Callable[[Given], Any]:
    if at is not None:
        return _of_list(name, at) if turned is as_it_is else lambda given: turned(given[name][at])
    if turned is as_it_is:
        return lambda given: given[name]
    return lambda given: turned(given[name])


@lru_cache(PICKS_KEPT)
def _of_list(name: str, at: int) -> Callable[[Given], Any]:
    # Shared by all statements, each of which may take thousands of them.
    return lambda given: given[name][at]


def _fixed(value: Any) -> Callable[[Given], Any]:
    return lambda _: value
