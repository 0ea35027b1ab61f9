"""Checks that the values of a document and its variables can be handled: texts stored, integers read."""

from typing import Any

import orjson
from graphql import DocumentNode, GraphQLError, IntValueNode, StringValueNode, Visitor, visit

from app.core.errors import BadUserInput
from app.graphql.failures import RequestErrors, document_errors


def require_plain_literals(document: DocumentNode) -> None:
    """Checks all strings and integers of a document. Raises RequestErrors."""
    visit(document, _Literals(document))


class _Literals(Visitor):
    def __init__(self, document: DocumentNode) -> None:
        super().__init__()
        self._document = document

    def enter_int_value(self, node: IntValueNode, *_: Any) -> None:
        try:
            int(node.value)
        except ValueError:
            # Python refuses to read the longest.
            message = (
                f"A number with {len(node.value.lstrip('-'))} digits is out of range; send a smaller one."
            )
            raise document_errors([GraphQLError(message, node)], self._document) from None

    def enter_string_value(self, node: StringValueNode, *_: Any) -> None:
        require_storable(node.value)


def require_storable(value: Any) -> None:
    """Refuses NUL and lone surrogates, which cannot be stored as text. Raises RequestErrors."""
    try:
        # A cheap check first, as nearly all values pass: orjson refuses surrogates and escapes NUL.
        if b"\\u0000" not in orjson.dumps(value, default=str):
            return
    except (TypeError, ValueError, RecursionError):
        pass
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if "\x00" in one or any("\ud800" <= character <= "\udfff" for character in one):
                raise RequestErrors.of(
                    BadUserInput("Texts must be valid Unicode without the character U+0000; remove it.")
                )
        elif isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
