"""Root fields that read a model: one row by its id, or pages of all rows."""

from inspect import Signature, signature
from typing import Any

import strawberry

from app.graphql.compiled.reads import connection, read_one
from app.graphql.context import Info
from app.graphql.filters import Filter
from app.graphql.pagination import page_request


def by_id(model: Any) -> Any:
    async def resolve(self: Any, info: Info, id: strawberry.ID) -> Any:
        return await read_one(info, model, id)

    return strawberry.field(resolver=resolve)


def pages(model: Any, filter: type[Filter] | None = None, **more: Any) -> Any:
    """Pages in the order of ids, narrowed by a filter of this type; `more` is passed to `connection`."""

    async def resolve(
        self: Any,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        filter: Any = None,
    ) -> Any:
        return await connection(info, model, page_request(first, after, last, before), filter, **more)

    # Strawberry reads the arguments from the signature.
    resolver: Any = resolve
    arguments = signature(resolve).parameters
    narrowing = [] if filter is None else [arguments["filter"].replace(annotation=filter | None)]
    plain = [one for name, one in arguments.items() if name != "filter"]
    resolver.__signature__ = Signature([*plain, *narrowing], return_annotation=Any)
    return strawberry.field(resolver=resolver)
