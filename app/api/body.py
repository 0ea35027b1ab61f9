"""Reading a request's body to a bound."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request


class BodyTooLarge(Exception):
    """The body is longer than allowed; the rest was not read."""


class BodyCutOff(HTTPException):
    """The client went away before the body's end, which is no fault of ours; nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__(400, "The body ended too early.")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to be longer than `limit` bytes, BodyCutOff."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge
            chunks.append(chunk)
    except ClientDisconnect:
        raise BodyCutOff from None
    return b"".join(chunks)
