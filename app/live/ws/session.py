"""A graphql-transport-ws connection, from the acknowledgement to its close code."""

import asyncio
from typing import Any, Final

import structlog
from starlette.requests import HTTPConnection
from starlette.types import Receive

from app.auth.authenticate import Credential
from app.auth.credentials import credential_from_init
from app.core.errors import RateLimited, Unauthenticated
from app.graphql.bounds.limits import STRANGERS_BODY
from app.graphql.failures import internal_error
from app.graphql.http.rates import TooManyRequests
from app.graphql.http.tcp_progress import StallTimer
from app.live.registry import CREDENTIAL_ENDED, PEER, ConnectionRegistry
from app.live.ws import frames, protocol
from app.live.ws.operation import Operation
from app.live.ws.protocol import CloseCode, CloseSocket
from app.live.ws.send_queue import AsgiSendQueue, FrameSendQueue

MOST_EARLY_MESSAGES: Final = 20
"""Messages that may come before `connection_ack`: the initialisation, and pings."""

log = structlog.get_logger(__name__)


class Session:
    """Reads the client's messages one after the other and starts their operations, which send the responses."""

    transport = "websocket"

    def __init__(
        self,
        connections: ConnectionRegistry,
        receive: Receive,
        send_queue: FrameSendQueue | AsgiSendQueue,
        credential: Credential | None,
        client: HTTPConnection,
    ) -> None:
        self.connections = connections
        self.send_queue = send_queue
        self.credential = credential
        self.operations: dict[str, Operation] = {}
        self.subscriptions_begun = 0
        self._early_messages = 0
        self._receive = receive
        self._client = client
        self._initialised = False
        self._closed = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer = StallTimer(connections.timing.stalled)
        if credential is not None:
            connections.counts.claim(credential.actor)
        connections.add(self)
        send_queue.on_change = self._update_writers

    async def run(self) -> None:
        """Serve the connection to its end."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        late = CloseSocket(CloseCode.INIT_TIMEOUT, "connection_init did not come in time")
        self._timer = loop.call_later(self.connections.timing.init, self._close, late)
        try:
            while not self._closed:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    if not self._closed:
                        code = message.get("code") or 1005
                        # A peer's code is no label: it can choose from thousands.
                        self.connections.closes[code if self.send_queue.server_closed(code) else PEER] += 1
                    break
                await self._take(message)
                # A client that sends without reading is read no faster than it takes the answers.
                await self.send_queue.wait_for_room()
        except CloseSocket as closing:
            self._close(closing)
        except asyncio.CancelledError:
            # Closed by us, and the peer did not even take the close: there is nothing left to wait for.
            if not self._closed:
                raise
        except Exception as fault:
            internal_error(fault)
            self._close(CloseSocket(CloseCode.INTERNAL, "Something went wrong on our side"))
        finally:
            self.discard()

    def discard(self) -> None:
        """End everything that belongs to the connection."""
        if self._timer is not None:
            self._timer.cancel()
        for operation in list(self.operations.values()):
            operation.end()
        self.operations.clear()
        self.send_queue.abandon()
        # Without this the connection's parts would refer to each other until the next garbage collection.
        self.send_queue.on_change = None
        if self.credential is not None:
            self.connections.counts.release(self.credential.actor)
            self.credential = None
        self.connections.remove(self)

    def forbid(self) -> None:
        self._close(CloseSocket(CloseCode.FORBIDDEN, CREDENTIAL_ENDED))

    def go_away(self) -> None:
        self._close(CloseSocket(CloseCode.GOING_AWAY, "The server is restarting"))

    def maintain(self, now: float) -> None:
        if self._closed:
            return
        if self.send_queue.has_room:
            self._stall_timer.reset()
            if self._initialised:
                self._send_progress(now)
        elif self._stall_timer.is_over(now, self.send_queue.taken):
            self._close(CloseSocket(CloseCode.TRY_LATER, "Too slow: resume from the last cursor"))

    def ended(self, operation: Operation) -> None:
        """The operation has had its last message."""
        if self.operations.get(operation.id) is operation:
            del self.operations[operation.id]

    def _update_writers(self) -> None:
        for operation in self.operations.values():
            operation.update_writer()

    def _send_progress(self, now: float) -> None:
        before = now - self.connections.timing.idle
        cursors = {
            operation.id: cursor
            for operation in self.operations.values()
            if (cursor := operation.progress_since(before, now)) is not None
        }
        if cursors:
            self.send_queue.text(frames.cursors_text(cursors))

    def _close(self, closing: CloseSocket) -> None:
        if self._closed:
            return
        self._closed = True
        self.connections.closes[closing.code] += 1
        for operation in list(self.operations.values()):
            operation.end()
        self.send_queue.close(closing.code, closing.reason)
        # The server reports a disconnect once the close is out, which is never where the peer takes nothing.
        if self._task is not None:
            self._timer = asyncio.get_running_loop().call_later(
                self.connections.timing.close, self._task.cancel
            )

    async def _take(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise CloseSocket(CloseCode.BAD_MESSAGE, "Send messages as text")
        limit = self.connections.services.settings.max_message
        if len(text) > limit or (4 * len(text) > limit and len(text.encode(errors="replace")) > limit):
            raise CloseSocket(CloseCode.TOO_BIG, f"A message may have {limit} bytes at most")
        if not self._initialised and len(text) > STRANGERS_BODY:
            # The peer has not authenticated yet.
            raise CloseSocket(
                CloseCode.BAD_MESSAGE, f"Before connection_ack a message may have {STRANGERS_BODY} characters"
            )
        if not self._initialised:
            self._early_messages += 1
            if self._early_messages > MOST_EARLY_MESSAGES:
                raise CloseSocket(
                    CloseCode.BAD_MESSAGE,
                    f"At most {MOST_EARLY_MESSAGES} messages may come before connection_ack",
                )
        match protocol.parse(text):
            case protocol.Subscribe() as message:
                self._subscribe(message)
                # A new document takes milliseconds, and others have their turn before the next one.
                await asyncio.sleep(0)
            case protocol.Complete(id=identifier):
                operation = self.operations.pop(identifier, None)
                if operation is not None:
                    operation.end()
            case protocol.Ping(payload=payload):
                self.send_queue.text(frames.pong_text(payload))
            case protocol.Init(payload=payload):
                await self._init(payload)
            case protocol.Pong():
                pass

    async def _init(self, payload: dict[str, Any] | None) -> None:
        if self._initialised:
            raise CloseSocket(CloseCode.SECOND_INIT, "Too many initialisation requests")
        try:
            await self._authenticate(credential_from_init(payload))
        except Unauthenticated as error:
            raise CloseSocket(CloseCode.FORBIDDEN, error.message) from None
        except TooManyRequests as error:
            raise CloseSocket(CloseCode.TRY_LATER, error.message) from None
        except CloseSocket:
            raise
        except Exception as fault:
            # The database is away, which is not the client's fault: with this code it comes back.
            internal_error(fault)
            raise CloseSocket(CloseCode.TRY_LATER, "Credentials cannot be checked now; try again") from None
        if self._closed:
            return
        self._initialised = True
        if self._timer is not None:
            self._timer.cancel()
        self.send_queue.text(frames.ACK)

    async def _authenticate(self, given: str | None) -> None:
        """The credential of `connection_init` beats the headers'. Raises Unauthenticated where there is neither."""
        if given is None:
            if self.credential is None:
                raise Unauthenticated("Send an API key or a stream token in connection_init")
            return
        credential = await self.connections.rates.authenticated(
            self.connections.authenticator, given, self._client
        )
        counts, actor = self.connections.counts, credential.actor
        held = None if self.credential is None else self.credential.actor
        if held != actor:
            # The earlier credential no longer counts, and its own place may be the last one of the account.
            if held is not None:
                counts.release(held)
                self.credential = None
            if counts.is_full(actor):
                raise CloseSocket(CloseCode.TRY_LATER, "The account has too many open sockets")
            counts.claim(actor)
        self.credential = credential

    def _subscribe(self, message: protocol.Subscribe) -> None:
        if not self._initialised or self.credential is None:
            raise CloseSocket(CloseCode.UNAUTHORIZED, "Unauthorized")
        if message.id in self.operations:
            raise CloseSocket(CloseCode.TAKEN_ID, f"Subscriber for {message.id} already exists")
        limit = self.connections.services.settings.max_subscriptions
        if len(self.operations) >= limit:
            error = RateLimited(
                f"A socket may have {limit} operations at once; complete one, or open another socket."
            )
            errors = [{"message": error.message, "extensions": error.extensions}]
            self.send_queue.text(frames.error_text(message.id, errors))
            return
        operation = self.operations[message.id] = Operation(self, message, self.credential.actor)
        operation.start()
