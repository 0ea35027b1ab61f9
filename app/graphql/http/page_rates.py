"""The rate limit of routes that take no credential. The addresses of pages carry tokens, which must not be guessed."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.graphql.http.rates import Rates, TooManyRequests
from app.web.render import page

Handler = Callable[[Request], Awaitable[Response]]

WAIT: Final = "Please wait a moment, then load this page again."
_COUNTED: Final = "voltwire.counted"


def require_page_rate(rates: Rates, request: Request) -> None:
    """Counts a request of an address, once. Raises HTTPException with 429 and `Retry-After`."""
    if _COUNTED in request.scope:
        return
    try:
        rates.require_stranger(request)
    except TooManyRequests as error:
        raise HTTPException(429, error.message, {"Retry-After": error.retry_after}) from None
    request.scope[_COUNTED] = True


def rate_limited(rates: Rates, handler: Handler) -> Handler:
    """The handler, within the rate of the request's address. Raises as `require_page_rate`."""

    async def within_rate(request: Request) -> Response:
        require_page_rate(rates, request)
        return await handler(request)

    return within_rate


def rate_limited_page(rates: Rates, handler: Handler) -> Handler:
    """The same for a handler that answers people: its 429 is a page."""

    async def within_rate(request: Request) -> Response:
        try:
            require_page_rate(rates, request)
        except HTTPException as error:
            response = page("message.html", 429, title="Too many requests", paragraphs=[WAIT])
            response.headers.update(error.headers or {})
            return response
        return await handler(request)

    return within_rate
