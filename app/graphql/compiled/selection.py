"""Compiles a selection into a plan. Private methods of the compiler return expressions; see `values.py`."""

from collections.abc import Callable
from typing import Any

from graphql import (
    FieldNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLResolveInfo,
    VariableNode,
    get_named_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_subfields
from graphql.execution.values import VariableValues, get_argument_values

from app.core.errors import BadUserInput
from app.graphql.compiled.partial import PartialObject, PartialType, ReadyValue, object_maker
from app.graphql.compiled.plan import Child, Plan, PlanTable
from app.graphql.compiled.sources import Column, Computed, Listed, Many, One, Source, source_of
from app.graphql.compiled.values import (
    Code,
    NotCompiled,
    Partial,
    dict_of,
    show_column,
    show_value,
)
from app.graphql.nodes import object_type, row_type_of
from app.graphql.pagination import PageRequest, id_cursor, page_request, require_own

PAGE_ARGUMENTS = ("first", "after", "last", "before")


class Compiler:
    """Compiles the selection of one root field, with the variables of one request."""

    def __init__(self, info: GraphQLResolveInfo[Any]) -> None:
        self._schema = info.schema
        self._variables = info.variable_values
        self._operation = info.operation
        self._fragments = {name: FragmentDetails(one) for name, one in info.fragments.items()}
        self._code = Code()

    def rows(self, model: Any, key: str, type_: Any, nodes: list[FieldNode]) -> Plan:
        """The plan for single rows of a model as objects of this type. Raises NotCompiled."""
        plan = Plan(model, key)
        self._shape(plan, "row, run", self._node(type_, nodes, plan.root))
        return plan

    def connection(
        self, model: Any, key: str, type_: Any, nodes: list[FieldNode], *, descending: bool = False
    ) -> Plan:
        """The plan for a page of rows as a connection of this type. Raises NotCompiled."""
        plan = Plan(model, key, descending=descending)
        self._shape(plan, "page, run", self._connection(type_, nodes, plan))
        return plan

    def _shape(self, plan: Plan, parameters: str, expression: str) -> None:
        plan.shape = self._code.function(parameters, expression)
        plan.is_partial = isinstance(expression, Partial)

    def _value(self, type_: Any, nodes: list[FieldNode]) -> str:
        entries: dict[str, str] = {}
        for key, (name, kind) in self._leaves(type_, nodes):
            if name == "__typename":
                entries[key] = repr(type_.name)
                continue
            value = f"value.{_attribute(type_, name)}"
            show = show_value(get_named_type(kind))
            entries[key] = self._code.shown(value, show, may_be_null=not is_non_null_type(kind))
        return dict_of(entries)

    def attributes(self, type_: Any, nodes: list[FieldNode]) -> dict[str, str]:
        """The attributes of an object's leaves by their response keys, in order. Raises NotCompiled."""
        return {
            key: name if name == "__typename" else _attribute(type_, name)
            for key, (name, _) in self._leaves(type_, nodes)
        }

    def _leaves(self, type_: Any, nodes: list[FieldNode]) -> list[tuple[str, tuple[str, Any]]]:
        found = []
        for key, (name, kind, below) in self.selected(type_, nodes):
            if name != "__typename" and (not is_leaf_type(get_named_type(kind)) or below[0].arguments):
                raise NotCompiled(name)
            found.append((key, (name, kind)))
        return found

    def selected(
        self, type_: GraphQLObjectType, nodes: list[FieldNode]
    ) -> list[tuple[str, tuple[str, Any, list[FieldNode]]]]:
        """Each response key with the field's name, type and nodes, in the order of the response."""
        grouped, _, _ = collect_subfields(
            self._schema,
            self._fragments,
            self._variables,
            self._operation,
            type_,
            [FieldDetails(node, None) for node in nodes],
        )
        found = []
        for key, details in grouped.items():
            name = details[0].node.name.value
            kind = None if name == "__typename" else type_.fields[name].type
            found.append((key, (name, kind, [one.node for one in details])))
        return found

    def _connection(self, type_: Any, nodes: list[FieldNode], plan: Plan) -> str:
        entries: dict[str, str] = {}
        for key, (name, kind, below) in self.selected(type_, nodes):
            if name == "nodes":
                node = self._node(get_named_type(kind), below, plan.root)
                entries[key] = _like(node, f"[{node} for row in page.rows]")
            elif name == "edges":
                edge = self._edge(get_named_type(kind), below, plan)
                entries[key] = _like(edge, f"[{edge} for row in page.rows]")
            elif name == "pageInfo":
                node_type = get_named_type(type_.fields["nodes"].type)
                entries[key] = self._page_info(get_named_type(kind), below, node_type, plan)
            elif name == "__typename":
                entries[key] = repr(type_.name)
            else:
                raise NotCompiled(name)
        return self._dict(type_, entries, reads=False)

    def _edge(self, type_: Any, nodes: list[FieldNode], plan: Plan) -> str:
        entries: dict[str, str] = {}
        for key, (name, kind, below) in self.selected(type_, nodes):
            if name == "node":
                entries[key] = self._node(get_named_type(kind), below, plan.root)
            elif name == "cursor":
                entries[key] = self._cursor(get_named_type(type_.fields["node"].type), plan)
            else:
                entries[key] = repr(type_.name)
        return self._dict(type_, entries, reads=False)

    def _page_info(self, type_: Any, nodes: list[FieldNode], node_type: Any, plan: Plan) -> str:
        entries = {"hasNextPage": "page.has_next", "hasPreviousPage": "page.has_previous"}
        rows = {"startCursor": "page.rows[0]", "endCursor": "page.rows[-1]"}
        shape: dict[str, str] = {}
        for key, (name, _, _) in self.selected(type_, nodes):
            if name in rows:
                cursor = self._code.name(self._code.function("row, run", self._cursor(node_type, plan)))
                shape[key] = f"({cursor}({rows[name]}, run) if page.rows else None)"
            else:
                shape[key] = entries.get(name, repr(type_.name))
        return dict_of(shape)

    def _cursor(self, node_type: Any, plan: Plan) -> str:
        field = node_type.fields.get("cursor")
        source = None if field is None else source_of(definition_of(field))
        if isinstance(source, Computed):
            return self._computed(source, field.type, [], plan.root)
        return f"{self._code.name(id_cursor)}(row[{plan.key_index}])"

    def _node(self, type_: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        known = row_type_of(origin_of(type_))
        if known is None and isinstance(type_, GraphQLInterfaceType):
            type_ = self._type_behind(type_, table.model)
            known = row_type_of(origin_of(type_))
        if known is None or known.model is not table.model:
            raise NotCompiled(type_.name)
        if not isinstance(type_, GraphQLInterfaceType):
            return self._object(type_, nodes, table)
        by_class = {origin_of(one): one for one in self._schema.get_implementations(type_).objects}
        expressions: dict[str, str] = {}
        for value, cls in known.variants.items():
            if cls not in by_class:
                raise NotCompiled(value)
            expressions[value] = self._object(by_class[cls], nodes, table)
        if not expressions:
            raise NotCompiled(type_.name)
        return self._one_of(expressions, f"row[{table.index(known.by)}]")

    def _one_of(self, expressions: dict[str, str], by: str) -> str:
        """The expression that a column's value chooses. Where one is partial, the executor completes all of them."""
        partial = next((one for one in expressions.values() if isinstance(one, Partial)), None)
        shapes: dict[str, Any] = {}
        for value, expression in expressions.items():
            is_ready = partial is not None and not isinstance(expression, Partial)
            shape = f"{self._code.name(ReadyValue)}({expression})" if is_ready else expression
            shapes[value] = self._code.function("row, run", shape)
        return _like(partial, f"{self._code.name(shapes)}[{by}](row, run)")

    def _type_behind(self, type_: GraphQLInterfaceType, model: Any) -> Any:
        """The type behind an interface, such as Node, that stands for a model."""
        behind = self._schema.get_implementations(type_)
        for one in (*behind.interfaces, *behind.objects):
            known = row_type_of(origin_of(one))
            if known is not None and known.model is model:
                return one
        raise NotCompiled(type_.name)

    def _object(self, type_: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        entries: dict[str, str] = {}
        source_object = None
        for key, (name, kind, below) in self.selected(type_, nodes):
            if name == "__typename":
                entries[key] = repr(type_.name)
                continue
            source = _source(type_.fields[name], table.model)
            if isinstance(source, Column):
                entries[key] = self._column(source, kind, table)
            elif isinstance(source, Computed):
                entries[key] = self._computed(source, kind, below, table)
            elif isinstance(source, One):
                entries[key] = self._one(source, kind, below, table)
            elif isinstance(source, Many):
                entries[key] = self._many(source, type_.fields[name], below, table)
            elif isinstance(source, Listed):
                entries[key] = self._listed(source, kind, below, table)
            else:
                source_object = source_object or self._source(type_, table)
        return self._dict(type_, entries, source_object, reads=True)

    def _source(self, type_: Any, table: PlanTable) -> str:
        """The row's GraphQL object, on which the executor executes fields with resolvers of their own."""
        if object_type(table.model) is not origin_of(type_):
            raise NotCompiled(type_.name)
        names = tuple(table.model.__mapper__.columns.keys())
        values = "".join(f"row[{table.index(name)}], " for name in names)
        return f"{self._code.name(object_maker(table.model, names))}(run.context, ({values}))"

    def _dict(self, type_: Any, entries: dict[str, str], source: str | None = None, *, reads: bool) -> str:
        """An object of these fields and those of its `source`; a dict where nothing is left to the executor."""
        partial = frozenset(key for key, value in entries.items() if isinstance(value, Partial))
        if source is None and not partial:
            return dict_of(entries)
        level = self._code.name(PartialType(type_, partial, reads))
        return Partial(f"{self._code.name(PartialObject)}({level}, {dict_of(entries)}, {source})")

    def _column(self, source: Column, kind: Any, table: PlanTable) -> str:
        leaf = get_named_type(kind)
        if not is_leaf_type(leaf):
            raise NotCompiled(leaf.name)
        value = f"row[{table.index(source.attribute)}]"
        return self._code.shown(value, show_column(leaf), may_be_null=not is_non_null_type(kind))

    def _one(self, source: One, kind: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        type_ = get_named_type(kind)
        target = row_type_of(origin_of(type_))
        if target is None:
            raise NotCompiled(type_.name)
        joined = table.joined(source, target.model)
        shape = self._node(type_, nodes, joined)
        absent = f"{self._code.name(_missing)}()" if is_non_null_type(kind) else "None"
        return _like(shape, f"({shape} if row[{joined.index('id')}] is not None else {absent})")

    def _many(self, source: Many, field_: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        type_ = get_named_type(field_.type)
        target_type = get_named_type(type_.fields["nodes"].type)
        target = row_type_of(origin_of(target_type))
        if target is None:
            raise NotCompiled(target_type.name)
        request = _requested(field_, nodes[0], target.model)
        if not any(isinstance(one.value, VariableNode) for one in nodes[0].arguments or ()):
            always = request(self._variables)
            request = lambda _: always  # noqa: E731
        plan = self.connection(target.model, "id", type_, nodes, descending=source.descending)
        return self._child(plan, source, request, table)

    def _listed(self, source: Listed, kind: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        type_ = get_named_type(kind)
        target = row_type_of(origin_of(type_))
        if target is None:
            raise NotCompiled(type_.name)
        plan = Plan(target.model, source.key)
        node = self._node(type_, nodes, plan.root)
        self._shape(plan, "rows, run", _like(node, f"[{node} for row in rows]"))
        return self._child(plan, source, None, table)

    def _child(
        self,
        plan: Plan,
        source: Many | Listed,
        request: Callable[[VariableValues], PageRequest] | None,
        table: PlanTable,
    ) -> str:
        children, parent = table.plan.children, table.index("id")
        children.append(Child(plan, source, request, table.model, parent))
        page = f"run.pages[{len(children) - 1}][row[{parent}]]"
        return Partial(page) if plan.is_partial else page

    def _computed(self, source: Computed, kind: Any, nodes: list[FieldNode], table: PlanTable) -> str:
        indexes = [table.index(one) for one in source.columns]
        if source.of is not None:
            joined = table.joined(source.of, source.of.model)
            indexes += [joined.index(one) for one in source.of_columns]
        columns = ", ".join(f"row[{index}]" for index in indexes)
        value = f"{self._code.name(source.value)}(run.context, {columns})"
        named = get_named_type(kind)
        if is_list_type(kind.of_type if is_non_null_type(kind) else kind):
            raise NotCompiled(named.name)
        if isinstance(named, GraphQLObjectType):
            show: Any = self._code.function("value", self._value(named, nodes))
        else:
            show = show_value(named)
        return self._code.shown(value, show, may_be_null=not is_non_null_type(kind))


def _requested(field_: Any, node: FieldNode, model: Any) -> Callable[[VariableValues], PageRequest]:
    """The page of a nested connection, as a function of the variables."""

    def request(variables: VariableValues) -> PageRequest:
        arguments = get_argument_values(field_, node, variables)
        try:
            page = page_request(*(arguments.get(one) for one in PAGE_ARGUMENTS))
            require_own(model, page)
        except BadUserInput:
            raise NotCompiled("arguments") from None
        return page

    return request


def _like(part: str | None, expression: str) -> str:
    """The expression, partial where its part is."""
    return Partial(expression) if isinstance(part, Partial) else expression


def _missing() -> Any:
    # Execution field by field reports the missing row.
    raise NotCompiled("missing")


def origin_of(type_: Any) -> Any:
    """The class that Strawberry made a type of."""
    return type_.extensions["strawberry-definition"].origin


def _attribute(type_: Any, name: str) -> str:
    """The attribute of an object that holds the value of a field."""
    definition = definition_of(type_.fields[name])
    source = source_of(definition)
    return source.attribute if isinstance(source, Column) else definition.python_name


def definition_of(field: Any) -> Any:
    """Strawberry's definition of a field."""
    return field.extensions["strawberry-definition"]


def _source(field: Any, model: Any) -> Source | None:
    """The source of a field; None where its own resolver must be executed."""
    definition = definition_of(field)
    source = source_of(definition)
    if (
        source is None
        and definition.base_resolver is None
        and definition.python_name in model.__mapper__.columns
    ):
        return Column(definition.python_name)
    return source
