"""Errors of plain routes as JSON, `{"code", "message"}`."""

from starlette.responses import JSONResponse, Response

from app.core.errors import Forbidden, Unauthenticated
from app.graphql.http.rates import TooManyRequests


def plain_error(status: int, code: str, message: str, **headers: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status, headers)


def access_refused(error: Unauthenticated | Forbidden | TooManyRequests) -> Response:
    """401, 403 or 429, with the header that says what to do."""
    if isinstance(error, TooManyRequests):
        return plain_error(429, error.code, error.message, **{"Retry-After": error.retry_after})
    if isinstance(error, Unauthenticated):
        return plain_error(401, error.code, error.message, **{"WWW-Authenticate": 'Bearer realm="voltwire"'})
    return plain_error(403, error.code, error.message)
