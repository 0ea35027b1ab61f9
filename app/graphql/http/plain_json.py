"""JSON of plain routes: their answers, and their errors as `{"code", "message"}`."""

from typing import Any

from starlette.responses import JSONResponse, Response

from app.core.errors import Forbidden, Unauthenticated
from app.graphql.http.rates import TooManyRequests


class PlainJson(JSONResponse):
    """JSON that ends with a newline, for people at a terminal."""

    def render(self, content: Any) -> bytes:
        return super().render(content) + b"\n"


def plain_error(status: int, code: str, message: str, **headers: str) -> Response:
    return PlainJson({"code": code, "message": message}, status, headers)


def access_refused(error: Unauthenticated | Forbidden | TooManyRequests) -> Response:
    """401, 403 or 429, with the header that says what to do."""
    if isinstance(error, TooManyRequests):
        return plain_error(429, error.code, error.message, **{"Retry-After": error.retry_after})
    if isinstance(error, Unauthenticated):
        return plain_error(401, error.code, error.message, **{"WWW-Authenticate": 'Bearer realm="voltwire"'})
    return plain_error(403, error.code, error.message)
