"""Reading a request's body to a bound, and no slower than a client that means it sends."""

import asyncio
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

STALLED: Final = 20.0
"""Seconds after which a client that sends nothing more is given up."""

SLOWEST: Final = 1024
"""Bytes a second that a client has to send on average after that."""

DISCARDED: Final = 64 * 1024 * 1024
"""Bytes beyond the limit that are read and dropped: a client that is cut off while it sends sees no answer."""


class BodyTooLarge(Exception):
    """The body is longer than allowed."""


class BodyCutOff(HTTPException):
    """The client went away, or as good as that, before the body's end, which is no fault of ours."""

    def __init__(self, detail: str = "The body ended too early.") -> None:
        super().__init__(400, detail)


async def read_body(request: Request, limit: int, stalled: float = STALLED) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyCutOff."""
    too_large = _declared(request) > limit
    if too_large and (_declared(request) > limit + DISCARDED or "expect" in request.headers):
        # Who expects a 100 has sent nothing yet, and is told before it does.
        raise BodyTooLarge
    chunks: list[bytes] = []
    size = 0
    # The loop's clock. Most bodies come at once, and asking the loop is a part of what a short query costs: so the end
    # is put off in steps, and never by more than was earned.
    began = allowed = time.monotonic()
    try:
        async with asyncio.timeout(stalled) as patience:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit + DISCARDED:
                    raise BodyTooLarge
                if size <= limit and not too_large:
                    chunks.append(chunk)
                earned = min(time.monotonic(), began + size / SLOWEST)
                if earned - allowed > stalled / 20:
                    allowed = earned
                    patience.reschedule(allowed + stalled)
    except ClientDisconnect:
        raise BodyCutOff from None
    except TimeoutError:
        raise BodyCutOff("The body came too slowly; send it again.") from None
    if too_large or size > limit:
        raise BodyTooLarge
    return b"".join(chunks)


def _declared(request: Request) -> int:
    declared = request.headers.get("content-length", "")
    # Longer numbers than this are too large in any case, and python refuses to read the longest.
    return int(declared[:20]) if declared.isdecimal() else 0
