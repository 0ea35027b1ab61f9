"""Suggests names of the schema for unknown names in a document.

The search of graphql-core compares a name with each other name letter by letter, and can take half a second for one
document. This one takes less than a millisecond a name, for the first few names only.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from graphql import GraphQLInterfaceType, GraphQLSchema

LONGEST: Final = 64
MOST_NAMES: Final = 3
"""Unknown names of one request that get suggestions, and suggestions for each."""

_NAME = rf"'(\w{{1,{LONGEST}}})'"
_FIELD = re.compile(rf"Cannot query field {_NAME} on type '(\w+)'")
_ARGUMENT = re.compile(rf"Unknown argument {_NAME} on field '(\w+)\.(\w+)'")
_INPUT_FIELD = re.compile(rf"Expected value of type '(\w+)' not to include unknown field {_NAME}")
_VALUE = re.compile(rf"Value '([\w.]{{1,{LONGEST}}})' does not exist in '(\w+)' enum")
_QUOTED = re.compile(rf"Enum '(\w+)' cannot represent non-enum value: \"([\w.]{{1,{LONGEST}}})\"")


def suggest(schema: GraphQLSchema, errors: list[dict[str, Any]]) -> None:
    """Adds suggestions to the messages of graphql-core."""
    left = MOST_NAMES
    for error in errors:
        found = _meant(schema, error["message"]) if left else None
        if found is not None:
            left -= 1
            error["message"] += found


def _meant(schema: GraphQLSchema, message: str) -> str | None:
    """The question to add; empty where no name is near, None where the message is about no unknown name."""
    if found := _FIELD.search(message):
        name, type_ = found[1], schema.type_map[found[2]]
        return _question(name, getattr(type_, "fields", ())) or _by_fragment(schema, type_, name)
    if found := _ARGUMENT.search(message):
        arguments: Any = getattr(schema.type_map[found[2]], "fields", {})[found[3]].args
        return _question(found[1], arguments)
    if found := _INPUT_FIELD.search(message):
        return _question(found[2], getattr(schema.type_map[found[1]], "fields", ()))
    if found := _VALUE.search(message):
        return _constant(found[1], schema.type_map[found[2]])
    if found := _QUOTED.search(message):
        return _constant(found[2], schema.type_map[found[1]], " without quotes")
    return None


def _constant(value: str, enum: Any, how: str = "") -> str:
    """The enum's name for a value that is spelled as events have it, `meter.created`; else the names near it."""
    name = value.upper().replace(".", "_")
    if name in enum.values:
        return f" Write {name}{how}."
    return _question(value, enum.values)


def _question(name: str, known: Iterable[str]) -> str:
    by_lower = {one.lower(): one for one in known}
    near = [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=MOST_NAMES)]
    return f" Did you mean {_listed(near)}?" if near else ""


def _by_fragment(schema: GraphQLSchema, type_: Any, name: str) -> str:
    """The types behind an interface that have such a field."""
    if not isinstance(type_, GraphQLInterfaceType):
        return ""
    having = [one.name for one in schema.get_possible_types(type_) if name in one.fields]
    return f" Did you mean to use an inline fragment on {_listed(having[:MOST_NAMES])}?" if having else ""


def _listed(names: list[str]) -> str:
    quoted = [f"'{one}'" for one in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
