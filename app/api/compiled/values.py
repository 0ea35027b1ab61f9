"""How values become what JSON holds, as the schema's scalars and enums show them, and dicts of them in order."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from graphql import GraphQLEnumType, GraphQLLeafType

from app import clock

Show = Callable[[Any], Any]
Make = Callable[[Any, Any], Any]

# What databases give as the client gets it: texts, numbers, booleans, JSON, names of enum members.
_AS_IT_IS = frozenset({"ID", "String", "Boolean", "Int", "Long", "Metadata", "JSON"})
_SHOWN: dict[str, Show] = {"DateTime": clock.format_utc, "Date": lambda value: value.isoformat()}


class NotCompiled(Exception):
    """This goes the ordinary way."""


def show_column(leaf: GraphQLLeafType) -> Show | None:
    """How a stored value that is not null is shown; None where it goes out as it is. Raises NotCompiled."""
    if isinstance(leaf, GraphQLEnumType) or leaf.name in _AS_IT_IS:
        return None
    if leaf.name not in _SHOWN:
        raise NotCompiled(leaf.name)
    return _SHOWN[leaf.name]


def show_value(leaf: GraphQLLeafType) -> Show | None:
    """The same for the value of an attribute of a GraphQL object, where an enum's value is its member."""
    if isinstance(leaf, GraphQLEnumType):
        members = leaf.extensions["strawberry-definition"].wrapped_cls
        return {member: leaf.coerce_output_value(member) for member in members}.__getitem__
    if leaf.name in _AS_IT_IS or leaf.name in _SHOWN:
        return show_column(leaf)
    return leaf.coerce_output_value


def made_of(index: int, show: Show) -> Make:
    """From a row to one of its values, shown."""

    def make(row: Any, _run: Any) -> Any:
        value = row[index]
        return None if value is None else show(value)

    return make


def object_of(entries: Sequence[tuple[str, int, Make | None]]) -> Make:
    """From a row to a dict: each key with the row's value at an index, or with what is made of the row."""
    keys = tuple(key for key, _, _ in entries)
    indexes = [index for _, index, _ in entries]
    made = [(key, make) for key, _, make in entries if make is not None]
    # One call in C for all values; the places of what is made are filled in then, so that the order of keys stays.
    pick = itemgetter(*indexes) if len(indexes) > 1 else None
    (only,) = indexes if pick is None else (0,)

    def plain(row: Any, _run: Any) -> dict[str, Any]:
        return dict(zip(keys, pick(row) if pick else (row[only],), strict=True))

    def shaped(row: Any, run: Any) -> dict[str, Any]:
        shown = dict(zip(keys, pick(row) if pick else (row[only],), strict=True))
        for key, make in made:
            shown[key] = make(row, run)
        return shown

    return shaped if made else plain
