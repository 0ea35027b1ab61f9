"""What one request may ask for: depth, aliases and cost of a document, requests a second of an account.

Cost is the number of rows that may come back: a connection costs its page size, times one more than what each of its
nodes costs. It is counted from the selection as it will be compiled, with its variables and what they leave out.
"""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from graphql import (
    BooleanValueNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_list_type,
    is_non_null_type,
)

from app.errors import QueryTooComplex
from app.settings import Settings

DEFAULT_PAGE, MAX_PAGE = 20, 100
# Fragments multiply beyond any number; this is the greatest that every client reads from JSON as it was written.
MAX_COST = 2**53 - 1
# Lists that are not connections are short; a period of interval data is up to 17,568 small rows of one index range.
LIST_COST, INTERVALS_COST = 10, 50
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


def cost_of(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: dict[str, Any],
) -> int:
    """How many rows the operation may bring back, with these coerced variables; at most MAX_COST is counted."""
    fragments = {
        one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
    }
    # Fragments that spread fragments double with each level; each is counted once.
    costs: dict[str, int] = {}

    def page_size(node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value in ("first", "last"):
                value = argument.value
                if isinstance(value, IntValueNode):
                    return min(max(int(value.value[:9]), 0), MAX_PAGE)
                size = variables.get(value.name.value) if isinstance(value, VariableNode) else None
                if isinstance(size, int):
                    return min(max(size, 0), MAX_PAGE)
        return DEFAULT_PAGE

    def field_cost(node: FieldNode, parent: Any) -> int:
        field = getattr(parent, "fields", {}).get(node.name.value)
        if field is None or node.selection_set is None:
            return 0
        named = get_named_type(field.type)
        below = selection_cost(node.selection_set, named)
        if named.name == "IntervalData":
            return INTERVALS_COST + below
        if named.name.endswith("Connection"):
            return page_size(node) * (1 + below)
        bare = field.type.of_type if is_non_null_type(field.type) else field.type
        # The nodes of a connection are counted by its page size, intervals by their period.
        if is_list_type(bare) and not parent.name.endswith(("Connection", "IntervalData")):
            return LIST_COST * (1 + below)
        return below

    def is_left_out(node: SelectionNode) -> bool:
        return any(
            (directive.name.value == "skip") == _truth(argument.value, variables)
            for directive in node.directives or ()
            if directive.name.value in ("skip", "include")
            for argument in directive.arguments or ()
        )

    def selection_cost(selections: SelectionSetNode, parent: Any) -> int:
        total = 0
        for node in selections.selections:
            if node.directives and is_left_out(node):
                continue
            if isinstance(node, FieldNode):
                total += field_cost(node, parent)
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition
                total += selection_cost(
                    node.selection_set, _type(schema, condition.name.value) if condition else parent
                )
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name not in costs:
                    fragment = fragments[name]
                    condition_type = _type(schema, fragment.type_condition.name.value)
                    costs[name] = selection_cost(fragment.selection_set, condition_type)
                total += costs[name]
        return total

    return min(selection_cost(operation.selection_set, schema.get_root_type(operation.operation)), MAX_COST)


def _truth(value: ValueNode, variables: dict[str, Any]) -> bool:
    if isinstance(value, VariableNode):
        return bool(variables.get(value.name.value))
    return isinstance(value, BooleanValueNode) and value.value


def _type(
    schema: GraphQLSchema, name: str
) -> GraphQLObjectType | GraphQLInterfaceType | GraphQLUnionType | None:
    found = schema.type_map.get(name)
    return found if isinstance(found, GraphQLObjectType | GraphQLInterfaceType | GraphQLUnionType) else None


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
