"""Builds the SQL of a plan, once for all requests of one shape: they differ in parameters only."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Integer, Select, String, any_, bindparam, select, true
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.sql.visitors import replacement_traverse

from app.auth.actor import Actor
from app.db.raw_statements import pad_to_power_of_two
from app.db.types import UtcDateTime
from app.graphql.compiled.plan import Plan, PlanTable
from app.graphql.compiled.sources import Columns, Listed, Many
from app.graphql.filters import Form
from app.graphql.pagination import PageRequest, direction, narrow

ACCOUNT, CUSTOMER, AT = "request_account", "request_customer", "request_at"
LIMIT, AFTER, BEFORE, PARENTS = "request_limit", "request_after", "request_before", "request_parents"
ID, KEYS = "request_id", "request_keys"
FILTER = "filter_"


def parameters(viewer: Actor, at: datetime) -> dict[str, Any]:
    """The parameters of every statement."""
    return {ACCOUNT: viewer.account_id, CUSTOMER: viewer.customer_id, AT: at}


def page_parameters(request: PageRequest) -> dict[str, Any]:
    return {LIMIT: request.limit + 1, AFTER: request.after, BEFORE: request.before}


def filter_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """A filter's values by the names of their parameters."""
    return {
        FILTER + name: pad_to_power_of_two(one) if isinstance(one, list) else one
        for name, one in values.items()
    }


class Shape(NamedTuple):
    """The parts of a request that its statement depends on, beside the plan."""

    sees_whole_account: bool
    is_backwards: bool = False
    has_after: bool = False
    has_before: bool = False
    filter: Form | None = None


def shape_of(viewer: Actor, request: PageRequest | None = None, filter: Form | None = None) -> Shape:
    if request is None:
        return Shape(viewer.sees_whole_account)
    cursors = (request.after is not None, request.before is not None)
    return Shape(viewer.sees_whole_account, request.backwards, *cursors, filter)


def narrowed(statement: Select[Any], filter: Form, values: Mapping[str, Any], at: Any) -> Select[Any]:
    """Narrows a statement by a filter whose values, such as these, are parameters."""
    return filter.narrow(statement, at, {name: _parameter(name, one) for name, one in values.items()})


def listed(
    plan: Plan,
    viewer: Actor,
    request: PageRequest,
    filter: Form | None = None,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> Select[Any]:
    """A page of the plan's rows, in reading direction."""
    template, key = _template(request), getattr(plan.model, plan.key)
    rows = select(*_columns(plan)).where(plan.model.seen_by(_viewer(viewer)))
    if filter is not None:
        rows = narrowed(rows, filter, values, _now())
    rows = narrow(rows, key, template, plan.descending).order_by(direction(key, template, plan.descending))
    page = rows.limit(bindparam(LIMIT, type_=Integer())).subquery("page")
    return _with_relations(plan, viewer, page).order_by(
        direction(page.c[plan.key], template, plan.descending)
    )


def single(plan: Plan, viewer: Actor) -> Select[Any]:
    """The row with one id, if the viewer sees it."""
    rows = select(*_columns(plan)).where(plan.model.seen_by(_viewer(viewer)))
    rows = rows.where(getattr(plan.model, plan.key) == bindparam(ID))
    return _with_relations(plan, viewer, rows.subquery("page"))


def several(plan: Plan, viewer: Actor) -> Select[Any]:
    """The rows with these values of the plan's key that the viewer may see."""
    rows = select(*_columns(plan)).where(plan.model.seen_by(_viewer(viewer)))
    rows = rows.where(getattr(plan.model, plan.key).in_(bindparam(KEYS, expanding=True)))
    return _with_relations(plan, viewer, rows.subquery("page"))


def nested(
    plan: Plan, many: Many, parent_model: Any, viewer: Actor, request: PageRequest, *, on_sqlite: bool
) -> Select[Any]:
    """The same page of each parent, with the parent's id as the last column.

    An index has the rows of a parent in order: no more are read than the page has.
    """
    template, table = _template(request), plan.model.__table__
    parents, linked = parent_model.__table__.alias("parent"), table
    # The column by which the index of a parent's rows has them in order.
    key = getattr(plan.model, plan.key)
    if many.through is not None:
        linked, key = table.join(many.through.__table__, many.on), many.key
    seen = replacement_traverse(plan.model.seen_by(_viewer(viewer)), {}, _unsearched_of(table))
    # By the average number of rows of a parent, PostgreSQL may read those of all parents in the order of their keys
    # until it has met enough of one. Ordering by the parent first rules that out, as only an index by parents has that
    # order, but PostgreSQL drops a column from the order that is compared by a plain equality.
    mine = many.parent == (parents.c.id if on_sqlite else any_(array([parents.c.id])))

    def page_of_each(*columns: Any) -> Select[Any]:
        rows = narrow(select(*columns).select_from(linked).where(mine, seen), key, template, plan.descending)
        rows = rows.order_by(*(direction(one, template, plan.descending) for one in (many.parent, key)))
        return rows.limit(bindparam(LIMIT, type_=Integer())).correlate(parents)

    if on_sqlite:
        # SQLite has no LATERAL, but it evaluates the subquery parent by parent.
        page: Any = table.alias("page")
        columns = _of_table(plan.model, page)
        joined = parents.join(page, columns(plan.key).in_(page_of_each(key)))
    else:
        page = page_of_each(*_columns(plan)).lateral("page")
        columns = page.c.__getitem__
        joined = parents.join(page, true())
    statement = _with_relations(plan, viewer, joined, columns).add_columns(parents.c.id)
    statement = statement.where(parents.c.id.in_(bindparam(PARENTS, expanding=True)))
    return statement.order_by(parents.c.id, direction(columns(plan.key), template, plan.descending))


def of_parents(plan: Plan, source: Listed, viewer: Actor) -> Select[Any]:
    """All rows of each parent, with the parent's id as the last column."""
    rows = select(*_columns(plan), source.parent.label("page_parent"))
    page = rows.where(source.parent.in_(bindparam(PARENTS, expanding=True))).subquery("page")
    statement = _with_relations(plan, viewer, page).add_columns(page.c.page_parent)
    return statement.order_by(page.c.page_parent, page.c[plan.key])


def _columns(plan: Plan) -> list[Any]:
    return [getattr(plan.model, one).label(one) for one in plan.root.attributes]


def _with_relations(plan: Plan, viewer: Actor, page: Any, root: Columns | None = None) -> Select[Any]:
    """The plan's columns of its rows, which `root` gives, and of their to-one relations."""
    at = _now()
    columns: dict[PlanTable, Columns] = {plan.root: root or page.c.__getitem__}
    joined = page
    for table in plan.tables:
        if table.parent is None or table.via is None:
            continue
        alias = table.model.__table__.alias()
        columns[table] = _of_table(table.model, alias)
        parent, via = columns[table.parent], table.via
        if via.on is not None:
            condition = via.on(parent, columns[table], at)
        else:
            condition = columns[table]("id") == parent(via.key)
        if via.scoped:
            condition &= ClauseAdapter(alias).traverse(table.model.seen_by(_viewer(viewer)))
        joined = joined.outerjoin(alias, condition)
    selected = [columns[table](name).label(f"v{n}") for n, (table, name) in enumerate(plan.selected)]
    return select(*selected).select_from(joined)


class unsearched(FunctionElement[Any]):
    """A column whose index SQLite must not use: it would take an account's rows for as few as those of a parent."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.type = column.type
        super().__init__(column)


@compiles(unsearched)
def _column(element: Any, compiler: Any, **kwargs: Any) -> str:
    [column] = element.clauses
    return compiler.process(column, **kwargs)  # type: ignore[no-any-return]


@compiles(unsearched, "sqlite")
def _unsearched(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"+{_column(element, compiler, **kwargs)}"


def _unsearched_of(table: Any) -> Callable[..., Any]:
    return lambda element, **_: unsearched(element) if getattr(element, "table", None) is table else None


def _of_table(model: Any, table: Any) -> Columns:
    named: Mapping[str, Any] = model.__mapper__.columns
    return lambda attribute: table.c[named[attribute].key]


def _now() -> Any:
    return bindparam(AT, type_=UtcDateTime())


def _viewer(viewer: Actor) -> Actor:
    """A viewer of the same kind whose ids are parameters."""
    customer: Any = None if viewer.sees_whole_account else bindparam(CUSTOMER)
    return Actor(cast(Any, bindparam(ACCOUNT)), viewer.scopes, customer_id=customer)


def _parameter(name: str, value: Any) -> Any:
    # Without a type it takes that of the column that it is compared with; but keys of metadata are no columns.
    type_ = String() if isinstance(value, str) else None
    return bindparam(FILTER + name, type_=type_, expanding=isinstance(value, list))


def _template(request: PageRequest) -> PageRequest:
    return PageRequest(
        limit=request.limit,
        backwards=request.backwards,
        after=None if request.after is None else bindparam(AFTER),
        before=None if request.before is None else bindparam(BEFORE),
    )
