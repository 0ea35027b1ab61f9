"""Formats errors for clients, and masks faults.

An `ApiError` shows its code and sentence. Errors of graphql-core (syntax, validation, values of the wrong type) are
`BAD_USER_INPUT` with the path below `input` in `extensions.field`. Everything else is an internal error: the client
gets an id, the log gets the id and the fault.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from graphql import DocumentNode, GraphQLError, GraphQLSchema, Node
from graphql.language import (
    ArgumentNode,
    ListValueNode,
    ObjectFieldNode,
    VariableDefinitionNode,
    VariableNode,
)

from app.core import outages
from app.core.errors import ApiError
from app.graphql.bounds.suggestions import suggest

RENAMED = {
    "gb.domestic.specific": "GB_RESIDENTIAL_SPECIFIC",
    "GB_DOMESTIC_SPECIFIC": "GB_RESIDENTIAL_SPECIFIC",
}
MAX_MESSAGE = 500

# The sentences of graphql-core: its errors carry the place only in their text.
_PATH = r"((?:\.\w+|\[\d+\])*)"
_VARIABLE = re.compile(rf"Variable '\$(\w+)' has invalid (?:default )?value(?: at {_PATH})?:")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MISSING = re.compile(r"to include required field '(\w+)'")
_UNKNOWN = re.compile(r"not to include unknown field '(\w+)'")
_ARGUMENT = re.compile(r"Argument '[\w.]+\((\w+):\)' of type '[^']+' is required")
_NOT_IN_ENUM = re.compile(r"""(?:Value|non-enum value:) ['"]([\w.]+)['"]""")


class RequestErrors(Exception):
    """The request fails before anything is executed."""

    def __init__(self, errors: list[dict[str, Any]], status: int = 400) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors
        self.status = status

    @classmethod
    def of(cls, error: ApiError) -> "RequestErrors":
        status = error.status if error.status != 200 else 400
        return cls([{"message": error.message, "extensions": error.extensions}], status)


def document_errors(
    errors: list[GraphQLError], document: DocumentNode | None = None, schema: GraphQLSchema | None = None
) -> RequestErrors:
    """The errors of a document or its variables; with a schema, they suggest names that may be meant."""
    formatted = [_bad_input(error, document) for error in errors]
    if schema is not None:
        suggest(schema, formatted)
    return RequestErrors(formatted)


def format_error(error: GraphQLError, document: DocumentNode | None = None) -> dict[str, Any]:
    """The error of a field as the response has it; an internal error is logged."""
    original = error.original_error
    formatted: dict[str, Any] = {"message": error.message}
    if error.locations:
        formatted["locations"] = [{"line": one.line, "column": one.column} for one in error.locations]
    if error.path is not None:
        formatted["path"] = error.path
    if isinstance(original, ApiError):
        formatted["message"], formatted["extensions"] = original.message, original.extensions
    elif isinstance(original or error, GraphQLError) and error.nodes:
        # Only the variable showed that the value is wrong, such as null for a non-null argument.
        formatted |= _bad_input(error, document)
    else:
        formatted |= internal_error(original or error)
    return formatted


def internal_error(fault: BaseException) -> dict[str, Any]:
    """Message and extensions of an internal error, which is logged under the id that the client sees.

    While the database is away, all internal errors share an id, and `retryAfter` says in how many seconds to try again.
    """
    identifier = outages.report("internal error", fault)
    if outages.is_database_away(fault):
        return {
            "message": outages.UNAVAILABLE,
            "extensions": {"code": "INTERNAL", "id": identifier, "retryAfter": outages.RETRY_AFTER},
        }
    return {
        "message": f"Something went wrong on our side. Try again; if it persists, quote {identifier}.",
        "extensions": {"code": "INTERNAL", "id": identifier},
    }


def is_internal(error: Mapping[str, Any]) -> bool:
    """Whether an error of a response is internal."""
    return bool(error.get("extensions", {}).get("code") == "INTERNAL")


def is_outage(error: Mapping[str, Any]) -> bool:
    """Whether an error of a response says that the database is away."""
    return is_internal(error) and "retryAfter" in error["extensions"]


def _bad_input(error: GraphQLError, document: DocumentNode | None) -> dict[str, Any]:
    message = error.message
    unknown = _NOT_IN_ENUM.search(message)
    if unknown and unknown.group(1) in RENAMED:
        old, new = unknown.group(1), RENAMED[unknown.group(1)]
        message = f"{old} was renamed to {new}; send {new}."
    formatted: dict[str, Any] = {"message": message[:MAX_MESSAGE], "extensions": {"code": "BAD_USER_INPUT"}}
    if error.locations:
        formatted["locations"] = [{"line": one.line, "column": one.column} for one in error.locations]
    field = _field(error, document)
    if field:
        formatted["extensions"]["field"] = field
    return formatted


def _field(error: GraphQLError, document: DocumentNode | None) -> list[str]:
    """The path of the wrong value below `input`, or the argument's name; indexes as strings."""
    node = error.nodes[0] if error.nodes else None
    variable = _VARIABLE.match(error.message)
    path = [] if document is None or node is None else _path_to(document, node) or []
    if variable:
        usage = None if document is None else _usage(document, variable.group(1))
        path = [] if usage is None or document is None else _path_to(document, usage) or []
        path += [name or index for name, index in _STEP.findall(variable.group(2) or "")]
    for pattern in (_MISSING, _UNKNOWN, _ARGUMENT):
        named = pattern.search(error.message)
        if named and path[-1:] != [named.group(1)] and named.group(1) != "input":
            path = [*path, named.group(1)]
    return path


def _usage(node: Node, name: str) -> Node | None:
    """The first use of a variable in the document."""
    if isinstance(node, VariableDefinitionNode):
        return None
    if isinstance(node, VariableNode) and node.name.value == name:
        return node
    for child in _children(node):
        if found := _usage(child, name):
            return found
    return None


def _children(node: Node) -> Iterator[Node]:
    for key in node.keys:
        children = getattr(node, key, None)
        for child in children if isinstance(children, list | tuple) else [children]:
            if isinstance(child, Node):
                yield child


def _path_to(node: Node, wanted: Node) -> list[str] | None:
    """The path of an argument's value that contains the wanted node; None where there is none."""
    for index, child in enumerate(_children(node)):
        found = [] if child is wanted else _path_to(child, wanted)
        if found is None:
            continue
        if isinstance(child, ArgumentNode) and child.name.value != "input":
            return [child.name.value, *found]
        if isinstance(child, ObjectFieldNode):
            return [child.name.value, *found]
        if isinstance(node, ListValueNode):
            return [str(index), *found]
        return found
    return None
