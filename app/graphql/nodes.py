"""Which GraphQL type shows which table, and the one way to look a row up by its id.

A feature says `@shows(models.Customer, "cus")` above its type, which has `of(row, viewer)`. From that follow
`node(id)`, the payloads of mutations, and the loaders by id.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import strawberry
from sqlalchemy import Select, bindparam, select

from app.auth.actor import Actor, visible
from app.core.errors import BadUserInput
from app.core.ids import is_id
from app.graphql.context import Context

# Statements whose building is worth keeping, a few per viewer, and the bytes of each, as measured.
CACHED_STATEMENTS, STATEMENT_WEIGHT = 1024, 4000

C = TypeVar("C", bound=type)
M = TypeVar("M")


@strawberry.interface
class Node:
    """An object with an id, to be found again by node(id)."""

    id: strawberry.ID


class Shown(Protocol):
    @classmethod
    def of(cls, row: Any, viewer: Actor) -> Any: ...


_types: dict[type, type[Shown]] = {}
_models: dict[str, type] = {}


def shows(model: type, prefix: str | None = None) -> Callable[[C], C]:
    """Register a GraphQL type as the way rows of the model are shown; their ids, if they have any, begin so."""

    def register(cls: C) -> C:
        _types[model] = cls
        if prefix is not None:
            _models[prefix] = model
        return cls

    return register


def has_ids(model: type, prefix: str) -> None:
    """Register what the ids of a model begin with whose rows alone do not make its type."""
    _models[prefix] = model


def prefix_of(model: type) -> str | None:
    """What the ids of a registered model begin with."""
    return next((prefix for prefix, known in _models.items() if known is model), None)


def shown(row: Any, viewer: Actor) -> Any:
    """The row as its GraphQL type; None stays None."""
    return None if row is None else _types[type(row)].of(row, viewer)


def shown_as(model: type) -> type | None:
    """The GraphQL type that `shown` makes of the model's rows; None where a row alone does not make one."""
    return _types.get(model)


def model_named(name: str) -> type[Any]:
    """The registered model of a class name."""
    return next(model for model in _types if model.__name__ == name)


def is_id_of(model: type, identifier: str) -> bool:
    """Whether the text has the shape of an id of a registered model."""
    return any(known is model and is_id(identifier, prefix) for prefix, known in _models.items())


async def find(context: Context, viewer: Actor, model: type[M], identifier: str) -> M | None:
    """The row with this id if the viewer may see it; many asked for at once are one statement."""
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


async def find_owner(context: Context, viewer: Actor, model: type[Any], identifier: str) -> Any:
    """What a row belongs to, as its GraphQL type. Raises BadUserInput where it was deleted since the row was read."""
    row = await find(context, viewer, model, identifier)
    if row is None:
        # Only after a mutation, whose answer is read when it has committed; one read sees one state throughout.
        raise BadUserInput(
            f"The {model.__name__.lower()} was deleted by another request meanwhile; read anew."
        )
    return shown(row, viewer)


def model_of(identifier: str) -> type[Any] | None:
    """The registered model whose ids begin as this one."""
    return _models.get(identifier.partition("_")[0])
