"""The parameters in a request's address."""

from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request

MOST: Final = 50
"""Parameters that count; nothing here has more than five, and 64 KiB of them would take a while to read."""


def parameters_of(request: Request) -> QueryParams:
    """The first of a request's parameters."""
    parts = request.scope["query_string"].split(b"&", MOST)[:MOST]
    return QueryParams(b"&".join(parts))
