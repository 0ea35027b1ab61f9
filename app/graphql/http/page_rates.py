"""The rate limit of pages that need no credential: their addresses carry tokens, which must not be guessed."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from app.graphql.http.rates import Rates, TooManyRequests
from app.web.render import page

Handler = Callable[[Request], Awaitable[Response]]


def rate_limited(rates: Rates, handler: Handler) -> Handler:
    """The handler, within the rate of the request's address: else a page with 429 and `Retry-After`."""

    async def within_rate(request: Request) -> Response:
        try:
            rates.require_stranger(request)
        except TooManyRequests as error:
            wait = "Please wait a moment, then load this page again."
            response = page("message.html", 429, title="Too many requests", paragraphs=[wait])
            response.headers["Retry-After"] = error.retry_after
            return response
        return await handler(request)

    return within_rate
