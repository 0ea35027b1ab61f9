"""The cost of an operation: the number of rows that it may read.

A connection costs its page size times one more than the cost of a node. Selections are counted as the executor merges
them: fields with one response key at one place count once, and an object of several possible types counts as the
dearest of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import (
    BooleanValueNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_abstract_type,
    is_list_type,
    is_non_null_type,
)

from app.core.errors import QueryTooComplex
from app.core.lru import WeightedLru
from app.graphql.bounds.page_sizes import DEFAULT_PAGE, MAX_PAGE, page_size
from app.graphql.documents import fragments_of, variables_of

# Pages multiply beyond any number. All clients read numbers up to this one from JSON exactly.
MAX_COST = 2**53 - 1
# Lists that are not connections are short, but an account may have a page full of keys.
LIST_COST, LISTS = 10, {"apiKeys": MAX_PAGE}
# By type, for every period, because the readings of one operation have a bound of their own.
READINGS_COSTS = dict.fromkeys(("IntervalData", "ReadingCoverage"), 20)
# Strangers get an error, and nothing is read.
REFUSED_READINGS_COSTS = dict.fromkeys(READINGS_COSTS, 1)
# Merged, a document selects at as many places as there are paths through it. Real documents take some hundred steps.
MAX_STEPS = 20_000
# Arguments of page sizes and of directives, whose values decide over the cost.
DECIDING = ("if", "first", "last")
# Values of its variables for which the costs of one operation are cached.
CACHED_COSTS = 16


class Costs:
    """The costs of one operation of a valid document, by the values of the variables that decide over them.

    `readings` are the costs of types that read the readings of a meter. `is_template`: the document has variables
    without definitions.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        *,
        readings: Mapping[str, int] = READINGS_COSTS,
        is_template: bool = False,
    ) -> None:
        self._schema, self._operation, self._readings = schema, operation, readings
        self._fragments = fragments_of(document)
        has_variables = operation.variable_definitions or is_template
        self._deciding = variables_of(document, DECIDING) if has_variables else ()
        self._cache: WeightedLru[tuple[Any, ...], int] = WeightedLru(CACHED_COSTS, CACHED_COSTS)

    def of(self, variables: Mapping[str, Any]) -> int:
        """The cost with these coerced variables, MAX_COST at most. Raises QueryTooComplex."""
        key = tuple([variables.get(name) for name in self._deciding])
        cost = self._cache.get(key)
        if cost is None:
            root: Any = self._schema.get_root_type(self._operation.operation)
            count = _Count(self._schema, self._fragments, variables, self._readings)
            try:
                cost = count.at(root, [self._operation.selection_set])
            except RecursionError:
                raise QueryTooComplex("The document is nested too deeply; ask in several requests.") from None
            # All entries weigh the same.
            self._cache.put(key, cost, 1)
        return cost


class _Count:
    """Counts the merged selections."""

    def __init__(
        self,
        schema: GraphQLSchema,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: Mapping[str, Any],
        readings: Mapping[str, int],
    ) -> None:
        self._schema, self._fragments, self._variables = schema, fragments, variables
        self._readings = readings
        # Many paths lead to the same selections, which are counted once.
        self._counted: dict[tuple[str, frozenset[int]], int] = {}
        self._steps = 0

    def at(self, type_: Any, selected: Sequence[SelectionSetNode]) -> int:
        """The cost of one object of this type, or of any type behind it."""
        key = (type_.name, frozenset(map(id, selected)))
        cost = self._counted.get(key)
        if cost is None:
            kinds = self._schema.get_possible_types(type_) if is_abstract_type(type_) else (type_,)
            cost = 0
            for kind in kinds:
                cost = max(cost, self._of_object(kind, selected))
            self._counted[key] = cost
        return cost

    def _of_object(self, type_: GraphQLObjectType, selected: Sequence[SelectionSetNode]) -> int:
        cost = 0
        for nodes in self._merged(type_, selected).values():
            cost += self._of_field(type_, nodes)
        return min(cost, MAX_COST)

    def _of_field(self, parent: GraphQLObjectType, nodes: list[FieldNode]) -> int:
        name = nodes[0].name.value
        field = parent.fields.get(name)
        if field is None:
            # Introspection.
            return 0
        named = get_named_type(field.type)
        below = self.at(named, [one.selection_set for one in nodes if one.selection_set])
        if named.name in self._readings:
            return self._readings[named.name] + below
        if named.name.endswith("Connection"):
            return self._page_size(nodes[0]) * (1 + below)
        bare = field.type.of_type if is_non_null_type(field.type) else field.type
        # The nodes of a connection are counted by its page size, intervals by their period.
        if is_list_type(bare) and not parent.name.endswith(("Connection", "IntervalData")):
            return LISTS.get(name, LIST_COST) * (1 + below)
        return below

    def _merged(
        self, type_: GraphQLObjectType, selected: Sequence[SelectionSetNode]
    ) -> dict[str, list[FieldNode]]:
        """The fields that have a selection, by their response keys."""
        merged: dict[str, list[FieldNode]] = {}
        spread: set[str] = set()
        pending = list(selected)
        while pending:
            selections = pending.pop().selections
            self._steps += len(selections)
            if self._steps > MAX_STEPS:
                raise QueryTooComplex("The document selects too many fields; ask in several requests.")
            for node in selections:
                if node.directives and self._is_left_out(node):
                    continue
                if isinstance(node, FieldNode):
                    if node.selection_set:
                        merged.setdefault((node.alias or node.name).value, []).append(node)
                    continue
                inner: Any = node
                if isinstance(node, FragmentSpreadNode):
                    if node.name.value in spread:
                        continue
                    spread.add(node.name.value)
                    inner = self._fragments[node.name.value]
                if self._is_of(type_, inner):
                    pending.append(inner.selection_set)
        return merged

    def _is_of(self, type_: GraphQLObjectType, node: InlineFragmentNode | FragmentDefinitionNode) -> bool:
        if node.type_condition is None:
            return True
        condition: Any = self._schema.type_map[node.type_condition.name.value]
        return condition is type_ or (
            is_abstract_type(condition) and self._schema.is_sub_type(condition, type_)
        )

    def _page_size(self, node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value in ("first", "last"):
                size = page_size(argument.value, self._variables)
                if size is not None:
                    return min(max(size, 0), MAX_PAGE)
        return DEFAULT_PAGE

    def _is_left_out(self, node: SelectionNode) -> bool:
        return any(
            (directive.name.value == "skip") == self._truth(argument.value)
            for directive in node.directives or ()
            if directive.name.value in ("skip", "include")
            for argument in directive.arguments or ()
        )

    def _truth(self, value: ValueNode) -> bool:
        if isinstance(value, VariableNode):
            return bool(self._variables.get(value.name.value))
        return isinstance(value, BooleanValueNode) and value.value
