"""The reads that resolvers call: a connection, one row, rows of events, or a long list as JSON.

Each is compiled where it can be, and otherwise executed field by field with the same response.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from graphql import FieldNode, GraphQLResolveInfo, get_named_type
from sqlalchemy import Select, select

from app.auth.actor import Actor, visible
from app.core import clock
from app.db.raw_statements import RebuiltStatement, pad_to_power_of_two
from app.graphql.compiled import statements
from app.graphql.compiled.partial import as_result
from app.graphql.compiled.plan import Child, Plan, PlanRun
from app.graphql.compiled.plan_cache import PlanCache
from app.graphql.compiled.selection import Compiler
from app.graphql.compiled.sources import Listed, ReadContext
from app.graphql.compiled.statements import Shape
from app.graphql.compiled.values import NotCompiled
from app.graphql.context import Context, Info
from app.graphql.filters import Filter
from app.graphql.nodes import find_object, is_id_of, shown
from app.graphql.pagination import Connection, PageRequest, RowPage, id_cursor, page_of, require_own

T = TypeVar("T")

# Statements for filters of more values are not cached.
LONGEST_FILTER = 64


async def connection(
    info: Info,
    model: Any,
    request: PageRequest,
    filter: Filter | None = None,
    *,
    key: str = "id",
    descending: bool = False,
    options: Sequence[Any] = (),
    uncompiled: Callable[[], Awaitable[Any]] | None = None,
) -> Any:
    """A page of the rows of a model that the viewer sees, in the order of its key.

    Execution field by field reads rows with the ORM's `options`; where a row alone does not make its GraphQL object,
    `uncompiled` makes the connection.
    """
    context, viewer = info.context, info.context.viewer
    try:
        plan = _plan(
            context,
            info._raw_info,
            model,
            lambda compiler, type_, nodes: compiler.connection(
                model, key, type_, nodes, descending=descending
            ),
        )
        require_own(model, request)
        return as_result(await _page(context, read_context(context, info._raw_info), plan, request, filter))
    except NotCompiled:
        pass
    if uncompiled is not None:
        return await uncompiled()
    statement = visible(select(model).options(*options), viewer)
    if filter is not None:
        statement = narrowed(statement, filter, viewer)
    page = await page_of(context, statement, request, getattr(model, key), descending=descending)
    return Connection.of(page, lambda row: shown(row, viewer))


def narrowed(statement: Select[Any], filter: Filter, viewer: Actor) -> Select[Any]:
    """The statement narrowed by a filter of one request. Raises BadUserInput."""
    form, values = filter.parts(viewer)
    return statements.narrowed(statement, form, values, clock.now()).params(
        statements.filter_parameters(values)
    )


async def read_one(info: Info, model: Any, identifier: str) -> Any:
    """The row with this id, None if the viewer sees none."""
    context, viewer = info.context, info.context.viewer
    if not is_id_of(model, identifier):
        return None
    try:
        plan = _plan(
            context,
            info._raw_info,
            model,
            lambda compiler, type_, nodes: compiler.rows(model, "id", type_, nodes),
        )
        return await _row(context, read_context(context, info._raw_info), plan, identifier)
    except NotCompiled:
        return await find_object(context, viewer, model, identifier)


async def read_selected(
    context: Context, info: GraphQLResolveInfo[Any], model: Any, key: str, rows: Sequence[Any]
) -> dict[Any, Any]:
    """The selection of a root field on these rows, as far as the viewer may see them all, by their key.

    The rows are read again, with their relations, unless only their own columns are selected; rows that are gone are
    left out. `info` is of any execution of the field. Raises NotCompiled, also for partial objects.
    """
    plan, statement = selected_plan(context, info, model, key)
    viewer, read = context.viewer, read_context(context, info)
    found: Sequence[Any]
    if statement is None:
        found = [tuple([getattr(row, name) for _, name in plan.selected]) for row in rows]
    else:
        parameters = selected_parameters(viewer, read.at, [getattr(row, key) for row in rows])
        found = await context.rows(statement, parameters, alone=is_alone(context, plan))
    run = await run_of(context, read, plan, found)
    return {row[plan.key_index]: plan.shape(row, run) for row in found}


def selected_plan(
    context: Context, info: GraphQLResolveInfo[Any], model: Any, key: str
) -> tuple[Plan, RebuiltStatement | None]:
    """The plan of a root field for rows with a key, and its statement unless only columns of the rows are selected.

    Raises NotCompiled, also for partial objects.
    """
    plan = _plan(context, info, model, lambda compiler, type_, nodes: compiler.rows(model, key, type_, nodes))
    if plan.is_partial:
        raise NotCompiled("partial")
    if len(plan.tables) == 1 and not plan.children:
        return plan, None
    viewer = context.viewer
    return plan, cached(context, plan, statements.shape_of(viewer), lambda: statements.several(plan, viewer))


def selected_parameters(viewer: Actor, at: datetime, keys: list[Any]) -> dict[str, Any]:
    """The parameters of a selected plan's statement for the rows with these keys."""
    return statements.parameters(viewer, at) | {statements.KEYS: pad_to_power_of_two(keys)}


def json_writer(info: Info, make: Callable[[str, Mapping[str, str]], T]) -> T | None:
    """Writes the objects of a long list as JSON; None where they are executed field by field.

    `make` is given their type's name and their attributes by response keys. All requests of a document share what it
    makes.
    """
    cache, raw = info.context.plan_cache, info._raw_info
    if cache is None:
        return None
    kind: Any = get_named_type(raw.return_type)

    def build() -> tuple[T, int]:
        attributes = Compiler(raw).attributes(kind, raw.field_nodes)
        return make(kind.name, attributes), len(attributes)

    try:
        writer: T = cache.plan(raw, make, build)
    except NotCompiled:
        return None
    return writer


def _plan(
    context: Context,
    info: GraphQLResolveInfo[Any],
    model: Any,
    compile: Callable[[Compiler, Any, list[FieldNode]], Plan],
) -> Plan:
    # GraphQL types decide field by field what an end customer with a consent's token sees of a row.
    if context.plan_cache is None or context.viewer.consent_id is not None:
        raise NotCompiled

    def build() -> tuple[Plan, int]:
        built = compile(Compiler(info), get_named_type(info.return_type), info.field_nodes)
        return built, built.columns

    plan: Plan = context.plan_cache.plan(info, model, build)
    return plan


def read_context(context: Context, info: GraphQLResolveInfo[Any]) -> ReadContext:
    """The context of a read that begins now."""
    return ReadContext(context.viewer, context.services, clock.now(), info.variable_values)


async def _page(
    context: Context, read: ReadContext, plan: Plan, request: PageRequest, filter: Filter | None
) -> Any:
    viewer = read.viewer
    form, values = (None, {}) if filter is None else filter.parts(viewer)
    shape = statements.shape_of(viewer, request, form)

    def build() -> Select[Any]:
        return statements.listed(plan, viewer, request, form, values)

    is_long = sum(len(one) for one in values.values() if isinstance(one, list)) > LONGEST_FILTER
    is_long = is_long or len(values) > LONGEST_FILTER
    statement = RebuiltStatement(build) if is_long else cached(context, plan, shape, build)
    await _begin(context, plan)
    parameters = statements.parameters(viewer, read.at) | statements.page_parameters(request)
    parameters |= statements.filter_parameters(values)
    rows = list(await context.rows(statement, parameters, alone=is_alone(context, plan)))
    page = RowPage.cut(rows, request, id_cursor)
    return plan.shape(page, await run_of(context, read, plan, page.rows))


async def _row(context: Context, read: ReadContext, plan: Plan, identifier: str) -> Any:
    viewer = read.viewer
    shape = statements.shape_of(viewer)
    statement = cached(context, plan, shape, lambda: statements.single(plan, viewer))
    await _begin(context, plan)
    parameters = statements.parameters(viewer, read.at) | {statements.ID: identifier}
    rows = await context.rows(statement, parameters, alone=is_alone(context, plan))
    if not rows:
        return None
    return as_result(plan.shape(rows[0], await run_of(context, read, plan, rows)))


async def _begin(context: Context, plan: Plan) -> None:
    if plan.is_partial:
        # The fields that are executed afterwards read the same state.
        await context.begin()


async def run_of(context: Context, read: ReadContext, plan: Plan, rows: Sequence[Any]) -> PlanRun:
    """Reads the pages of all children of these rows."""
    run = PlanRun(read)
    for child in plan.children:
        run.pages.append(await _children(context, read, child, rows))
    return run


async def _children(context: Context, read: ReadContext, child: Child, rows: Sequence[Any]) -> dict[str, Any]:
    plan, viewer = child.plan, read.viewer
    parents = list(dict.fromkeys(row[child.parent_index] for row in rows))
    parents = [parent for parent in parents if parent is not None]
    if not parents:
        return {}
    request = None if child.request is None else child.request(read.variables)
    statement, parameters = _of_child(context, child, request)
    parameters |= statements.parameters(viewer, read.at) | {statements.PARENTS: pad_to_power_of_two(parents)}
    by_parent: dict[str, list[Any]] = {parent: [] for parent in parents}
    for row in await context.rows(statement, parameters, alone=False):
        by_parent[row[-1]].append(row)
    if request is None:
        run = await run_of(context, read, plan, [row for found in by_parent.values() for row in found])
        return {parent: plan.shape(found, run) for parent, found in by_parent.items()}
    pages = {parent: RowPage.cut(found, request, id_cursor) for parent, found in by_parent.items()}
    run = await run_of(context, read, plan, [row for page in pages.values() for row in page.rows])
    return {parent: plan.shape(page, run) for parent, page in pages.items()}


def _of_child(
    context: Context, child: Child, request: PageRequest | None
) -> tuple[RebuiltStatement, dict[str, Any]]:
    """The statement for all parents, and the parameters of each parent's page."""
    plan, source, viewer = child.plan, child.source, context.viewer
    on_sqlite = context.services.database.is_sqlite
    shape = statements.shape_of(viewer, request)
    if isinstance(source, Listed):
        return cached(context, plan, shape, lambda: statements.of_parents(plan, source, viewer)), {}
    assert request is not None  # noqa: S101 - a connection has one

    def build() -> Select[Any]:
        return statements.nested(plan, source, child.parent_model, viewer, request, on_sqlite=on_sqlite)

    return cached(context, plan, shape, build), statements.page_parameters(request)


def is_alone(context: Context, plan: Plan) -> bool:
    """Whether the plan's first statement is the operation's only read."""
    return not plan.children and context.plan_cache is not None and context.plan_cache.has_one_root


def cached(context: Context, plan: Plan, shape: Shape, build: Callable[[], Select[Any]]) -> RebuiltStatement:
    """The plan's statement for requests of this shape."""
    cache: PlanCache | None = context.plan_cache
    return (
        RebuiltStatement(build) if cache is None else cache.statement(plan.number, shape, plan.columns, build)
    )
