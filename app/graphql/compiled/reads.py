"""What resolvers call to read: a connection, one row, or a long list of values.

Each goes the compiled way where that can be gone, and else the ordinary way with the same answer.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLResolveInfo,
    OperationDefinitionNode,
    Undefined,
    VariableNode,
    Visitor,
    get_named_type,
    visit,
)
from graphql.language import SKIP, ArgumentNode
from sqlalchemy import Select, select
from sqlalchemy.sql.visitors import iterate

from app.auth.actor import visible
from app.core import clock
from app.core.lru import Kept
from app.db.raw_statements import padded
from app.graphql.compiled import statements
from app.graphql.compiled.declare import Asked, Listed
from app.graphql.compiled.partly import Ready, handed
from app.graphql.compiled.selection import Child, Compiler, Plan, Run
from app.graphql.compiled.statements import Filter, Shape
from app.graphql.compiled.values import NotCompiled
from app.graphql.context import Context, Info
from app.graphql.nodes import find, is_id_of, shown
from app.graphql.pagination import Connection, Page, PageRequest, id_cursor, page_of, require_own

# A statement for a filter of more values is built each time.
LONGEST_FILTER = 64
# Bytes, as measured: of a plan, of each column that it reads, of each element of a statement, of a name of either.
PLAN_WEIGHT, COLUMN_WEIGHT, ELEMENT_WEIGHT, KEY_WEIGHT = 3000, 800, 1500, 500
# What was found not to be compilable.
_NEVER = object()
_numbers = count()


class Plans:
    """The compiled reads of one operation of a document: a plan for each root field and each set of values of the
    variables that decide over its shape, and the statements of each, in a memory that documents may share, `kept`.
    """

    def __init__(
        self, document: DocumentNode, operation: OperationDefinitionNode, kept: Kept[Any, Any]
    ) -> None:
        deciding = _Deciding()
        visit(document, deciding)
        self._variables = tuple(sorted(deciding.names))
        roots = operation.selection_set.selections
        # Lives as long as this, so that ids of its nodes are not given to others.
        self._document = document
        # Stands for this in keys, which would keep the document alive.
        self._number = next(_numbers)
        self.has_one_root = len(roots) == 1 and isinstance(roots[0], FieldNode)
        self.kept = kept

    def of(self, info: GraphQLResolveInfo[Any], kind: Any, build: Callable[[Compiler], Any]) -> Any:
        """What `build` compiles for this field. Raises NotCompiled, at once for what was tried before."""
        coerced = info.variable_values.coerced
        # By its nodes and not by its path: one path leads through events of several types to several fields.
        nodes = tuple(map(id, info.field_nodes))
        values = tuple([coerced.get(name, Undefined) for name in self._variables])
        key = (self._number, nodes, kind, values)
        found = self.kept.get(key)
        if found is None:
            try:
                found = build(Compiler(info))
            except NotCompiled:
                found = _NEVER
            named = KEY_WEIGHT + sum(map(sys.getsizeof, (nodes, *nodes, *values)))
            self.kept.put(key, found, named + _weight_of(found))
        if found is _NEVER:
            raise NotCompiled
        return found


async def connection(
    info: Info,
    model: Any,
    request: PageRequest,
    filter: Filter | None = None,
    *,
    key: str = "id",
    descending: bool = False,
    options: Sequence[Any] = (),
    ordinary: Callable[[], Awaitable[Any]] | None = None,
) -> Any:
    """One page of what the viewer may see of a model, in the order of its key.

    The ordinary way reads rows with the ORM's `options`; `ordinary` goes it where a row alone does not make its
    GraphQL object.
    """
    context, viewer = info.context, info.context.viewer
    try:
        plan = _plan(
            context,
            info._raw_info,
            model,
            lambda compiler, raw: compiler.connection(model, key, *raw, descending=descending),
        )
        require_own(model, request)
        return handed(await _page(_asked(context, info._raw_info), context, plan, request, filter))
    except NotCompiled:
        pass
    if ordinary is not None:
        return await ordinary()
    statement = visible(select(model).options(*options), viewer)
    if filter is not None:
        wanted = filter.wanted()
        statement = statements.narrowed(statement, filter, wanted, clock.now())
        statement = statement.params(statements.wanted_parameters(wanted))
    page = await page_of(context, statement, request, getattr(model, key), descending=descending)
    return Connection.of(page, lambda row: shown(row, viewer))


async def one(
    info: Info, model: Any, identifier: str, ordinary: Callable[[], Awaitable[Any]] | None = None
) -> Any:
    """The row with this id, None if there is none that the viewer may see.

    `ordinary` finds it as its GraphQL object where the row alone does not make one.
    """
    context, viewer = info.context, info.context.viewer
    if not is_id_of(model, identifier):
        return None
    try:
        plan = _plan(context, info._raw_info, model, lambda compiler, raw: compiler.rows(model, "id", *raw))
        return await _row(_asked(context, info._raw_info), context, plan, identifier)
    except NotCompiled:
        pass
    if ordinary is not None:
        return await ordinary()
    return shown(await find(context, viewer, model, identifier), viewer)


async def several(
    context: Context, info: GraphQLResolveInfo[Any], model: Any, key: str, at_hand: Sequence[Any]
) -> dict[Any, Any]:
    """What a root field selects of rows that are at hand, by their key; of those the viewer may see all.

    They are read again, with what belongs to them, unless it is nothing but columns of theirs; what is gone by then is
    not there. `info` is the field's, of any execution. Raises NotCompiled, also where the executor would have to
    complete them.
    """
    plan = _plan(context, info, model, lambda compiler, raw: compiler.rows(model, key, *raw))
    if plan.is_unready:
        raise NotCompiled("unready")
    viewer = context.viewer
    asked = _asked(context, info)
    if len(plan.scopes) == 1 and not plan.children:
        rows: Sequence[Any] = [tuple([getattr(row, name) for _, name in plan.places]) for row in at_hand]
    else:
        statement = _kept(
            context, plan, statements.shape_of(viewer), lambda: statements.several(plan, viewer)
        )
        keys = padded([getattr(row, key) for row in at_hand])
        given = statements.parameters(viewer, asked.at) | {statements.KEYS: keys}
        rows = await context.rows(statement, given, alone=_is_alone(context, plan))
    run = await _run(context, plan, asked, rows)
    return {row[plan.key_index]: plan.shape(row, run) for row in rows}


def values(info: Info, items: Sequence[Any], show: Callable[[Any], Any]) -> Any:
    """A long list of objects whose attributes are the fields of the GraphQL type that `show` makes of each."""
    plans, raw = info.context.plans, info._raw_info
    kind: Any = get_named_type(raw.return_type)
    try:
        if plans is None:
            raise NotCompiled
        make = plans.of(raw, kind.name, lambda compiler: compiler.values(kind, raw.field_nodes))
    except NotCompiled:
        return [show(item) for item in items]
    return Ready(make(items))


def _plan(
    context: Context,
    info: GraphQLResolveInfo[Any],
    model: Any,
    build: Callable[[Compiler, tuple[Any, list[FieldNode]]], Plan],
) -> Plan:
    # What an end customer with a consent's token sees of a row is left to the types themselves.
    if context.plans is None or context.viewer.consent_id is not None:
        raise NotCompiled
    selected = (get_named_type(info.return_type), info.field_nodes)
    plan: Plan = context.plans.of(info, model, lambda compiler: build(compiler, selected))
    return plan


def _asked(context: Context, info: GraphQLResolveInfo[Any]) -> Asked:
    return Asked(context.viewer, context.services, clock.now(), info.variable_values)


async def _page(
    asked: Asked, context: Context, plan: Plan, request: PageRequest, filter: Filter | None
) -> Any:
    viewer = asked.viewer
    wanted = {} if filter is None else filter.wanted()
    form = None if filter is None else (*wanted, filter.form())
    shape = statements.shape_of(viewer, request, form)

    def build() -> Select[Any]:
        return statements.listed(plan, viewer, request, filter, wanted)

    is_long = sum(len(one) for one in wanted.values() if isinstance(one, list)) > LONGEST_FILTER
    statement = build() if is_long or len(wanted) > LONGEST_FILTER else _kept(context, plan, shape, build)
    await _begin(context, plan)
    given = statements.parameters(viewer, asked.at) | statements.page_parameters(request)
    given |= statements.wanted_parameters(wanted)
    rows = list(await context.rows(statement, given, alone=_is_alone(context, plan)))
    page = Page.cut(rows, request, id_cursor)
    return plan.shape(page, await _run(context, plan, asked, page.rows))


async def _row(asked: Asked, context: Context, plan: Plan, identifier: str) -> Any:
    viewer = asked.viewer
    shape = statements.shape_of(viewer)
    statement = _kept(context, plan, shape, lambda: statements.single(plan, viewer))
    await _begin(context, plan)
    given = statements.parameters(viewer, asked.at) | {statements.ID: identifier}
    rows = await context.rows(statement, given, alone=_is_alone(context, plan))
    if not rows:
        return None
    return handed(plan.shape(rows[0], await _run(context, plan, asked, rows)))


async def _begin(context: Context, plan: Plan) -> None:
    if plan.is_unready:
        # The fields that are executed after it read the same state.
        await context.begin()


async def _run(context: Context, plan: Plan, asked: Asked, rows: Sequence[Any]) -> Run:
    """With the pages of all children of these rows."""
    run = Run(asked)
    for child in plan.children:
        run.pages.append(await _nested(context, child, asked, rows))
    return run


async def _nested(context: Context, child: Child, asked: Asked, rows: Sequence[Any]) -> dict[str, Any]:
    plan, viewer = child.plan, asked.viewer
    parents = list(dict.fromkeys(row[child.parent_index] for row in rows))
    parents = [one for one in parents if one is not None]
    if not parents:
        return {}
    request = None if child.request is None else child.request(asked.variables)
    statement, given = _of_child(context, child, request)
    given |= statements.parameters(viewer, asked.at) | {statements.PARENTS: padded(parents)}
    by_parent: dict[str, list[Any]] = {one: [] for one in parents}
    for row in await context.rows(statement, given, alone=False):
        by_parent[row[-1]].append(row)
    if request is None:
        run = await _run(context, plan, asked, [row for found in by_parent.values() for row in found])
        return {one: plan.shape(found, run) for one, found in by_parent.items()}
    pages = {one: Page.cut(found, request, id_cursor) for one, found in by_parent.items()}
    run = await _run(context, plan, asked, [row for page in pages.values() for row in page.rows])
    return {one: plan.shape(page, run) for one, page in pages.items()}


def _of_child(
    context: Context, child: Child, request: PageRequest | None
) -> tuple[Select[Any], dict[str, Any]]:
    """The statement for all parents, and which page of each it takes."""
    plan, source, viewer = child.plan, child.source, context.viewer
    shape = statements.shape_of(viewer, request)
    if isinstance(source, Listed):
        return _kept(context, plan, shape, lambda: statements.of_parents(plan, source, viewer)), {}
    assert request is not None  # noqa: S101 - a connection has one

    def build() -> Select[Any]:
        on_sqlite = context.services.database.is_sqlite
        return statements.nested(plan, source, child.parent_model, viewer, request, on_sqlite=on_sqlite)

    statement = _kept(context, plan, shape, build)
    return statement, statements.page_parameters(request)


def _is_alone(context: Context, plan: Plan) -> bool:
    """Whether the plan's first statement is all that the operation reads."""
    return not plan.children and context.plans is not None and context.plans.has_one_root


def _kept(context: Context, plan: Plan, shape: Shape, build: Callable[[], Select[Any]]) -> Select[Any]:
    if context.plans is None:
        return build()
    key = (plan.number, shape)
    statement: Select[Any] | None = context.plans.kept.get(key)
    if statement is None:
        statement = build()
        elements = sum(1 for _ in iterate(statement))
        weight = KEY_WEIGHT + len(repr(shape.filter)) + ELEMENT_WEIGHT * elements
        context.plans.kept.put(key, statement, weight)
    return statement


def _weight_of(compiled: Any) -> int:
    if compiled is _NEVER:
        return 0
    return PLAN_WEIGHT + COLUMN_WEIGHT * (compiled.columns if isinstance(compiled, Plan) else 0)


class _Deciding(Visitor):
    """The variables that decide over a plan: those of directives. All others are parameters of its statements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_argument(self, node: ArgumentNode, *_: Any) -> Any:
        if node.name.value == "if" and isinstance(node.value, VariableNode):
            self.names.add(node.value.name.value)
        return SKIP
