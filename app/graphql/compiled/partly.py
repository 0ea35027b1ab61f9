"""What a compiled read hands to the executor: a value that is ready, or one with fields still to be executed.

A field with a resolver of its own (a meter's `intervalData`) does not take the whole read from the compiled way. The
plan reads all columns of the row that it belongs to, and makes the row's GraphQL object beside the dict of what could
be compiled: together a `Partly`. Each object on the way from the root field down to it is a `Partly` too. The executor
completes these as any object, field by field, so that paths, errors, what a null takes with it and the order of keys
come about as ever; but what a `Partly` has ready it takes as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLObjectType

from app.graphql.compiled.declare import Asked
from app.graphql.nodes import shown


@dataclass(frozen=True)
class Ready:
    """A value that is already as the client asked for it."""

    __slots__ = ("value",)

    value: Any


@dataclass(frozen=True)
class Level:
    """The type of an object, and which of its `values` are still to be completed.

    `reads`: whether these are relations, for which the ordinary way reads rows.
    """

    type: GraphQLObjectType
    unready: frozenset[str]
    reads: bool


class Partly:
    """An object with some of its fields in `values`, by response keys; others are executed on `source`."""

    __slots__ = ("level", "source", "values")

    def __init__(self, level: Level, values: dict[str, Any], source: Any) -> None:
        self.level = level
        self.values = values
        self.source = source


def handed(value: Any) -> Ready | Partly:
    """The value of a plan as the executor takes it."""
    return value if isinstance(value, Ready | Partly) else Ready(value)


def source_of(model: Any, names: tuple[str, ...]) -> Callable[[Asked, tuple[Any, ...]], Any]:
    """From all columns of a row to its GraphQL object, over a row that belongs to no session."""
    return lambda asked, values: shown(model(**dict(zip(names, values, strict=True))), asked.viewer)
