"""Limits of one document, such as its depth and its aliases; `costs.py` counts the rows that an operation reads."""

from dataclasses import astuple, dataclass
from typing import Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.core.errors import QueryTooComplex
from app.core.settings import Settings
from app.graphql.documents import fragments_of

# Tools introspect deeper than any query needs; graphql-core bounds how lists are nested in it.
INTROSPECTION_DEPTH = 20

# Real documents have 4 to 8 characters a token; others have a long string, name or comment.
CHARACTERS_PER_TOKEN: Final = 50

STRANGERS_BODY: Final = 32 * 1024
"""Bytes of the body of a request without credentials."""


@dataclass(frozen=True)
class Limits:
    """Limits of one document; `errors` is the number after which validation ends."""

    tokens: int
    depth: int
    aliases: int
    cost: int
    # Each is validated with all fragments that it reaches.
    operations: int = 20
    errors: int = 20
    # Validation compares the selections that may merge, each with each; a comparison takes about 1 µs.
    comparisons: int = 40_000

    @property
    def characters(self) -> int:
        return self.tokens * CHARACTERS_PER_TOKEN

    def for_strangers(self) -> "Limits":
        """The narrower of these limits and those of requests without credentials."""
        return Limits(*map(min, astuple(self), astuple(STRANGERS)))


# The standard introspection has 193 tokens with all its options, the document of the consent page fewer.
STRANGERS: Final = Limits(
    tokens=300, depth=12, aliases=10, cost=500, operations=5, errors=5, comparisons=3000
)


def limits_of(settings: Settings) -> Limits:
    """The limits that the environment sets."""
    return Limits(settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_cost)


def check_shape(document: DocumentNode, limits: Limits) -> None:
    """Checks operations, depth and aliases of a document before it is validated. Raises QueryTooComplex."""
    operations = sum(isinstance(one, OperationDefinitionNode) for one in document.definitions)
    if operations > limits.operations:
        raise QueryTooComplex(
            f"The document has {operations} operations; at most {limits.operations} are allowed. Send them apart.",
            operations=operations,
            limit=limits.operations,
        )
    fragments = fragments_of(document)
    depths: dict[str, int] = {}
    aliases = 0

    def depth_of(selections: SelectionSetNode | None, spread: tuple[str, ...], introspects: bool) -> int:
        nonlocal aliases
        deepest = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                aliases += node.alias is not None
                inside = introspects or node.name.value in ("__schema", "__type")
                below = depth_of(node.selection_set, spread, inside)
                if inside and not introspects and below < INTROSPECTION_DEPTH:
                    below = 0
                deepest = max(deepest, 1 + below)
            elif isinstance(node, InlineFragmentNode):
                deepest = max(deepest, depth_of(node.selection_set, spread, introspects))
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                # Validation refuses cycles; here a cycle only must end.
                if name in fragments and name not in spread:
                    if name not in depths:
                        depths[name] = depth_of(fragments[name].selection_set, (*spread, name), introspects)
                    deepest = max(deepest, depths[name])
        return deepest

    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            depth = depth_of(definition.selection_set, (), introspects=False)
            if depth > limits.depth:
                raise QueryTooComplex(
                    f"The document is {depth} fields deep; at most {limits.depth} are allowed: ask in parts.",
                    depth=depth,
                    limit=limits.depth,
                )
    if aliases > limits.aliases:
        raise QueryTooComplex(
            f"The document has {aliases} aliases; at most {limits.aliases} are allowed. Ask in several requests.",
            aliases=aliases,
            limit=limits.aliases,
        )
