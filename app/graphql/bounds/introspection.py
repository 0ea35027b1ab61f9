"""Introspection at a bounded price.

The schema never changes while a process runs, so one selection on one element of it has one result. Each is found once
per operation and shared by all places that select it, where graphql-core executes it place by place: the standard
introspection takes a fraction of the time, and nested ones grow with the schema, not with the places.
"""

from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any, Final, NamedTuple, cast

from graphql import (
    ExecutionResult,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    get_introspection_query,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
    is_named_type,
    is_wrapping_type,
    parse,
)
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path

from app.core.errors import QueryTooComplex
from app.graphql.compiled.executor import CompiledExecutor

ROOM: Final = 1.5
"""The values of one introspection at most, as a multiple of those of the standard one."""

INTROSPECTION_FIELDS: Final = frozenset({"__schema", "__type"})

CACHE_BOUNDS: Final = (32, 4_000_000)
"""Number and bytes of cached results; the standard introspection takes half a MB."""

BYTES_PER_OBJECT, BYTES_PER_VALUE = 230, 25
"""Measured bytes of a result: a document with aliases has many values in few objects."""


class IntrospectingExecutor(CompiledExecutor):
    """Executes an operation with introspection among its root fields."""

    _introspection: "Introspection | None" = None

    @property
    def weight(self) -> int:
        """Bytes of the result of its introspection."""
        return 0 if self._introspection is None else self._introspection.weight

    def complete_value(
        self,
        return_type: Any,
        field_details_list: Any,
        info: Any,
        path: Any,
        result: Any,
        position_context: Any,
    ) -> Any:
        if isinstance(result, GraphQLSchema) or is_named_type(result):
            if self._introspection is None:
                self._introspection = Introspection(self, most_values(self.schema))
            return self._introspection.of(get_named_type(return_type), result, field_details_list)
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)


@lru_cache(4)
def most_values(schema: GraphQLSchema) -> float:
    """The values of one introspection at most: those of the standard one with all options, and some room."""
    query = get_introspection_query(
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
        experimental_directive_deprecation=True,
        one_of=True,
    )
    executor = IntrospectingExecutor.build(schema, parse(query, no_location=True))
    assert isinstance(executor, IntrospectingExecutor)  # noqa: S101 - the document is valid
    introspection = executor._introspection = Introspection(executor, inf)
    result = executor.execute_operation()
    assert isinstance(result, ExecutionResult)  # noqa: S101 - nothing in it waits
    assert result.errors is None, result.errors  # noqa: S101 - nothing in it fails
    return ROOM * introspection.values


class _Field(NamedTuple):
    """A selected field that leads to objects, ready to be resolved on any element of its type."""

    key: str
    resolve: Callable[..., Any]
    info: Any
    arguments: dict[str, Any]
    is_list: bool
    kind: GraphQLObjectType
    details: Any


class _Plan(NamedTuple):
    """The selection on one introspection type: all keys with the names of leaves, and the fields of objects."""

    kind: GraphQLObjectType
    entries: list[tuple[str, str]]
    fields: list[_Field]
    # The plan holds the details, because its key has their id.
    details: Any


OBJECT: Final = ""
"""Stands among the names of leaves for a field that leads to objects."""


class _Leaves(dict[str, Any]):
    """The leaves of one element of the schema by their fields' names, each found at its first use."""

    def __init__(self, kind: GraphQLObjectType, element: Any) -> None:
        super().__init__({OBJECT: None, "__typename": kind.name})
        self._kind, self._element = kind, element

    def __missing__(self, name: str) -> Any:
        field = self._kind.fields[name]
        assert field.resolve is not None  # noqa: S101 - as all of introspection have
        type_: Any = get_named_type(field.type)
        # None of them uses the info.
        found: Any = field.resolve(self._element, cast("GraphQLResolveInfo[Any]", None))
        if found is not None:
            is_list = is_list_type(get_nullable_type(field.type))
            found = [*map(type_.coerce_output_value, found)] if is_list else type_.coerce_output_value(found)
        self[name] = found
        return found


@lru_cache(4)
def _leaves_of(_schema: GraphQLSchema) -> dict[tuple[str, Any], _Leaves]:
    """The leaves of the elements of a schema that were found so far."""
    return {}


class Introspection:
    """The introspection of one operation, of `most` values at most."""

    def __init__(self, executor: CompiledExecutor, most: float) -> None:
        self._executor = executor
        self._most = most
        # Values of the result, shared ones each time, and values that were found.
        self.values = 0
        self._found = 0
        self._leaves = _leaves_of(executor.schema)
        self._plans: dict[tuple[str, int], _Plan] = {}
        self._known: dict[tuple[int, Any], tuple[dict[str, Any], int]] = {}

    @property
    def weight(self) -> int:
        """Bytes of its result, whose equal parts are shared."""
        return len(self._known) * BYTES_PER_OBJECT + self._found * BYTES_PER_VALUE

    def of(self, kind: GraphQLObjectType, element: Any, details: Any) -> dict[str, Any]:
        """The result of the merged selections on the schema or a type. Raises QueryTooComplex."""
        result, values = self._object(kind, element, details)
        self.values += values
        self._require_few(self.values)
        return result

    def _object(self, kind: GraphQLObjectType, element: Any, details: Any) -> tuple[dict[str, Any], int]:
        plan = self._plans.get((kind.name, id(details))) or self._plan(kind, details)
        identity = _identity(element)
        place = (id(plan), identity)
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = self._fields(plan, identity, element)
        return known

    def _fields(self, plan: _Plan, identity: Any, element: Any) -> tuple[dict[str, Any], int]:
        place = (plan.kind.name, identity)
        leaves = self._leaves.get(place)
        if leaves is None:
            leaves = self._leaves[place] = _Leaves(plan.kind, element)
        result = {key: leaves[name] for key, name in plan.entries}
        values = len(result)
        self._found += values
        # Each value that was found is in the result at least once.
        self._require_few(self._found)
        for field in plan.fields:
            found = field.resolve(element, field.info, **field.arguments)
            if found is None:
                continue
            elements = found if field.is_list else (found,)
            below = [self._object(field.kind, one, field.details) for one in elements]
            values += sum([inside for _, inside in below])
            self._require_few(values)
            result[field.key] = [one for one, _ in below] if field.is_list else below[0][0]
        return result, values

    def _require_few(self, values: int) -> None:
        if values > self._most:
            raise QueryTooComplex(
                f"This introspection brings back more than {self._most:.0f} values; ask in several requests.",
                limit=int(self._most),
            )

    def _plan(self, kind: GraphQLObjectType, details: Any) -> _Plan:
        plan = self._plans[kind.name, id(details)] = _Plan(kind, [], [], details)
        selected = self._executor.collect_subfields(kind, details).grouped_field_set
        for key, below in selected.items():
            name = below[0].node.name.value
            is_leaf = name == "__typename" or is_leaf_type(get_named_type(kind.fields[name].type))
            plan.entries.append((key, name if is_leaf else OBJECT))
            if not is_leaf:
                plan.fields.append(self._field(kind, key, below))
        return plan

    def _field(self, kind: GraphQLObjectType, key: str, below: Any) -> _Field:
        executor, node, field = self._executor, below[0].node, kind.fields[below[0].node.name.value]
        assert field.resolve is not None  # noqa: S101 - as all of introspection have
        info = executor.build_resolve_info(
            field, [one.node for one in below], kind, Path(None, key, kind.name)
        )
        arguments = get_argument_values(
            field, node, executor.variable_values, below[0].fragment_variable_values, True
        )
        is_list = is_list_type(get_nullable_type(field.type))
        named: Any = get_named_type(field.type)
        return _Field(key, field.resolve, info, arguments, is_list, named, below)


def _identity(element: Any) -> Any:
    """A key of an element of the schema: each use of a type has wrappers of its own, each list pairs of its own."""
    if isinstance(element, tuple):
        return element[0], id(element[1])
    return str(element) if is_wrapping_type(element) else id(element)
