"""The outermost middleware turns an unexpected exception into a 500 with a logged id, and an outage into a 503."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.outages import RETRY_AFTER
from app.graphql.failures import internal_error, is_outage
from app.graphql.http.plain_json import PlainJson

SHUTTING_DOWN: Final = "The server is shutting down; send this again."
OUTCOME_UNKNOWN: Final = (
    "The server is shutting down. If this was to change something, the change may have been made: send it again with "
    "the same idempotency key, which makes it only once, or look before you send it without one."
)
_CHANGES_NOTHING: Final = ("GET", "HEAD", "OPTIONS")


class ErrorMiddleware:
    """ASGI middleware for HTTP. A response that has begun is cut off, so that no client takes it for complete."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            # Only the server cancels a request, at the end of a shutdown.
            if has_begun:
                raise
            message = SHUTTING_DOWN if scope["method"] in _CHANGES_NOTHING else OUTCOME_UNKNOWN
            body = {"code": "INTERNAL", "message": message}
            await PlainJson(body, 503, {"Connection": "close"})(scope, receive, send)
        except Exception as fault:
            if has_begun:
                raise
            error = internal_error(fault)
            body = {"code": "INTERNAL", "message": error["message"], "id": error["extensions"]["id"]}
            status, headers = 500, None
            if is_outage(error):
                status, headers = 503, {"Retry-After": str(RETRY_AFTER)}
            await PlainJson(body, status, headers)(scope, receive, send)
