"""What one request may ask for: depth and aliases of a document, requests a second of an account.

What an operation costs is counted in `costs.py`.
"""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.errors import QueryTooComplex
from app.settings import Settings

# Tools introspect deeper than any query needs to go; graphql-core bounds what introspection can expand to.
INTROSPECTION_DEPTH = 20


@dataclass(frozen=True)
class Limits:
    tokens: int
    depth: int
    aliases: int
    cost: int


def limits_of(settings: Settings) -> Limits:
    """As the environment sets them."""
    return Limits(settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_cost)


def check_shape(document: DocumentNode, limits: Limits) -> None:
    """Depth and aliases of a document, before it is validated. Raises QueryTooComplex."""
    fragments = {
        one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
    }
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
                # A cycle is for validation to refuse; here it only must end.
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


class RateLimiter:
    """A token bucket per account: `rate` requests a second, as many at once.

    Each process counts for itself, so a deployment of several lets an account have so many times the rate.
    """

    def __init__(self, rate: float, capacity: int = 100_000) -> None:
        self._rate, self._burst, self._capacity = rate, max(rate, 1.0), capacity
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float | None:
        """None if the request may go on, else the seconds after which to try again."""
        now = time.monotonic()
        left, at = self._buckets.get(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        if left < 1:
            return (1 - left) / self._rate
        self._buckets[who] = (left - 1, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return None


def retry_after(seconds: float) -> str:
    """As the header has it: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
