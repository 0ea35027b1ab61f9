"""How a feature says where the fields of its GraphQL type come from.

`@compiled(Meter, metadata=column("labels"), customer=one("customer_id"))` above a type that shows `Meter`: an attribute
of the type with the name of an attribute of the model is that column, the others are given by name. A field that is
neither has a resolver of its own, which is executed on the object that shows the row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from graphql.execution.values import VariableValues
from sqlalchemy import ColumnElement

from app.auth.actor import Actor
from app.graphql.context import Services

C = TypeVar("C", bound=type)

# Columns of a table by the model's attributes; in SQL of one statement.
Columns = Callable[[str], ColumnElement[Any]]


@dataclass(frozen=True)
class ReadContext:
    """Who asks, when and with which variables, and what the functions of columns may need beside the columns."""

    viewer: Actor
    services: Services
    at: datetime
    variables: VariableValues


@dataclass(frozen=True)
class Column:
    """The value of one attribute of the model."""

    attribute: str


@dataclass(frozen=True)
class One:
    """At most one row of another model; the field's GraphQL type says which.

    `key` is the attribute that holds its id. Otherwise `on` gives the condition, from this row's columns, the other's
    and the current time; `scoped` is whether the viewer's scope is asked again.
    """

    key: str = ""
    on: Callable[[Columns, Columns, Any], ColumnElement[bool]] | None = None
    scoped: bool = True


@dataclass(frozen=True)
class Many:
    """A nested connection. `parent` is the column, of the other model or of `through`, that holds this row's id.

    `through` is a link table that is joined by `on` and holds the other model's id in `key`. An index of the parent and
    the id makes a page cost the same however many rows its parent has.
    """

    parent: Any
    through: Any = None
    on: Any = None
    key: Any = None
    descending: bool = False


@dataclass(frozen=True)
class Listed:
    """A short list: all rows of another model that hold this row's id in the column `parent`, ordered by `key`.

    Whoever sees this row sees them.
    """

    parent: Any
    key: str


@dataclass(frozen=True)
class Computed:
    """`value(asked, *columns)`, which is what the field's resolver would give.

    With `of`, a to-one relation to `of_model`, that row's columns follow, all None where there is no such row.
    """

    value: Callable[..., Any]
    columns: tuple[str, ...]
    of: One | None = None
    of_model: Any = None
    of_columns: tuple[str, ...] = ()


Source = Column | One | Many | Listed | Computed


def column(attribute: str) -> Column:
    return Column(attribute)


def one(key: str) -> One:
    return One(key)


def many(parent: Any, *, descending: bool = False) -> Many:
    return Many(parent, descending=descending)


def listed(parent: Any, *, key: str) -> Listed:
    return Listed(parent, key)


def computed(value: Callable[..., Any], *columns: str) -> Computed:
    return Computed(value, columns)


@dataclass(frozen=True)
class Declared:
    """Where the fields of a type come from. `by` and `variants`: the column whose value chooses the GraphQL type.

    A computed field `cursor` is what connections of the type have as cursors; of others they are over ids.
    """

    model: Any
    fields: Mapping[str, Source]
    by: str = ""
    variants: Mapping[str, type] = field(default_factory=dict)

    def source(self, name: str, *, has_resolver: bool) -> Source | None:
        """By the field's Python name."""
        given = self.fields.get(name)
        if given is None and not has_resolver and name in self.model.__mapper__.columns:
            return Column(name)
        return given


_declared: dict[type, Declared] = {}


def compiled(
    model: Any, *, by: str = "", variants: Mapping[str, type] | None = None, **fields: Source
) -> Callable[[C], C]:
    """Declare a type; what its bases declare holds for it as well."""

    def register(cls: C) -> C:
        inherited = declared(cls)
        merged = {**(inherited.fields if inherited else {}), **fields}
        _declared[cls] = Declared(model, merged, by, {} if variants is None else variants)
        return cls

    return register


def declared(cls: type) -> Declared | None:
    """What was declared for a type or its nearest base."""
    return next((_declared[base] for base in cls.__mro__ if base in _declared), None)
