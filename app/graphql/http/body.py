"""Reads a request's body up to a bound. The server bounds its time (see `uvicorn_http`)."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

DISCARDED: Final = 64 * 1024 * 1024
"""Bytes beyond the limit that are read and dropped: a client that is cut off while it sends sees no response."""


class BodyTooLarge(Exception):
    """The body is longer than allowed."""


class BodyCutOff(HTTPException):
    """The client disconnected, or stopped sending, before the body's end."""

    def __init__(self) -> None:
        super().__init__(400, "The body ended too early.")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyCutOff."""
    too_large = _declared(request) > limit
    if too_large and (_declared(request) > limit + DISCARDED or "expect" in request.headers):
        # A client that expects a 100 has sent nothing yet, and gets the error before it does.
        raise BodyTooLarge
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit + DISCARDED:
                raise BodyTooLarge
            if size <= limit and not too_large:
                chunks.append(chunk)
    except ClientDisconnect:
        raise BodyCutOff from None
    if too_large or size > limit:
        raise BodyTooLarge
    return b"".join(chunks)


def _declared(request: Request) -> int:
    declared = request.headers.get("content-length", "")
    # Longer numbers are too large in any case, and Python refuses to read the longest.
    return int(declared[:20]) if declared.isdecimal() else 0
