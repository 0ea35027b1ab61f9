"""Results of compiled reads for the executor: ready values, and objects with fields that are still to be executed.

A read is compiled although a field in it has a resolver of its own, such as a meter's `intervalData`. For the object
with this field, the plan reads all columns of its row and makes the row's GraphQL object beside the dict of compiled
values: together a `PartialObject`. So is each object between it and the root field. The executor completes partial
objects field by field, with the usual paths, errors, nulls and order of keys, but takes their ready values as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLObjectType
from orjson import Fragment

from app.graphql.compiled.sources import ReadContext
from app.graphql.nodes import shown


@dataclass(frozen=True)
class ReadyValue:
    """A value that needs no completion."""

    __slots__ = ("value",)

    value: Any


def ready_json(text: str) -> ReadyValue:
    """A value that goes into the response as this JSON."""
    return ReadyValue(Fragment(text))


@dataclass(frozen=True)
class PartialType:
    """The type of a partial object, and the keys of its values that are still to be completed.

    `reads`: whether these are relations, for which execution field by field reads rows.
    """

    type: GraphQLObjectType
    partial: frozenset[str]
    reads: bool


class PartialObject:
    """An object with compiled `values` by response keys; other fields are executed on `source`."""

    __slots__ = ("source", "type", "values")

    def __init__(self, type_: PartialType, values: dict[str, Any], source: Any) -> None:
        self.type = type_
        self.values = values
        self.source = source


def as_result(value: Any) -> ReadyValue | PartialObject:
    """The result of a plan as the executor takes it."""
    return value if isinstance(value, ReadyValue | PartialObject) else ReadyValue(value)


def object_maker(model: Any, names: tuple[str, ...]) -> Callable[[ReadContext, tuple[Any, ...]], Any]:
    """Makes a row's GraphQL object of all its columns."""
    return lambda context, values: shown(model(**dict(zip(names, values, strict=True))), context.viewer)
