"""How errors look to a client, and what it never sees.

An `ApiError` shows its code and sentence. What graphql-core refuses (syntax, validation, values of the wrong type) is
`BAD_USER_INPUT` with the path below `input` in `extensions.field`. Everything else is a fault of ours: the client gets
an id, the log gets the id and the fault.
"""

import re
from typing import Any

import structlog
from graphql import DocumentNode, FieldNode, GraphQLError, Node
from graphql.language import ArgumentNode, ListValueNode, ObjectFieldNode

from app.errors import ApiError
from app.ids import new_id

log = structlog.get_logger()

RENAMED = {
    "gb.domestic.specific": "GB_RESIDENTIAL_SPECIFIC",
    "GB_DOMESTIC_SPECIFIC": "GB_RESIDENTIAL_SPECIFIC",
}
MAX_MESSAGE = 500

_AT = re.compile(r"at '?[A-Za-z_]\w*((?:\.\w+|\[\d+\])*)'?")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MISSING = re.compile(r"field '?\"?(\w+)'?\"? of required type|Field '(\w+)' is not defined", re.IGNORECASE)


class RequestErrors(Exception):
    """The request is refused before anything is executed."""

    def __init__(self, errors: list[dict[str, Any]], status: int = 400) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors
        self.status = status

    @classmethod
    def of(cls, error: ApiError) -> "RequestErrors":
        status = error.status if error.status != 200 else 400
        return cls([{"message": error.message, "extensions": error.extensions}], status)


def refused(errors: list[GraphQLError], document: DocumentNode | None = None) -> RequestErrors:
    """What graphql-core found wrong with a document or its variables."""
    return RequestErrors([_bad_input(error, document) for error in errors])


def shown_error(error: GraphQLError) -> dict[str, Any]:
    """A field's error for the response; one of ours that is unexpected goes to the log."""
    original = error.original_error
    formatted: dict[str, Any] = {"message": error.message}
    if error.locations:
        formatted["locations"] = [{"line": one.line, "column": one.column} for one in error.locations]
    if error.path is not None:
        formatted["path"] = error.path
    if isinstance(original, ApiError):
        formatted["message"], formatted["extensions"] = original.message, original.extensions
    elif original is None and error.path is None:
        return _bad_input(error, None)
    else:
        formatted |= internal_error(original or error)
    return formatted


def internal_error(fault: BaseException) -> dict[str, Any]:
    """Message and extensions for a fault of ours, which is logged under the id that the client sees."""
    identifier = new_id("err")
    log.error("internal error", error_id=identifier, exc_info=(type(fault), fault, fault.__traceback__))
    return {
        "message": f"Something went wrong on our side. Try again; if it persists, quote {identifier}.",
        "extensions": {"code": "INTERNAL", "id": identifier},
    }


def _bad_input(error: GraphQLError, document: DocumentNode | None) -> dict[str, Any]:
    message = error.message
    for old, new in RENAMED.items():
        if old in message:
            message = f"{old} was renamed to {new}; send {new}."
    formatted: dict[str, Any] = {"message": message[:MAX_MESSAGE], "extensions": {"code": "BAD_USER_INPUT"}}
    if error.locations:
        formatted["locations"] = [{"line": one.line, "column": one.column} for one in error.locations]
    field = _field(error, document)
    if field:
        formatted["extensions"]["field"] = field
    return formatted


def _field(error: GraphQLError, document: DocumentNode | None) -> list[str]:
    """The path below `input` of the value that was refused, indexes as strings."""
    path: list[str] = []
    if error.message.startswith("Variable "):
        at = _AT.search(error.message)
        if at:
            path = [name or index for name, index in _STEP.findall(at.group(1))]
    elif document is not None and error.nodes:
        path = _path_to(document, error.nodes[0]) or []
    missing = _MISSING.search(error.message)
    if missing:
        path = [*path, missing.group(1) or missing.group(2)]
    return path


def _path_to(node: Node, wanted: Node) -> list[str] | None:
    """The path of an argument's value that contains the wanted node; None where there is none."""
    for key in node.keys:
        children = getattr(node, key, None)
        for index, child in enumerate(children if isinstance(children, list | tuple) else [children]):
            if not isinstance(child, Node):
                continue
            found = [] if child is wanted else _path_to(child, wanted)
            if found is None:
                continue
            if isinstance(node, FieldNode) and key != "arguments":
                return found
            if isinstance(child, ArgumentNode) and child.name.value != "input":
                return [child.name.value, *found]
            if isinstance(child, ObjectFieldNode):
                return [child.name.value, *found]
            if isinstance(node, ListValueNode):
                return [str(index), *found]
            return found
    return None
