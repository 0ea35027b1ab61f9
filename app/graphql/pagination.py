"""Relay connections over keyset pages.

A page is `limit + 1` rows after (or before) a key, so its cost does not depend on where it lies. Pages of nested
connections are read for all parents at once.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Any, Generic, TypeVar

import strawberry
from sqlalchemy import ColumnElement, Select, and_, func

from app.core.errors import BadUserInput
from app.core.ids import is_id
from app.graphql.bounds.page_sizes import DEFAULT_PAGE, require_page_size
from app.graphql.context import Context, Info
from app.graphql.nodes import prefix_of

T = TypeVar("T")


@strawberry.type
class PageInfo:
    """How a page lies in its list."""

    has_next_page: bool
    """Whether the list goes on after this page; with last, whether before was given."""
    has_previous_page: bool
    """Whether the list has something before this page; with first, whether after was given."""
    start_cursor: str | None
    """The cursor of the page's first object; null on an empty page."""
    end_cursor: str | None
    """The cursor of the page's last object; null on an empty page."""


@strawberry.type
class Edge(Generic[T]):
    cursor: str
    """The object's place in the list, to be given as after or before."""
    node: T
    """The object itself."""


@strawberry.type
class Connection(Generic[T]):
    edges: list[Edge[T]]
    """The objects of the page, each with its cursor."""
    nodes: list[T]
    """The objects of the page without their cursors."""
    page_info: PageInfo
    """How the page lies in the list."""

    @classmethod
    def of(cls, page: "RowPage", node: Callable[[Any], T]) -> "Connection[T]":
        """The page's rows as nodes; each row is converted once and shared by `edges` and `nodes`."""
        nodes, cursors = [node(row) for row in page.rows], page.cursors
        return cls(
            edges=[Edge(cursor=cursor, node=one) for cursor, one in zip(cursors, nodes, strict=True)],
            nodes=nodes,
            page_info=PageInfo(
                has_next_page=page.has_next,
                has_previous_page=page.has_previous,
                start_cursor=cursors[0] if cursors else None,
                end_cursor=cursors[-1] if cursors else None,
            ),
        )


@dataclass(frozen=True)
class PageRequest:
    """Checked page arguments, with the keys of the cursors."""

    limit: int
    backwards: bool = False
    after: Any = None
    before: Any = None


@dataclass(frozen=True)
class RowPage:
    rows: Sequence[Any]
    cursor: Callable[[Any], str]
    has_next: bool
    has_previous: bool

    @property
    def cursors(self) -> list[str]:
        return [self.cursor(row) for row in self.rows]

    @classmethod
    def cut(cls, rows: list[Any], request: PageRequest, cursor: Callable[[Any], str]) -> "RowPage":
        """Makes a page, in the order of the connection, of at most limit + 1 rows in reading direction."""
        more = len(rows) > request.limit
        page_rows = rows[: request.limit]
        if request.backwards:
            page_rows.reverse()
        return cls(
            rows=page_rows,
            cursor=cursor,
            has_next=request.before is not None if request.backwards else more,
            has_previous=more if request.backwards else request.after is not None,
        )


def paged(resolver: Any, filter: Any = None) -> Any:
    """Gives a resolver the arguments of a page, as `**page` for `page_request`, and a filter if it has a type."""

    def arguments(
        self: Any,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> Any: ...

    known = list(signature(arguments).parameters.values())
    if filter is not None:
        known.append(Parameter("filter", Parameter.KEYWORD_ONLY, default=None, annotation=filter | None))
    # Strawberry reads the arguments of a field from here.
    resolver.__signature__ = Signature(known, return_annotation=Any)
    return resolver


def page_request(
    first: int | None,
    after: str | None,
    last: int | None,
    before: str | None,
    key: Callable[[str, str], Any] | None = None,
) -> PageRequest:
    """Checks the arguments; `key(cursor, argument)` decodes a cursor. Raises BadUserInput."""
    decode = key or id_key
    if first is not None and last is not None:
        raise BadUserInput("Give first or last, not both.", field=["last"])
    for name, value in (("first", first), ("last", last)):
        if value is not None:
            require_page_size(name, value)
    limit = first if first is not None else last if last is not None else DEFAULT_PAGE
    return PageRequest(
        limit=limit,
        backwards=last is not None,
        after=None if after is None else decode(after, "after"),
        before=None if before is None else decode(before, "before"),
    )


def id_cursor(identifier: str) -> str:
    return base64.urlsafe_b64encode(identifier.encode()).decode().rstrip("=")


def id_key(cursor: str, argument: str) -> str:
    try:
        key = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        key = ""
    if not is_id(key, key.partition("_")[0]) or id_cursor(key) != cursor:
        raise _foreign(argument)
    return key


def _foreign(argument: str) -> BadUserInput:
    return BadUserInput(
        "This is not a cursor of this connection: use pageInfo.endCursor or an edge's cursor.",
        field=[argument],
    )


def require_own(model: type, request: PageRequest) -> None:
    """Refuses cursors over ids of another kind, which would skip rows silently.

    Raises BadUserInput.
    """
    prefix = prefix_of(model)
    for argument, key in (("after", request.after), ("before", request.before)):
        if isinstance(key, str) and prefix is not None and not is_id(key, prefix):
            raise _foreign(argument)


def narrow(
    statement: Select[Any], key: ColumnElement[Any], request: PageRequest, descending: bool
) -> Select[Any]:
    """Narrows the statement to the rows between the request's cursors."""
    if request.after is not None:
        statement = statement.where(key < request.after if descending else key > request.after)
    if request.before is not None:
        statement = statement.where(key > request.before if descending else key < request.before)
    return statement


def direction(key: ColumnElement[Any], request: PageRequest, descending: bool) -> ColumnElement[Any]:
    return key.desc() if descending != request.backwards else key.asc()


async def page_of(
    context: Context,
    statement: Select[Any],
    request: PageRequest,
    key: Any,
    cursor: Callable[[Any], str] = lambda row: id_cursor(row.id),
    descending: bool = False,
) -> RowPage:
    """A page of a statement over one entity, in the order of its key."""
    require_own(statement.column_descriptions[0]["entity"], request)
    narrowed = narrow(statement, key, request, descending)
    narrowed = narrowed.order_by(direction(key, request, descending)).limit(request.limit + 1)
    rows = list((await context.execute(narrowed)).scalars())
    return RowPage.cut(rows, request, cursor)


async def nested_pages(
    context: Context,
    statement: Select[Any],
    request: PageRequest,
    key: Any,
    parent: Any,
    parents: Sequence[str],
    descending: bool = False,
) -> list[RowPage]:
    """The same page of each parent, in the parents' order, with one statement.

    `parent` is the column, of the entity or of a joined table, that holds the parent's id.
    """
    require_own(statement.column_descriptions[0]["entity"], request)
    narrowed = narrow(statement.where(parent.in_(parents)), key, request, descending)
    rank = func.row_number().over(partition_by=parent, order_by=direction(key, request, descending))
    ranked = narrowed.with_only_columns(
        key.label("key"), parent.label("parent"), rank.label("rank")
    ).subquery()
    # The statement itself is joined, because its options choose the columns.
    rows = await context.execute(
        statement.add_columns(ranked.c.parent)
        .join(ranked, and_(ranked.c.key == key, ranked.c.parent == parent))
        .where(ranked.c["rank"] <= request.limit + 1)
        .order_by(ranked.c.parent, ranked.c["rank"])
    )
    by_parent: dict[str, list[Any]] = {one: [] for one in parents}
    for row, of in rows:
        by_parent[of].append(row)
    return [RowPage.cut(by_parent[one], request, lambda row: id_cursor(row.id)) for one in parents]
