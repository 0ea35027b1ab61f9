"""Statements that the driver executes directly, past SQLAlchemy's execution.

Executing through SQLAlchemy takes several times the processor's time of the driver alone. Here a statement is compiled
once, to its text and the conversions of its parameters. The read pools in `sqlite` and `postgres` run such statements,
and scripts consist of them.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Executable, Select
from sqlalchemy.engine import Dialect

from app.db.sql import Sql

VALUES_KEPT: Final = 2048
"""List values in all texts that are kept of one statement, together."""

PICKS_KEPT, PICK_WEIGHT = 16_384, 480

Rows = Sequence[Sequence[Any]]
Parameters = Mapping[str, Any]
StatementListener = Callable[[str], None]

T = TypeVar("T")


class RebuiltStatement:
    """A reading statement that is built anew for each compilation.

    Its compiled text takes a fraction of the memory of the objects that it is built of.
    """

    def __init__(self, build: Callable[[], Select[Any]]) -> None:
        self._build = build
        self._built: Select[Any] | None = None

    def build(self) -> Select[Any]:
        """The statement, which is dropped once it is compiled."""
        return self._build() if self._built is None else self._built

    def keep(self) -> Select[Any]:
        """The same statement each time, for SQLAlchemy, which remembers what it compiled."""
        if self._built is None:
            self._built = self._build()
        return self._built


Readable = Executable | RebuiltStatement

Script = Generator[tuple[Readable | Sql, Parameters | Sequence[Parameters]], Rows, T]
"""Statements in sequence: the generator yields each with its parameters, and receives its rows.

With a list of parameters the statement is executed for each of them, in any order. A script may run in another thread,
and again from its beginning where its transaction was undone.
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A single state of the database, until the end of the block that opened it."""

    fetch: Callable[[Readable, Parameters], Awaitable[Rows]]


class CompiledStatement:
    """A statement's text, its positional arguments from named parameters, and conversions of its rows' values.

    There are `conversions` where the driver does not convert them. Lists among the parameters have the same lengths
    each time: every one of their values is an argument.
    """

    def __init__(self, statement: Any, parameters: Parameters, dialect: Dialect, *, converts: bool) -> None:
        compiled = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(dict(parameters))
        self.text: str = state.statement
        origins = {
            name: (base, at)
            for base, names in state.parameter_expansion.items()
            for at, name in enumerate(names)
        }
        self._arguments: list[Callable[[Parameters], Any]] = []
        self.conversions: list[tuple[int, Callable[[Any], Any]]]
        for name in state.positiontup:
            base, at = origins.get(name, (name, None))
            convert = compiled.binds[base].type.dialect_impl(dialect).bind_processor(dialect)
            if base in parameters:
                self._arguments.append(_picked(base, at, convert))
            else:
                value = state.parameters[name]
                self._arguments.append(_fixed(convert(value) if convert else value))
        # A textual statement has only the columns that it declares.
        columns = getattr(statement, "exported_columns", ()) if converts else ()
        processors = [one.type.dialect_impl(dialect).result_processor(dialect, None) for one in columns]
        self.conversions = [(at, convert) for at, convert in enumerate(processors) if convert is not None]

    def arguments(self, parameters: Parameters) -> list[Any]:
        return [argument(parameters) for argument in self._arguments]


class StatementCache:
    """Compiled statements, each kept for as long as its statement object lives.

    `converts`: the driver leaves the conversion of rows' values to the dialect.
    """

    def __init__(self, dialect: Dialect, *, converts: bool) -> None:
        self._dialect = dialect
        self._converts = converts
        self._compiled: WeakKeyDictionary[Readable, dict[Any, CompiledStatement]] = WeakKeyDictionary()

    def compiled(self, statement: Readable, parameters: Parameters) -> CompiledStatement:
        variants = self._compiled.setdefault(statement, {})
        lengths = tuple(len(value) for value in parameters.values() if isinstance(value, list))
        found = variants.get(lengths)
        if found is None:
            built = statement.build() if isinstance(statement, RebuiltStatement) else statement
            found = CompiledStatement(built, parameters, self._dialect, converts=self._converts)
            if sum(map(sum, variants), sum(lengths)) > VALUES_KEPT:
                # Lists of many lengths are asked for, so that no single variant is worth much.
                variants.clear()
            if sum(lengths) <= VALUES_KEPT:
                variants[lengths] = found
        return found


def pad_to_power_of_two(values: list[Any]) -> list[Any]:
    """The values with the last one repeated up to a power of two, so that a database prepares few statements."""
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))


def ignore_statement(_text: str) -> None:
    """The default listener, which does nothing."""


def _picked(name: str, at: int | None, convert: Callable[[Any], Any] | None) -> Callable[[Parameters], Any]:
    if convert is None:
        return _list_value(name, at) if at is not None else lambda parameters: parameters[name]
    if at is not None:
        return lambda parameters: convert(parameters[name][at])
    return lambda parameters: convert(parameters[name])


@lru_cache(PICKS_KEPT)
def _list_value(name: str, at: int) -> Callable[[Parameters], Any]:
    # Shared by all statements, each of which may take thousands of list values.
    return lambda parameters: parameters[name][at]


def _fixed(value: Any) -> Callable[[Parameters], Any]:
    return lambda _: value
