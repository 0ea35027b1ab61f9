"""Introspection at a bounded price.

The schema never changes while a process runs, so an element of it that is selected in one way has one answer. Each is
found once per operation and shared by all places that select it, where graphql-core would execute it place by place:
the standard introspection takes a fraction of the time, and nested ones grow with the schema, not with the places.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from graphql import (
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    get_nullable_type,
    is_enum_type,
    is_leaf_type,
    is_list_type,
    is_named_type,
    is_wrapping_type,
)
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path

from app.api.compiled.executor import ReadyExecutor
from app.errors import QueryTooComplex

MAX_VALUES: Final = 30_000
"""Values that the introspection of one operation may bring back. The standard one of this schema brings 11,000."""

FIELDS: Final = frozenset({"__schema", "__type"})

MEMORY: Final = (32, 4_000_000)
"""How many answers are kept, and how many bytes of them; one to the standard introspection takes half a MB."""

BYTES_PER_OBJECT: Final = 300


class IntrospectingExecutor(ReadyExecutor):
    """Executes an operation with introspection among its root fields."""

    _introspection: "Introspection | None" = None

    @property
    def weight(self) -> int:
        """Bytes that its introspection takes."""
        return 0 if self._introspection is None else self._introspection.objects * BYTES_PER_OBJECT

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
                self._introspection = Introspection(self)
            return self._introspection.of(get_named_type(return_type), result, field_details_list)
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)


class _Field(NamedTuple):
    """One selected field of an introspection type, ready to be asked of any element."""

    key: str
    resolve: Callable[..., Any]
    info: Any
    arguments: dict[str, Any]
    is_list: bool
    # Of an object: its type, and what is selected of it.
    kind: GraphQLObjectType | None
    details: Any
    # Of an enum: its names.
    name_of: Callable[[Any], Any] | None


class Introspection:
    """The introspection of one operation: `values` are those that were brought back so far, shared ones each time."""

    def __init__(self, executor: ReadyExecutor) -> None:
        self._executor = executor
        self.values = 0
        self._plans: dict[tuple[str, int], tuple[Any, list[_Field]]] = {}
        self._known: dict[tuple[int, Any], tuple[dict[str, Any], int]] = {}

    @property
    def objects(self) -> int:
        """How many objects its answers consist of, shared ones once."""
        return len(self._known)

    def of(self, kind: GraphQLObjectType, element: Any, details: Any) -> dict[str, Any]:
        """What the merged selections select of the schema or a type. Raises QueryTooComplex."""
        answer, values = self._object(kind, element, details)
        self._count(values)
        return answer

    def _object(self, kind: GraphQLObjectType, element: Any, details: Any) -> tuple[dict[str, Any], int]:
        plan = self._plan(kind, details)
        place = (id(plan), _identity(element))
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = self._fields(plan, element)
        return known

    def _fields(self, plan: list[_Field], element: Any) -> tuple[dict[str, Any], int]:
        answer: dict[str, Any] = {}
        values = len(plan)
        for field in plan:
            found = field.resolve(element, field.info, **field.arguments)
            if found is None:
                answer[field.key] = None
            elif field.kind is not None:
                elements = found if field.is_list else (found,)
                below = [self._object(field.kind, one, field.details) for one in elements]
                values += sum(inside for _, inside in below)
                if values > MAX_VALUES:
                    self._count(values)
                answer[field.key] = [one for one, _ in below] if field.is_list else below[0][0]
            elif field.name_of is not None:
                answer[field.key] = [*map(field.name_of, found)] if field.is_list else field.name_of(found)
            else:
                answer[field.key] = found
        return answer, values

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise QueryTooComplex(
                f"This introspection brings back more than {MAX_VALUES} values; ask in several requests.",
                limit=MAX_VALUES,
            )

    def _plan(self, kind: GraphQLObjectType, details: Any) -> list[_Field]:
        place = (kind.name, id(details))
        if place not in self._plans:
            # With the details, whose identity must not be another's meanwhile.
            self._plans[place] = (details, self._planned(kind, details))
        return self._plans[place][1]

    def _planned(self, kind: GraphQLObjectType, details: Any) -> list[_Field]:
        executor = self._executor
        selected = executor.collect_subfields(kind, details).grouped_field_set
        plan: list[_Field] = []
        for key, below in selected.items():
            node = below[0].node
            field = executor.schema.get_field(kind, node.name.value)
            assert field is not None  # noqa: S101 - the document is valid
            assert field.resolve is not None  # noqa: S101 - as all of introspection have
            info = executor.build_resolve_info(
                field, [one.node for one in below], kind, Path(None, key, kind.name)
            )
            arguments = get_argument_values(
                field, node, executor.variable_values, below[0].fragment_variable_values, True
            )
            is_list = is_list_type(get_nullable_type(field.type))
            below_kind: Any = get_named_type(field.type)
            name_of = below_kind.coerce_output_value if is_enum_type(below_kind) else None
            kind_of = None if is_leaf_type(below_kind) else below_kind
            plan.append(_Field(key, field.resolve, info, arguments, is_list, kind_of, below, name_of))
        return plan


def _identity(element: Any) -> Any:
    """Equal for one element of the schema: each use of a type has its own wrappers, each list its own pairs."""
    if isinstance(element, tuple):
        return element[0], id(element[1])
    return str(element) if is_wrapping_type(element) else id(element)
