"""Finds fields with secrets in documents: their responses must not lie in caches or logs."""

from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLSchema,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_named_type,
    visit,
)

# Names of fields and of arguments.
SECRETS: Final = frozenset({"link", "secret", "token"})
SECRET_TYPES: Final = frozenset({"HostedConsentEvidence"})


def secret_fields(schema: GraphQLSchema, document: DocumentNode) -> list[FieldNode]:
    """The fields of a valid document that return a secret or take one as an argument."""
    info = TypeInfo(schema)
    finder = _Secrets(info)
    visit(document, TypeInfoVisitor(info, finder))
    return finder.found


class _Secrets(Visitor):
    def __init__(self, info: TypeInfo) -> None:
        super().__init__()
        self._info = info
        self.found: list[FieldNode] = []

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        kind, parent = self._info.get_type(), self._info.get_parent_type()
        # The field of an interface may lead to the type without belonging to it.
        types = {get_named_type(one).name for one in (kind, parent) if one is not None}
        names = {node.name.value, *(one.name.value for one in node.arguments or ())}
        if names & SECRETS or types & SECRET_TYPES:
            self.found.append(node)
