"""Makes functions that shape rows, from Python expressions, as dataclasses make their methods.

An expression over `row` (a tuple) or `page`, and `run`, makes dicts in the order of the selection. It consists of names
of the document, which are letters, digits and `_` and written by `repr`, of indexes, and of names made here for values.
"""

from collections.abc import Callable
from typing import Any

from graphql import GraphQLEnumType, GraphQLLeafType

from app.core import clock

Show = Callable[[Any], Any]

# Clients get these as databases return them. Enums are stored by the names of their members.
_AS_IT_IS = frozenset({"ID", "String", "Boolean", "Int", "Long", "Metadata", "JSON"})
_SHOWN: dict[str, Show] = {"DateTime": clock.format_utc, "Date": lambda value: value.isoformat()}


class NotCompiled(Exception):
    """The field must be executed field by field."""


class Partial(str):
    """An expression whose value the executor has still to complete; see `partial.py`."""

    __slots__ = ()


class Code:
    """The values that the expressions of one plan name."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def name(self, value: Any) -> str:
        """The name of a value in expressions."""
        name = f"v{len(self._values)}"
        self._values[name] = value
        return name

    def function(self, parameters: str, expression: str) -> Callable[..., Any]:
        """The expression as a function. Raises NotCompiled if it is too deep for Python."""
        try:
            made: Callable[..., Any] = eval(f"lambda {parameters}: {expression}", self._values)  # noqa: S307
        except (SyntaxError, MemoryError, RecursionError):
            raise NotCompiled("depth") from None
        return made

    def shown(self, value: str, show: Show | None, *, may_be_null: bool) -> str:
        """The expression of a value as the client gets it."""
        if show is None:
            return value
        if may_be_null:
            return f"{self.name(_unless_null(show))}({value})"
        return f"{self.name(show)}({value})"


def dict_of(entries: dict[str, str]) -> str:
    """The expression of a dict: its keys and the expressions of its values."""
    return "{" + ", ".join(f"{key!r}: {value}" for key, value in entries.items()) + "}"


def show_column(leaf: GraphQLLeafType) -> Show | None:
    """Converts a stored value that is not null; None where it stays as it is. Raises NotCompiled."""
    if isinstance(leaf, GraphQLEnumType) or leaf.name in _AS_IT_IS:
        return None
    if leaf.name not in _SHOWN:
        raise NotCompiled(leaf.name)
    return _SHOWN[leaf.name]


def show_value(leaf: GraphQLLeafType) -> Show | None:
    """Converts a value of Python: for an enum, a member or a member's value. None where it stays as it is."""
    if isinstance(leaf, GraphQLEnumType):
        members = leaf.extensions["strawberry-definition"].wrapped_cls
        names = {value.value: name for name, value in leaf.values.items()}
        return (names | {member: names[member.value] for member in members}).__getitem__
    if leaf.name in _AS_IT_IS or leaf.name in _SHOWN:
        return show_column(leaf)
    return leaf.coerce_output_value


def _unless_null(show: Show) -> Show:
    return lambda value: None if value is None else show(value)
