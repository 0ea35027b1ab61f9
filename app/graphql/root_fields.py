"""Root fields that read a model: one row by its id, or pages of all rows."""

from typing import Any

import strawberry

from app.graphql.compiled.reads import connection, read_one
from app.graphql.context import Info
from app.graphql.filters import Filter
from app.graphql.pagination import page_request, paged


def by_id(model: Any) -> Any:
    async def resolve(self: Any, info: Info, id: strawberry.ID) -> Any:
        return await read_one(info, model, id)

    return strawberry.field(resolver=resolve)


def pages(model: Any, filter: type[Filter] | None = None, **more: Any) -> Any:
    """Pages in the order of ids, narrowed by a filter of this type; `more` is passed to `connection`."""

    async def resolve(self: Any, info: Info, filter: Any = None, **page: Any) -> Any:
        return await connection(info, model, page_request(**page), filter, **more)

    return strawberry.field(resolver=paged(resolve, filter))
