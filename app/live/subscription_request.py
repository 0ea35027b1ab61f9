"""The request of a subscription to `events`: where it begins, its filter, and the key that equal requests share."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

from graphql import FieldNode, GraphQLResolveInfo, VariableNode, Visitor, visit
from graphql.execution.values import get_argument_values
from strawberry.utils.str_converters import to_snake_case

from app.events.record_filter import RecordFilter
from app.graphql.bounds.plain_values import require_storable
from app.graphql.engine import Engine
from app.graphql.filters import require_few
from app.graphql.prepared_operation import PreparedOperation

# The variable of the cursor, of documents that have been subscribed to.
_cursor_variables: WeakKeyDictionary[PreparedOperation, str | None] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class SubscriptionRequest:
    """Checked, and ready to be executed for each event."""

    prepared: PreparedOperation
    variables: dict[str, Any] | None
    after: str | None
    filter: RecordFilter
    # Equal for equal documents, operations and variables; where to begin is left out.
    key: Hashable
    # The root field, as its resolver would get it.
    root: GraphQLResolveInfo[Any]

    @classmethod
    def of(cls, engine: Engine, prepared: PreparedOperation, variables: dict[str, Any] | None) -> Self:
        """Raises RequestErrors and BadUserInput."""
        root = engine.root_of(prepared, variables)
        node = root.field_nodes[0]
        arguments = get_argument_values(root.parent_type.fields[root.field_name], node, root.variable_values)
        kept = dict(root.variable_values.coerced)
        # The same whatever the variables are: validation refuses a root field under a condition.
        if prepared not in _cursor_variables:
            _cursor_variables[prepared] = _only_cursor(prepared, node)
        kept.pop(_cursor_variables[prepared] or "", None)
        wanted = arguments.get("filter") or {}
        for name, values in wanted.items():
            require_few(name, values)
        return cls(
            prepared=prepared,
            variables=variables,
            after=arguments.get("after"),
            # By name, so that a field which the log's filter does not have is an error and never ignored.
            filter=RecordFilter(**{to_snake_case(name): _set(values) for name, values in wanted.items()}),
            # The text, not the document: a long or rarely used document is parsed anew.
            key=(prepared.text, prepared.operation_name, hashable(kept)),
            root=root,
        )


# Requests that are in use, by their documents and their variables as they were sent.
_shared: WeakValueDictionary[Hashable, SubscriptionRequest] = WeakValueDictionary()


def shared_request(
    engine: Engine, prepared: PreparedOperation, variables: dict[str, Any] | None
) -> tuple[SubscriptionRequest, str | None]:
    """A request that serves all equal ones as long as one of them is in use, and the cursor of this one.

    Raises RequestErrors and BadUserInput.
    """
    key, cursor = _shared_key(prepared, variables)
    found = None if key is None else _shared.get(key)
    if found is None:
        found = SubscriptionRequest.of(engine, prepared, variables)
        # The first request of a document has made known which variable is the cursor's.
        key, cursor = _shared_key(prepared, variables)
        if key is not None:
            _shared[key] = found
    elif cursor is not None:
        require_storable(cursor)
    return found, found.after if cursor is None else cursor


def _shared_key(
    prepared: PreparedOperation, variables: dict[str, Any] | None
) -> tuple[Hashable | None, str | None]:
    """The key of equal requests, and the cursor apart from it; without a key the request is checked anew."""
    if prepared not in _cursor_variables:
        return None, None
    name = _cursor_variables[prepared]
    cursor = variables.get(name) if variables and name is not None else None
    if isinstance(cursor, str):
        variables = {key: value for key, value in (variables or {}).items() if key != name}
    else:
        # Null, missing or wrong: a variable like the others.
        cursor = None
    try:
        return (prepared, cursor is None, hashable(variables or {})), cursor
    except RecursionError:
        return None, None


def hashable(value: Any) -> Hashable:
    """A variable's value in a form that is equal only for equal values: 1, 1.0, "1" and true all differ."""
    if isinstance(value, dict):
        return ("object", frozenset((name, hashable(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(hashable(item) for item in value))
    return (type(value), value)


def _only_cursor(prepared: PreparedOperation, node: FieldNode) -> str | None:
    """The name of the variable that is given to `after` and to no other argument."""
    for argument in node.arguments or ():
        if argument.name.value == "after" and isinstance(argument.value, VariableNode):
            name = argument.value.name.value
            counter = _Counter()
            visit(prepared.document, counter)
            # The definition of a variable names it as well.
            return name if counter.uses[name] == 2 else None
    return None


class _Counter(Visitor):
    """Counts how often a document names each of its variables."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[str] = Counter()

    def enter_variable(self, node: VariableNode, *_: Any) -> None:
        self.uses[node.name.value] += 1


def _set(values: list[Any] | None) -> frozenset[str] | None:
    """The values of a list; of enums their names in the log."""
    if values is None:
        return None
    return frozenset(one.value if isinstance(one, Enum) else one for one in values)
