"""The parameters in a request's URL."""

from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request

MOST: Final = 50
"""Parameters that count: no route has more than five, and 64 KiB of them would take a while to parse."""


def parameters_of(request: Request) -> QueryParams:
    """The first parameters of a request."""
    parts = request.scope["query_string"].split(b"&", MOST)[:MOST]
    return QueryParams(b"&".join(parts))
