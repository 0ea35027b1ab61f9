"""Limits of one request, such as a document's depth and aliases, and of requests a second.

What an operation costs is counted in `costs.py`.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.core.errors import QueryTooComplex
from app.core.settings import Settings

# Tools introspect deeper than any query needs to go; graphql-core bounds how lists are nested in it.
INTROSPECTION_DEPTH = 20

# Real documents have 4 to 8 characters a token; more is one long string, name or comment.
CHARACTERS_PER_TOKEN: Final = 50

STRANGERS_BODY: Final = 32 * 1024
"""Bytes of a request without credentials."""


@dataclass(frozen=True)
class Limits:
    """Of one document. `errors`: after so many of them validation ends."""

    tokens: int
    depth: int
    aliases: int
    cost: int
    # Each is validated with all fragments that it reaches.
    operations: int = 20
    errors: int = 20
    # Validation compares the selections that may fall together, each with each; each comparison takes about 1 µs.
    comparisons: int = 40_000

    @property
    def characters(self) -> int:
        return self.tokens * CHARACTERS_PER_TOKEN

    def of_strangers(self) -> "Limits":
        """The limits of a request without credentials, where these are wider."""
        return Limits(*map(min, astuple(self), astuple(STRANGERS)))


# The standard introspection has 193 tokens with all its options, and what the consent page selects fewer.
STRANGERS: Final = Limits(
    tokens=300, depth=12, aliases=10, cost=500, operations=5, errors=5, comparisons=3000
)


def limits_of(settings: Settings) -> Limits:
    """As the environment sets them."""
    return Limits(settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_cost)


def check_shape(document: DocumentNode, limits: Limits) -> None:
    """Operations, depth and aliases of a document, before it is validated. Raises QueryTooComplex."""
    operations = sum(isinstance(one, OperationDefinitionNode) for one in document.definitions)
    if operations > limits.operations:
        raise QueryTooComplex(
            f"The document has {operations} operations; at most {limits.operations} are allowed. Send them apart.",
            operations=operations,
            limit=limits.operations,
        )
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


BUCKETS_KEPT, BUCKET_WEIGHT = 50_000, 300
"""Buckets that a limiter knows at most, and the bytes of each, as measured."""


class RateLimiter:
    """A token bucket for each who asks: `rate` requests a second, and as many or `burst` at once."""

    def __init__(
        self,
        rate: float,
        capacity: int = BUCKETS_KEPT,
        clock: Callable[[], float] = time.monotonic,
        burst: float | None = None,
    ) -> None:
        """`clock`: seconds since whenever."""
        self._rate, self._burst = rate, max(burst or rate, 1.0)
        self._capacity, self._clock = capacity, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float | None:
        """None if the request may go on, else the seconds after which to try again."""
        now = self._clock()
        left = self._left(who, now)
        if left < 1:
            return (1 - left) / self._rate
        self._buckets[who] = (left - 1, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return None

    def wait(self, who: str) -> float | None:
        """The answer of `take`, without taking anything."""
        left = self._left(who, self._clock())
        return None if left >= 1 else (1 - left) / self._rate

    def give_back(self, who: str) -> None:
        """A request that was taken is not to count."""
        if who in self._buckets:
            left, at = self._buckets[who]
            self._buckets[who] = (min(self._burst, left + 1), at)

    def _left(self, who: str, now: float) -> float:
        left, at = self._buckets.get(who, (self._burst, now))
        return min(self._burst, left + (now - at) * self._rate)


def retry_after(seconds: float) -> str:
    """As the header has it: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
