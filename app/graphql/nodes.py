"""GraphQL types of rows, and the one way to find a row by its id.

`@row_type(models.Customer, "cus")` above a type registers it for `node(id)`, the payloads of mutations, relations, and
loaders by id.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, ForwardRef, Self, TypeVar

import strawberry
from sqlalchemy import Select, bindparam, select
from strawberry.types.base import StrawberryContainer, StrawberryList
from strawberry.types.enum import StrawberryEnumDefinition
from strawberry.types.lazy_type import LazyType, StrawberryLazyReference

from app.auth.actor import Actor, visible
from app.core.ids import is_id
from app.graphql.compiled.sources import Column, Computed, source_of
from app.graphql.context import Context

# A few statements per viewer are cached, with the measured bytes of each.
CACHED_STATEMENTS, STATEMENT_WEIGHT = 1024, 4000

C = TypeVar("C", bound=type)
M = TypeVar("M")


@strawberry.type
class RowObject:
    """A row as its viewer may see it."""

    row: strawberry.Private[Any]
    viewer: strawberry.Private[Actor]

    @classmethod
    def of(cls, row: Any, viewer: Actor, **values: Any) -> Self:
        """The object of a row; `values` are those of fields that no column gives."""
        return cls(row=row, viewer=viewer, **column_values(cls, row), **values)


@strawberry.interface
class Node(RowObject):
    """An object with an id, to be found again by node(id)."""

    id: strawberry.ID


@dataclass(frozen=True)
class RowType:
    """The model of a GraphQL type, and the prefix of its ids.

    `find` finds the object by id where a row alone does not make it. Of an interface, the value of the column `by`
    chooses among the `variants`.
    """

    model: Any
    prefix: str | None = None
    find: Callable[[Context, Actor, str], Awaitable[Any]] | None = None
    by: str = ""
    variants: Mapping[str, type] = field(default_factory=dict)


_by_model: dict[type, type[RowObject]] = {}
_row_types: dict[type, RowType] = {}


def row_type(model: type, prefix: str | None = None, **more: Any) -> Callable[[C], C]:
    """Registers the GraphQL type of a model's rows; see `RowType`."""

    def register(cls: C) -> C:
        _by_model[model] = cls
        _row_types[cls] = RowType(model, prefix, **more)
        return cls

    return register


class RowsOf(StrawberryLazyReference):
    """Names the GraphQL type of a model's rows by the model, for types that would import each other:
    `Annotated[ForwardRef("Delivery"), RowsOf(models.Delivery)]`.
    """

    def __init__(self, model: type) -> None:
        super().__init__(model.__module__)
        self._model = model

    def resolve_forward_ref(self, forward_ref: ForwardRef) -> LazyType[Any, Any]:
        return _TypeOfRows(forward_ref.__forward_arg__, self.module, model=self._model)


@dataclass(frozen=True)
class _TypeOfRows(LazyType[Any, Any]):
    model: type = object

    def resolve_type(self) -> type[Any]:
        return _by_model[self.model]


def row_type_of(cls: type) -> RowType | None:
    """The registration of a type or of its nearest base."""
    return next((_row_types[base] for base in cls.__mro__ if base in _row_types), None)


def object_type(model: type) -> type | None:
    """The GraphQL type of a model's rows; None where a row alone does not make an object."""
    cls = _by_model.get(model)
    return None if cls is None or _row_types[cls].find is not None else cls


def prefix_of(model: type) -> str | None:
    """The prefix of a model's ids."""
    cls = _by_model.get(model)
    return None if cls is None else _row_types[cls].prefix


def shown(row: Any, viewer: Actor) -> Any:
    """The GraphQL object of a row; None stays None."""
    return None if row is None else _by_model[type(row)].of(row, viewer)


def model_named(name: str) -> type[Any]:
    """The registered model of a class name."""
    return next(model for model in _by_model if model.__name__ == name)


def model_of(identifier: str) -> type[Any] | None:
    """The model whose ids have the prefix of this one."""
    prefix = identifier.partition("_")[0]
    return next((known.model for known in _row_types.values() if known.prefix == prefix), None)


def is_id_of(model: type, identifier: str) -> bool:
    """Whether the text has the shape of an id of the model."""
    prefix = prefix_of(model)
    return prefix is not None and is_id(identifier, prefix)


async def find_object(context: Context, viewer: Actor, model: type[Any], identifier: str) -> Any:
    """The GraphQL object with this id, None if the viewer sees none."""
    find_by_id = _row_types[_by_model[model]].find
    if find_by_id is not None:
        return await find_by_id(context, viewer, identifier)
    return shown(await find(context, viewer, model, identifier), viewer)


async def find(context: Context, viewer: Actor, model: type[M], identifier: str) -> M | None:
    """The row with this id, None if the viewer sees none; finds of one operation share a statement."""
    if not is_id_of(model, identifier):
        return None

    table: Any = model

    async def load(ids: list[str]) -> list[M | None]:
        rows = await context.execute(_by_ids(table, viewer), {"ids": ids})
        found = {row.id: row for row in rows.scalars()}
        return [found.get(one) for one in ids]

    return await context.loader(("find", model, viewer), load).load(identifier)


@lru_cache(CACHED_STATEMENTS)
def _by_ids(model: Any, viewer: Actor) -> Select[Any]:
    return visible(select(model).where(model.id.in_(bindparam("ids", expanding=True))), viewer)


def column_values(cls: type, row: Any) -> dict[str, Any]:
    """The attributes of a type that are columns of the row. Enums are stored by the names of their members."""
    return {
        name: value if (value := getattr(row, attribute)) is None or convert is None else convert(value)
        for name, attribute, convert in _columns(cls)
    }


@cache
def _columns(cls: Any) -> list[tuple[str, str, Callable[[Any], Any] | None]]:
    columns = []
    for one in cls.__strawberry_definition__.fields:
        source = source_of(one)
        if one.base_resolver is None and not isinstance(source, Computed):
            attribute = source.attribute if isinstance(source, Column) else one.python_name
            columns.append((one.python_name, attribute, _conversion(one.type)))
    return columns


def _conversion(type_: Any, *, is_list: bool = False) -> Callable[[Any], Any] | None:
    if isinstance(type_, StrawberryContainer):
        return _conversion(type_.of_type, is_list=is_list or isinstance(type_, StrawberryList))
    if not isinstance(type_, StrawberryEnumDefinition):
        return None
    members: Any = type_.wrapped_cls
    if is_list:
        return lambda names: [members[name] for name in names]
    return lambda value: value if isinstance(value, members) else members[value]
