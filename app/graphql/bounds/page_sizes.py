"""Sizes of pages."""

from collections.abc import Mapping
from typing import Any, Final

from graphql import ArgumentNode, DocumentNode, IntValueNode, ValueNode, VariableNode, Visitor, visit

from app.core.errors import BadUserInput

DEFAULT_PAGE, MAX_PAGE = 20, 100
# How to go on from a page, by the argument of its size.
_GO_ON: Final = {
    "first": "for more, give after the endCursor of pageInfo",
    "last": "for more, give before the startCursor of pageInfo",
}


def require_page_size(argument: str, size: int) -> None:
    """Raises BadUserInput for a size of no page."""
    if 1 <= size <= MAX_PAGE:
        return
    advice = f"; {_GO_ON[argument]}" if size > MAX_PAGE else ""
    raise BadUserInput(f"{argument} must be 1 to {MAX_PAGE}, got {size}{advice}.", field=[argument])


def require_page_sizes(document: DocumentNode, variables: Mapping[str, Any]) -> None:
    """Checks all sizes in a document with these coerced variables. Raises BadUserInput."""
    visit(document, _Sizes(variables))


def page_size(value: ValueNode, variables: Mapping[str, Any]) -> int | None:
    """The size that an argument's value gives, checked or not."""
    if isinstance(value, IntValueNode):
        return int(value.value)
    size = variables.get(value.name.value) if isinstance(value, VariableNode) else None
    return size if isinstance(size, int) else None


class _Sizes(Visitor):
    def __init__(self, variables: Mapping[str, Any]) -> None:
        super().__init__()
        self._variables = variables

    def enter_argument(self, node: ArgumentNode, *_: Any) -> None:
        if node.name.value in _GO_ON:
            size = page_size(node.value, self._variables)
            if size is not None:
                require_page_size(node.name.value, size)
