"""Parts of a parsed document: fragments, the operation of a name, root fields, variables of arguments."""

from collections.abc import Collection
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    VariableNode,
    Visitor,
    visit,
)
from graphql.language import SKIP

from app.core.errors import BadUserInput


def fragments_of(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    """The fragments by their names."""
    return {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}


def operation_of(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The operation of this name, or the only one. Raises BadUserInput."""
    operations = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    if name is None and len(operations) > 1:
        raise BadUserInput("The document has several operations: say which in operationName.")
    for operation in operations:
        if name is None or (operation.name and operation.name.value == name):
            return operation
    raise BadUserInput(
        "The document has no operation."
        if not operations
        else "The document has no operation of this operationName."
    )


def root_fields(document: DocumentNode, operation: OperationDefinitionNode) -> list[str]:
    """The names of the root fields, one for each response key."""
    fragments = fragments_of(document)
    names: dict[str, str] = {}
    seen: set[str] = set()
    pending = list(operation.selection_set.selections)
    while pending:
        node = pending.pop()
        if isinstance(node, FieldNode):
            names[(node.alias or node.name).value] = node.name.value
        elif isinstance(node, InlineFragmentNode):
            pending.extend(node.selection_set.selections)
        elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
            seen.add(node.name.value)
            # Without validation it may be missing.
            if fragment := fragments.get(node.name.value):
                pending.extend(fragment.selection_set.selections)
    return list(names.values())


def variables_of(document: DocumentNode, arguments: Collection[str]) -> tuple[str, ...]:
    """The names of the variables that are given to arguments of these names, those of directives among them."""
    finder = _Variables(arguments)
    visit(document, finder)
    return tuple(sorted(finder.names))


class _Variables(Visitor):
    def __init__(self, arguments: Collection[str]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._arguments = arguments

    def enter_argument(self, node: ArgumentNode, *_: Any) -> Any:
        if node.name.value in self._arguments and isinstance(node.value, VariableNode):
            self.names.add(node.value.name.value)
        return SKIP
