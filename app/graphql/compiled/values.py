"""How values become what the client gets, and functions that shape rows, made from expressions as dataclasses are.

A shape is a Python expression over `row`, a tuple, or `page`, and `run`; evaluated once, it makes dicts in the order of
the selection as fast as Python can. It consists of names of the document, which are letters, digits and `_` and
written by `repr`, of indexes, and of names given here to values.
"""

from collections.abc import Callable
from typing import Any

from graphql import GraphQLEnumType, GraphQLLeafType

from app.core import clock

Show = Callable[[Any], Any]

# What databases give as the client gets it: texts, numbers, booleans, JSON, names of enum members.
_AS_IT_IS = frozenset({"ID", "String", "Boolean", "Int", "Long", "Metadata", "JSON"})
_SHOWN: dict[str, Show] = {"DateTime": clock.format_utc, "Date": lambda value: value.isoformat()}


class NotCompiled(Exception):
    """This goes the ordinary way."""


class Unready(str):
    """An expression whose value the executor has still to complete; see `partly.py`."""

    __slots__ = ()


class Code:
    """Expressions of one plan and the values that they name."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def name(self, value: Any) -> str:
        """A name for a value within the expressions."""
        name = f"v{len(self._values)}"
        self._values[name] = value
        return name

    def function(self, parameters: str, expression: str) -> Callable[..., Any]:
        """The expression as a function. Raises NotCompiled for one that Python finds too deep."""
        try:
            made: Callable[..., Any] = eval(f"lambda {parameters}: {expression}", self._values)  # noqa: S307
        except (SyntaxError, MemoryError, RecursionError):
            raise NotCompiled("depth") from None
        return made

    def shown(self, value: str, show: Show | None, *, may_be_null: bool) -> str:
        """The value of an expression as the client gets it."""
        if show is None:
            return value
        if may_be_null:
            return f"{self.name(_unless_null(show))}({value})"
        return f"{self.name(show)}({value})"


def dict_of(entries: dict[str, str]) -> str:
    """The expression of a dict: its keys and the expressions of its values."""
    return "{" + ", ".join(f"{key!r}: {value}" for key, value in entries.items()) + "}"


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


def _unless_null(show: Show) -> Show:
    return lambda value: None if value is None else show(value)
