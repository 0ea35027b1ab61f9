"""Fields that are declared once: from a declaration follow its compiled read and its resolver.

    @row_type(models.Meter, "mtr")
    @strawberry.type
    class Meter(Node):
        number: str
        label: str = column("description")
        is_active: bool = computed(lambda read, until: until > read.at, "active_until")
        customer: LazyCustomer = to_one("customer_id")
        readings: Connection[LazyReading] = to_many(Reading.meter_id)

A field without a declaration is the column of its name. A field with a resolver of its own is executed on the row's
object; `strawberry.field(metadata=sourced(…))` above a resolver gives it a compiled read.
"""

from collections.abc import Callable
from typing import Any

import strawberry
from graphql import get_named_type, is_non_null_type
from sqlalchemy import select

from app.auth.actor import visible
from app.core import clock
from app.core.errors import BadUserInput
from app.graphql.compiled.sources import Column, Computed, Listed, Many, One, ReadContext, sourced
from app.graphql.context import Info
from app.graphql.nodes import find_object, row_type_of, shown
from app.graphql.pagination import Connection, nested_pages, page_request, paged


def column(attribute: str) -> Any:
    """The column of another name than the field's."""
    return strawberry.field(metadata=sourced(Column(attribute)))


def computed(
    value: Callable[..., Any],
    *columns: str,
    of: One | None = None,
    of_columns: tuple[str, ...] = (),
    name: str | None = None,
) -> Any:
    """A function of columns; see `Computed`. `name` is the field's in GraphQL where it is no name of Python."""

    def resolve(self: Any, info: Info) -> Any:
        return value(_read_context(self, info), *_values(self.row, columns))

    async def resolve_with_relation(self: Any, info: Info) -> Any:
        assert of is not None  # noqa: S101 - else the other resolver is chosen
        assert of.find is not None  # noqa: S101 - a relation whose columns are computed with has it
        related = await of.find(info.context, self.viewer, self.row)
        others = [None] * len(of_columns) if related is None else _values(related, of_columns)
        return value(_read_context(self, info), *_values(self.row, columns), *others)

    source = Computed(value, columns, of, of_columns)
    resolver: Any = resolve if of is None else resolve_with_relation
    return strawberry.field(resolver=resolver, metadata=sourced(source), name=name)


def to_one(key: str) -> Any:
    """The row of the field's type whose id is in this column."""

    async def resolve(self: Any, info: Info) -> Any:
        model, type_ = _model(info), info._raw_info.return_type
        found = await find_object(info.context, self.viewer, model, getattr(self.row, key) or "")
        if found is None and is_non_null_type(type_):
            # Only after a mutation, whose response is read after its commit: a read sees one state throughout.
            raise BadUserInput(
                f"The {model.__name__.lower()} was deleted by another request meanwhile; read anew."
            )
        return found

    return strawberry.field(resolver=resolve, metadata=sourced(One(key)))


def named_in_data(key: str) -> Any:
    """Of an event: the row of the field's type whose id its data has under this key; None if there is none."""

    async def resolve(self: Any, info: Info) -> Any:
        return await find_object(info.context, self.viewer, _model(info), self.row.data.get(key) or "")

    return strawberry.field(resolver=resolve)


def to_many(parent: Any, **more: Any) -> Any:
    """A nested connection; see `Many`."""
    source = Many(parent, **more)

    async def resolve(self: Any, info: Info, **page: Any) -> Any:
        request, viewer, model = page_request(**page), self.viewer, _model(info)

        async def load(ids: list[str]) -> Any:
            statement = visible(select(model).options(*source.options), viewer)
            if source.through is not None:
                statement = statement.join(source.through, source.on)
            return await nested_pages(
                info.context, statement, request, model.id, source.parent, ids, source.descending
            )

        found = await info.context.loader((id(source), request, viewer), load).load(self.row.id)
        return Connection.of(found, lambda row: shown(row, viewer))

    return strawberry.field(resolver=paged(resolve), metadata=sourced(source))


def to_list(parent: Any, *, key: str) -> Any:
    """A short list; see `Listed`."""
    source = Listed(parent, key)

    async def resolve(self: Any, info: Info) -> Any:
        model = _model(info)

        async def load(ids: list[str]) -> list[list[Any]]:
            statement = select(model).where(parent.in_(ids)).order_by(getattr(model, key))
            found: dict[str, list[Any]] = {one: [] for one in ids}
            for row in (await info.context.execute(statement)).scalars():
                found[getattr(row, parent.key)].append(row)
            return [found[one] for one in ids]

        rows = await info.context.loader((id(source), self.viewer), load).load(self.row.id)
        return [shown(row, self.viewer) for row in rows]

    return strawberry.field(resolver=resolve, metadata=sourced(source))


def _values(row: Any, columns: tuple[str, ...]) -> list[Any]:
    return [getattr(row, name) for name in columns]


def _read_context(self: Any, info: Info) -> ReadContext:
    return ReadContext(self.viewer, info.context.services, clock.now(), info._raw_info.variable_values)


def _model(info: Info) -> Any:
    """The model of the rows that a field leads to."""
    type_: Any = get_named_type(info._raw_info.return_type)
    if type_.name.endswith("Connection"):
        type_ = get_named_type(type_.fields["nodes"].type)
    known = row_type_of(type_.extensions["strawberry-definition"].origin)
    assert known is not None, type_.name  # noqa: S101 - relations lead to rows
    return known.model
