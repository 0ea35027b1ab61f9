"""Describes everything in the schema, for every tool that reads it.

The docstring of a class describes its GraphQL type; the docstring of a method, or the string below an attribute or a
member of an enum, describes that field or value:

    class Reading:
        start_at: datetime
        \"\"\"The half-hour's start, in UTC.\"\"\"

Texts with one meaning everywhere (pages, ids, payloads, idempotency keys) stand here once. A field takes its own text,
else that of its base, else one from here. `voltwire schema --check` fails where there is none.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from graphql import (
    GraphQLInputObjectType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_composite_type,
    is_enum_type,
)

_FIELDS: Final = {
    "id": "An opaque id whose prefix names its kind; ids sort by the time they were made.",
    "createdAt": "When it was made.",
    "updatedAt": "When it was last changed; as createdAt until then.",
}
_INPUT_FIELDS: Final = {
    "idempotencyKey": "1 to 255 characters; the same key with the same input is answered with the stored payload for "
    "24 hours and changes nothing more. Null: every request counts.",
}
_PAYLOAD_FIELDS: Final = {
    "userErrors": "The rules that the input breaks, each with its place; then nothing has changed. Empty on success.",
    "deletedId": "The id of the object that was deleted; null when userErrors has entries.",
}
_ARGUMENTS: Final = {
    "id": "Its id.",
    "first": "How many from the beginning: 1 to 100, by default 20.",
    "after": "Only those after this cursor, one of this connection.",
    "last": "How many from the end: 1 to 100; not together with first.",
    "before": "Only those before this cursor, one of this connection.",
    "filter": "Only those that it takes; null: all.",
    "input": "The mutation's values.",
}


class Texts(NamedTuple):
    """The docstrings of one class: its own, and those of its attributes, methods and members by name."""

    own: str | None
    members: Mapping[str, str]


def describe(schema: GraphQLSchema) -> None:
    """Gives everything in the schema without a description its text."""
    mutations = schema.mutation_type.fields if schema.mutation_type else {}
    for name, mutation in mutations.items():
        rest = (
            ": what is left out stays, null clears what can be cleared." if name.startswith("update") else "."
        )
        _set(get_named_type(mutation.args["input"].type), f"The input of {name}{rest}")
        _describe_payload(get_named_type(mutation.type), name)
    for type_ in schema.type_map.values():
        definition = type_.extensions.get("strawberry-definition")
        if definition is not None:
            _describe_type(
                type_, getattr(definition, "origin", None) or getattr(definition, "wrapped_cls", None)
            )


def undescribed(schema: GraphQLSchema) -> list[str]:
    """The coordinates (`Type.field(argument:)`) of everything in the schema without a description."""
    return [place for place, one in described(schema) if not (one.description or "").strip()]


def described(schema: GraphQLSchema) -> Iterator[tuple[str, Any]]:
    """Everything in the schema that can have a description, by its coordinate."""
    for type_ in schema.type_map.values():
        if type_.name.startswith("__"):
            continue
        yield type_.name, type_
        for name, field in getattr(type_, "fields", {}).items():
            yield f"{type_.name}.{name}", field
            for argument, one in getattr(field, "args", {}).items():
                yield f"{type_.name}.{name}({argument}:)", one
        if is_enum_type(type_):
            yield from ((f"{type_.name}.{name}", value) for name, value in type_.values.items())
    for directive in schema.directives:
        yield f"@{directive.name}", directive
        for argument, one in directive.args.items():
            yield f"@{directive.name}({argument}:)", one


def _describe_type(type_: GraphQLNamedType, origin: Any) -> None:
    texts = _texts_of(origin)
    _set(type_, texts.own or _common(type_))
    if is_enum_type(type_):
        for name, value in type_.values.items():
            _set(value, texts.members.get(name))
        return
    is_input = isinstance(type_, GraphQLInputObjectType)
    for name, field in getattr(type_, "fields", {}).items():
        common = _INPUT_FIELDS.get(name) or _identifying(name) if is_input else _FIELDS.get(name)
        _set(field, texts.members.get(_python_name(field)) or common)
        for argument, one in getattr(field, "args", {}).items():
            _set(one, _ARGUMENTS.get(argument) or _identifying(argument))


def _describe_payload(payload: Any, mutation: str) -> None:
    _set(payload, f"The answer of {mutation}.")
    texts = _texts_of(payload.extensions["strawberry-definition"].origin)
    for name, field in payload.fields.items():
        text = texts.members.get(_python_name(field)) or _PAYLOAD_FIELDS.get(name)
        shown = get_named_type(field.type)
        if text is None and is_composite_type(shown):
            text = f"The {words(shown.name)} as the mutation left it; null when userErrors has entries."
        _set(field, text)


def _common(type_: GraphQLNamedType) -> str | None:
    """The text of a connection or of an edge."""
    if isinstance(type_, GraphQLObjectType) and "node" in type_.fields:
        return f"One {words(get_named_type(type_.fields['node'].type).name)} of a connection."
    if isinstance(type_, GraphQLObjectType) and "pageInfo" in type_.fields:
        return f"A page of a list: each {words(get_named_type(type_.fields['nodes'].type).name)} on it."
    return None


def _identifying(name: str) -> str | None:
    """The text of a value with a name such as `customerId`."""
    found = re.fullmatch(r"(\w+)Id", name)
    return f"The id of the {words(found[1])}." if found else None


def words(name: str) -> str:
    """A type's name as words: `webhook endpoint`, `API key`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return parted.replace("api ", "API ")


def _python_name(field: Any) -> str:
    name: str = field.extensions["strawberry-definition"].python_name
    return name


def _set(described: Any, text: str | None) -> None:
    if not described.description and text:
        described.description = text


def _texts_of(origin: Any) -> Texts:
    """The docstrings of a class, with those of its bases' members."""
    if origin is None:
        return Texts(None, MappingProxyType({}))
    members: dict[str, str] = {}
    for cls in reversed(origin.__mro__):
        members |= _texts(cls).members
    return Texts(_texts(origin).own, members)


def _texts(cls: type) -> Texts:
    # Docstrings of Strawberry's and Python's classes describe nothing here.
    known = _in_module(cls.__module__) if cls.__module__.startswith("app.") else {}
    return known.get(cls.__qualname__, Texts(None, MappingProxyType({})))


@cache
def _in_module(name: str) -> dict[str, Texts]:
    """The docstrings of each class of a module, read from its source: attributes keep none at run time."""
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {node.name: _of_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> Texts:
    members: dict[str, str] = {}
    for one, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(one)
        else:
            text = _string(below)
        if text:
            members |= dict.fromkeys(_names(one), _on_one_line(text))
    own = ast.get_docstring(node)
    return Texts(_on_one_line(own) if own else None, members)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _string(node: ast.stmt | None) -> str | None:
    value = getattr(node, "value", None) if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
