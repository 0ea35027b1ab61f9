"""GraphQL over WebSocket: who is let in, before and right after the upgrade.

What was chosen where the contract leaves it open: a wrong credential in the headers is told by 4403 after the upgrade,
as one in `connection_init` is; a page of a refused origin by 1008, for browsers show the page a close's reason but
nothing of a refused upgrade, and clients do not come back after it; an account with too many sockets gets 429 before
the upgrade if the headers say who it is, and 1013 (try again later) after `connection_init` otherwise.
"""

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from app.auth.authenticate import Credential
from app.auth.credentials import credential_from_headers
from app.core.errors import Unauthenticated
from app.graphql.failures import internal_error
from app.graphql.http.origins import REFUSAL, Origins
from app.graphql.http.rates import TooManyRequests
from app.live.registry import SHUTTING_DOWN, TRY_AGAIN_AFTER, Live
from app.live.ws.protocol import SUBPROTOCOL, CloseCode
from app.live.ws.send_queue import outbox_of
from app.live.ws.session import Session


class SocketEndpoint:
    """An ASGI application for WebSocket connections."""

    def __init__(self, live: Live, origins: Origins) -> None:
        self._live = live
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers, client = Headers(scope=scope), HTTPConnection(scope)
        speaks = SUBPROTOCOL in scope.get("subprotocols", ())
        if not self._origins.allows(headers):
            self._origins.log_refusal(headers)
            await self._refuse(send, SUBPROTOCOL if speaks else None, CloseCode.POLICY, REFUSAL)
            return
        if not speaks:
            reason = f"Speak the subprotocol {SUBPROTOCOL}"
            await self._refuse(send, None, CloseCode.WRONG_SUBPROTOCOL, reason)
            return
        try:
            credential = await self._credential(headers, client)
        except Unauthenticated as error:
            await self._refuse(send, SUBPROTOCOL, CloseCode.FORBIDDEN, error.message)
            return
        except TooManyRequests as error:
            await _deny(scope, send, 429, error.message, error.retry_after)
            return
        except Exception as fault:
            internal_error(fault)
            await _deny(scope, send, 503, "Credentials cannot be checked now; try again.", TRY_AGAIN_AFTER)
            return
        # Not before the credential is read, which takes time.
        if self._live.is_closing:
            await _deny(scope, send, 503, SHUTTING_DOWN, TRY_AGAIN_AFTER)
            return
        if credential is not None and self._live.counts.is_full(credential.actor):
            await _deny(scope, send, 429, "The account has too many open sockets.", TRY_AGAIN_AFTER)
            return
        session = Session(self._live, receive, outbox_of(scope, send), credential, client)
        try:
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL, "headers": []})
        except BaseException:
            session.discard()
            raise
        await session.run()

    async def _credential(self, headers: Headers, client: HTTPConnection) -> Credential | None:
        given = credential_from_headers(headers)
        if given is None:
            return None
        return await self._live.rates.authenticated(self._live.authenticator, given, client)

    async def _refuse(self, send: Send, subprotocol: str | None, code: int, reason: str) -> None:
        self._live.closes[code] += 1
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        await send({"type": "websocket.close", "code": code, "reason": reason[:120]})


async def _deny(scope: Scope, send: Send, status: int, text: str, retry_after: str | None = None) -> None:
    """Refuse the upgrade with an HTTP status; a server that cannot do that answers 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN, "reason": text})
        return
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", retry_after.encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
