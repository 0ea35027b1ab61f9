"""From a selection to a plan: which columns of which tables, and how a row of them becomes the client's dict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    FieldNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLResolveInfo,
    get_named_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_subfields
from graphql.execution.values import get_argument_values

from app.api.compiled.declare import Asked, Column, Computed, Declared, Many, One, declared
from app.api.compiled.values import Make, NotCompiled, made_of, object_of, show_column, show_value
from app.api.pagination import Page, PageRequest, page_request, require_own
from app.errors import BadUserInput


class Scope:
    """One table of a statement: the page of rows itself, or a to-one relation of another scope."""

    def __init__(
        self, plan: "Plan", model: Any, parent: "Scope | None" = None, via: One | None = None
    ) -> None:
        self.plan = plan
        self.model = model
        self.parent = parent
        self.via = via
        # What the statement reads of the table; a dict for its order.
        self.attributes: dict[str, None] = {}
        self._relations: dict[tuple[One, Any], Scope] = {}

    def need(self, attribute: str) -> None:
        """The statement needs this column, though the rows may not."""
        self.attributes[attribute] = None

    def index(self, attribute: str) -> int:
        """Where a row has this column."""
        self.need(attribute)
        return self.plan.place(self, attribute)

    def joined(self, via: One, model: Any) -> "Scope":
        """The relation's scope; equal relations share it."""
        if (via, model) not in self._relations:
            self.need(via.key or "id")
            scope = Scope(self.plan, model, self, via)
            self.plan.scopes.append(scope)
            self._relations[via, model] = scope
        return self._relations[via, model]


@dataclass
class Run:
    """One execution of a plan: what functions of columns need, and the children's pages by the parents' ids."""

    asked: Asked
    pages: list[dict[str, Any]] = field(default_factory=list)


class Plan:
    """Rows of one model, each shaped by `shape`; children are nested connections, read for all rows at once."""

    def __init__(self, model: Any, key: str) -> None:
        self.model = model
        self.scopes: list[Scope] = []
        self.places: list[tuple[Scope, str]] = []
        self.children: list[Child] = []
        self.root = Scope(self, model)
        self.scopes.append(self.root)
        self.key = key
        self.key_index = self.root.index(key)
        self.shape: Callable[[Any, Run], Any] = _unshaped
        self.statements: dict[Any, Any] = {}

    def place(self, scope: Scope, attribute: str) -> int:
        wanted = (scope, attribute)
        if wanted not in self.places:
            self.places.append(wanted)
        return self.places.index(wanted)


def _unshaped(row: Any, run: Run) -> Any:
    raise NotImplementedError


@dataclass(frozen=True)
class Child:
    """A nested connection below the rows of a plan."""

    plan: Plan
    many: Many
    request: PageRequest
    # Where the parent's row has its id.
    parent_index: int


class Compiler:
    """Compiles what one root field selects, with the variables of one request."""

    def __init__(self, info: GraphQLResolveInfo[Any]) -> None:
        self._schema = info.schema
        self._variables = info.variable_values
        self._operation = info.operation
        self._fragments = {name: FragmentDetails(one) for name, one in info.fragments.items()}

    def rows(self, model: Any, key: str, type_: Any, nodes: list[FieldNode]) -> Plan:
        """The plan for single rows of a model, shown as this type. Raises NotCompiled."""
        plan = Plan(model, key)
        plan.shape = self._node(type_, nodes, plan.root)
        return plan

    def connection(self, model: Any, key: str, type_: Any, nodes: list[FieldNode]) -> Plan:
        """The plan whose `shape` makes a connection of a `Page` of rows. Raises NotCompiled."""
        plan = Plan(model, key)
        plan.shape = self._connection(type_, nodes, plan)
        return plan

    def values(self, type_: GraphQLObjectType, nodes: list[FieldNode]) -> Make:
        """From an object with an attribute for each field, all of them leaves, to its dict. Raises NotCompiled."""
        makes: list[tuple[str, Make]] = []
        for key, (name, kind, below) in self._selected(type_, nodes):
            if name == "__typename":
                makes.append((key, _constant(type_.name)))
                continue
            leaf = get_named_type(kind)
            if not is_leaf_type(leaf) or below[0].arguments:
                raise NotCompiled(name)
            makes.append((key, _attribute(_attribute_name(type_, name), show_value(leaf))))
        return lambda value, run: {key: make(value, run) for key, make in makes}

    def _selected(
        self, type_: GraphQLObjectType, nodes: list[FieldNode]
    ) -> list[tuple[str, tuple[str, Any, list[FieldNode]]]]:
        """Each response key with the field's name, its type and its nodes, in the order of the answer."""
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
        if not found:
            raise NotCompiled("nothing selected")
        return found

    def _connection(self, type_: Any, nodes: list[FieldNode], plan: Plan) -> Callable[[Page, Run], Any]:
        makes: list[tuple[str, Make]] = []
        for key, (name, kind, below) in self._selected(get_named_type(type_), nodes):
            named = get_named_type(kind) if kind is not None else None
            if name == "nodes":
                makes.append((key, _each(self._node(named, below, plan.root))))
            elif name == "edges":
                makes.append((key, _each(self._edge(named, below, plan))))
            elif name == "pageInfo":
                makes.append((key, self._page_info(named, below, plan)))
            elif name == "__typename":
                makes.append((key, _constant(get_named_type(type_).name)))
            else:
                raise NotCompiled(name)
        return lambda page, run: {key: make(page, run) for key, make in makes}

    def _edge(self, type_: Any, nodes: list[FieldNode], plan: Plan) -> Make:
        index = plan.key_index
        entries: list[tuple[str, int, Make | None]] = []
        for key, (name, kind, below) in self._selected(type_, nodes):
            if name == "cursor":
                entries.append((key, 0, lambda row, run: run.asked.cursor(row[index])))
            elif name == "node":
                entries.append((key, 0, self._node(get_named_type(kind), below, plan.root)))
            else:
                entries.append((key, 0, _constant(type_.name)))
        return object_of(entries)

    def _page_info(self, type_: Any, nodes: list[FieldNode], plan: Plan) -> Make:
        index = plan.key_index
        parts: dict[str, Make] = {
            "hasNextPage": lambda page, _: page.has_next,
            "hasPreviousPage": lambda page, _: page.has_previous,
            "startCursor": lambda page, run: run.asked.cursor(page.rows[0][index]) if page.rows else None,
            "endCursor": lambda page, run: run.asked.cursor(page.rows[-1][index]) if page.rows else None,
            "__typename": _constant(type_.name),
        }
        makes = [(key, parts[name]) for key, (name, _, _) in self._selected(type_, nodes)]
        return lambda page, run: {key: make(page, run) for key, make in makes}

    def _node(self, type_: Any, nodes: list[FieldNode], scope: Scope) -> Make:
        known = declared(_origin(type_))
        if known is None or known.model is not scope.model:
            raise NotCompiled(type_.name)
        if not isinstance(type_, GraphQLInterfaceType):
            return self._object(type_, nodes, scope, known)
        by_class = {_origin(one): one for one in self._schema.get_implementations(type_).objects}
        shapes: dict[str, Make] = {}
        for value, cls in known.variants.items():
            variant = declared(cls)
            if variant is None or cls not in by_class:
                raise NotCompiled(value)
            shapes[value] = self._object(by_class[cls], nodes, scope, variant)
        if not shapes:
            raise NotCompiled(type_.name)
        index = scope.index(known.by)
        return lambda row, run: shapes[row[index]](row, run)

    def _object(self, type_: Any, nodes: list[FieldNode], scope: Scope, known: Declared) -> Make:
        entries: list[tuple[str, int, Make | None]] = []
        for key, (name, kind, below) in self._selected(type_, nodes):
            if name == "__typename":
                entries.append((key, 0, _constant(type_.name)))
                continue
            definition = type_.fields[name].extensions["strawberry-definition"]
            source = known.source(definition.python_name, has_resolver=definition.base_resolver is not None)
            if isinstance(source, Column):
                leaf = get_named_type(kind)
                if not is_leaf_type(leaf):
                    raise NotCompiled(name)
                index, show = scope.index(source.attribute), show_column(leaf)
                entries.append((key, index, None if show is None else made_of(index, show)))
            elif isinstance(source, Computed):
                entries.append((key, 0, self._computed(source, kind, below, scope)))
            elif isinstance(source, One):
                entries.append((key, 0, self._one(source, kind, below, scope)))
            elif isinstance(source, Many):
                entries.append((key, 0, self._many(source, type_.fields[name], below, scope)))
            else:
                raise NotCompiled(name)
        return object_of(entries)

    def _one(self, source: One, kind: Any, nodes: list[FieldNode], scope: Scope) -> Make:
        target_type = get_named_type(kind)
        target = declared(_origin(target_type))
        if target is None or not isinstance(target_type, GraphQLObjectType):
            raise NotCompiled(target_type.name)
        joined = scope.joined(source, target.model)
        present, shape = joined.index("id"), self._object(target_type, nodes, joined, target)
        must_be = is_non_null_type(kind)

        def make(row: Any, run: Run) -> Any:
            if row[present] is not None:
                return shape(row, run)
            if must_be:
                # The ordinary way says what is wrong then.
                raise NotCompiled(target_type.name)
            return None

        return make

    def _many(self, source: Many, field_: Any, nodes: list[FieldNode], scope: Scope) -> Make:
        named = get_named_type(field_.type)
        target_type = get_named_type(named.fields["nodes"].type)
        target = declared(_origin(target_type))
        if target is None:
            raise NotCompiled(target_type.name)
        arguments = get_argument_values(field_, nodes[0], self._variables)
        try:
            request = page_request(*(arguments.get(one) for one in ("first", "after", "last", "before")))
            require_own(target.model, request)
        except BadUserInput:
            raise NotCompiled("arguments") from None
        number, parent = len(scope.plan.children), scope.index("id")
        # Its place first, because what is nested in it may not come before it in `Run.pages`.
        plan = Plan(target.model, "id")
        scope.plan.children.append(Child(plan, source, request, parent))
        plan.shape = self._connection(named, nodes, plan)
        return lambda row, run: run.pages[number][row[parent]]

    def _computed(self, source: Computed, kind: Any, nodes: list[FieldNode], scope: Scope) -> Make:
        indexes = [scope.index(one) for one in source.columns]
        if source.of is not None:
            joined = scope.joined(source.of, source.of_model)
            indexes += [joined.index(one) for one in source.of_columns]
        named, value = get_named_type(kind), source.value
        if is_leaf_type(named) and not is_list_type(kind.of_type if is_non_null_type(kind) else kind):
            show = show_value(named)
            inner: Make = lambda found, _: found if show is None else show(found)  # noqa: E731
        elif isinstance(named, GraphQLObjectType):
            inner = self.values(named, nodes)
        else:
            raise NotCompiled(named.name)

        def make(row: Any, run: Run) -> Any:
            found = value(run.asked, *(row[index] for index in indexes))
            return None if found is None else inner(found, run)

        return make


def _each(make: Make) -> Make:
    return lambda page, run: [make(row, run) for row in page.rows]


def _constant(value: Any) -> Make:
    return lambda _row, _run: value


def _attribute(name: str, show: Callable[[Any], Any] | None) -> Make:
    def make(value: Any, _run: Any) -> Any:
        found = getattr(value, name)
        return found if show is None or found is None else show(found)

    return make


def _origin(type_: Any) -> Any:
    return type_.extensions["strawberry-definition"].origin


def _attribute_name(type_: Any, name: str) -> str:
    """The attribute of an object that a field shows."""
    python_name: str = type_.fields[name].extensions["strawberry-definition"].python_name
    known = declared(_origin(type_))
    source = known.fields.get(python_name) if known else None
    return source.attribute if isinstance(source, Column) else python_name
