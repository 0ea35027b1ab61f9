"""Checks that a database can store the texts of a document and its variables."""

from typing import Any

import orjson
from graphql import DocumentNode, StringValueNode, Visitor, visit

from app.core.errors import BadUserInput
from app.graphql.failures import RequestErrors


def require_storable_strings(document: DocumentNode) -> None:
    """Checks all strings of a document. Raises RequestErrors."""
    visit(document, _Strings())


class _Strings(Visitor):
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
