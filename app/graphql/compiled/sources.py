"""Sources of fields: columns, functions of columns, and relations. A field holds its source in its metadata."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from graphql.execution.values import VariableValues
from sqlalchemy import ColumnElement

from app.auth.actor import Actor
from app.graphql.context import Context, Services

SOURCE: Final = "source"

# Columns of a table by the model's attributes, in one statement.
Columns = Callable[[str], ColumnElement[Any]]


class ReadContext(NamedTuple):
    """Viewer, services, time and variables of a read, for functions of columns."""

    viewer: Actor
    services: Services
    at: datetime
    variables: VariableValues


@dataclass(frozen=True)
class Column:
    """An attribute of the model."""

    attribute: str


@dataclass(frozen=True)
class One:
    """At most one row of another model.

    `key` is the attribute that holds its id. A relation without a key has `on`, a condition on this row's columns, the
    other's and the current time, and `find`, which finds the row for execution field by field; `model` is needed if
    functions of its columns are. `scoped`: the viewer's scope is checked again.
    """

    key: str = ""
    on: Callable[[Columns, Columns, Any], ColumnElement[bool]] | None = None
    find: Callable[[Context, Actor, Any], Awaitable[Any]] | None = None
    model: Any = None
    scoped: bool = True


@dataclass(frozen=True)
class Many:
    """A nested connection. `parent` is the column, of the other model or of `through`, that holds this row's id.

    `through` is a link table that is joined by `on` and holds the other model's id in `key`. With an index of parent
    and id, a page costs the same however many rows its parent has. The ORM has `options` for execution field by field.
    """

    parent: Any
    through: Any = None
    on: Any = None
    key: Any = None
    descending: bool = False
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A short list: all rows of another model with this row's id in the column `parent`, ordered by `key`.

    Viewers that see this row see them all.
    """

    parent: Any
    key: str


@dataclass(frozen=True)
class Computed:
    """`value(read_context, *columns)`.

    With a to-one relation `of`, columns of that row follow, all None if there is no such row.
    """

    value: Callable[..., Any]
    columns: tuple[str, ...]
    of: One | None = None
    of_columns: tuple[str, ...] = ()


Source = Column | One | Many | Listed | Computed


def sourced(source: Source) -> Mapping[str, Source]:
    """The metadata of a field whose resolver is written by hand: it must return the same as its source."""
    return {SOURCE: source}


def source_of(field: Any) -> Source | None:
    """The source that a field of Strawberry declares."""
    return field.metadata.get(SOURCE)  # type: ignore[no-any-return]
