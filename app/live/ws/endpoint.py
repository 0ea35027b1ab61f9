"""GraphQL over WebSocket: refuses or admits a client, before and right after the upgrade.

The contract leaves some refusals open. A wrong credential in the headers is closed with 4403 after the upgrade, as one
in `connection_init` is. A refused origin is closed with 1008: browsers show a page the reason of a close, but nothing
of a refused upgrade, and clients do not come back after this code. An account with too many sockets gets 429 before
the upgrade if its credential is in the headers, and 1013 (try again later) after `connection_init` otherwise.
"""

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.auth.authenticate import Credential
from app.auth.credentials import credential_from_headers
from app.core.errors import Unauthenticated
from app.graphql.failures import internal_error
from app.graphql.http.origins import REFUSAL, Origins
from app.graphql.http.rates import TooManyRequests
from app.live.registry import SHUTTING_DOWN, TRY_AGAIN_AFTER, ConnectionRegistry
from app.live.ws.protocol import SUBPROTOCOL, CloseCode
from app.live.ws.send_queue import send_queue_of
from app.live.ws.session import Session


class SocketEndpoint:
    """An ASGI application for WebSocket connections."""

    def __init__(self, connections: ConnectionRegistry, origins: Origins) -> None:
        self._connections = connections
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
            await _deny(scope, receive, send, 429, error.message, error.retry_after)
            return
        except Exception as fault:
            internal_error(fault)
            await _deny(scope, receive, send, 503, "Credentials cannot be checked now; try again.")
            return
        # Checked after the credential was read, which takes time.
        if self._connections.is_closing:
            await _deny(scope, receive, send, 503, SHUTTING_DOWN)
            return
        if credential is not None and self._connections.counts.is_full(credential.actor):
            await _deny(scope, receive, send, 429, "The account has too many open sockets.")
            return
        send_queue = send_queue_of(scope, send)
        session = Session(self._connections, receive, send_queue, credential, client)
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
        return await self._connections.rates.authenticated(self._connections.authenticator, given, client)

    async def _refuse(self, send: Send, subprotocol: str | None, code: int, reason: str) -> None:
        self._connections.closes[code] += 1
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        await send({"type": "websocket.close", "code": code, "reason": reason[:120]})


async def _deny(
    scope: Scope, receive: Receive, send: Send, status: int, text: str, retry_after: str = TRY_AGAIN_AFTER
) -> None:
    """Refuse the upgrade with an HTTP status; a server that cannot do that answers 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await PlainTextResponse(f"{text}\n", status, {"Retry-After": retry_after})(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN, "reason": text})
