"""One graphql-transport-ws connection, from the acknowledgement to its close code."""

import asyncio
from typing import Any

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
from app.live import frames
from app.live.registry import PEER, Live
from app.live.ws import protocol
from app.live.ws.operation import Operation
from app.live.ws.protocol import CloseCode, Closing
from app.live.ws.send_queue import AsgiOutbox, FrameOutbox

log = structlog.get_logger(__name__)


class Session:
    """Reads the client's messages one after the other; the answers come from its operations."""

    transport = "websocket"

    def __init__(
        self,
        live: Live,
        receive: Receive,
        outbox: FrameOutbox | AsgiOutbox,
        credential: Credential | None,
        client: HTTPConnection,
    ) -> None:
        self.live = live
        self.outbox = outbox
        self.credential = credential
        self.operations: dict[str, Operation] = {}
        self.subscribed = 0
        self._receive = receive
        self._client = client
        self._initialised = False
        self._closed = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer = StallTimer(live.timing.stalled)
        if credential is not None:
            live.counts.claim(credential.actor)
        live.enter(self)
        outbox.on_change = self._rewire

    async def run(self) -> None:
        """Serve the connection to its end."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        late = Closing(CloseCode.INIT_TIMEOUT, "connection_init did not come in time")
        self._timer = loop.call_later(self.live.timing.init, self._close, late)
        try:
            while not self._closed:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    if not self._closed:
                        code = message.get("code") or 1005
                        # Its own code is no label: there are as many of them as anyone likes.
                        self.live.closes[code if self.outbox.server_closed(code) else PEER] += 1
                    break
                await self._take(message)
                # A client that sends without reading is read no faster than it takes the answers.
                await self.outbox.room()
        except Closing as closing:
            self._close(closing)
        except asyncio.CancelledError:
            # Closed by us, and the peer did not even take the close: there is nothing left to wait for.
            if not self._closed:
                raise
        except Exception as fault:
            internal_error(fault)
            self._close(Closing(CloseCode.INTERNAL, "Something went wrong on our side"))
        finally:
            self.discard()

    def discard(self) -> None:
        """End everything that belongs to the connection."""
        if self._timer is not None:
            self._timer.cancel()
        for operation in list(self.operations.values()):
            operation.end()
        self.operations.clear()
        self.outbox.lose()
        # Else the connection's parts would keep each other until garbage is looked for.
        self.outbox.on_change = None
        if self.credential is not None:
            self.live.counts.release(self.credential.actor)
            self.credential = None
        self.live.leave(self)

    def forbid(self) -> None:
        self._close(Closing(CloseCode.FORBIDDEN, "The credential has expired or was revoked"))

    def go_away(self) -> None:
        self._close(Closing(CloseCode.GOING_AWAY, "The server is restarting"))

    def look_after(self, now: float) -> None:
        if self._closed:
            return
        if self.outbox.has_room:
            self._stall_timer.reset()
            if self._initialised:
                self._tell_progress(now)
        elif self._stall_timer.is_over(now, self.outbox.taken):
            self._close(Closing(CloseCode.TRY_LATER, "Too slow: resume from the last cursor"))

    def ended(self, operation: Operation) -> None:
        """The operation has had its last message."""
        if self.operations.get(operation.id) is operation:
            del self.operations[operation.id]

    def _rewire(self) -> None:
        for operation in self.operations.values():
            operation.rewire()

    def _tell_progress(self, now: float) -> None:
        before = now - self.live.timing.idle
        cursors = {
            operation.id: operation.tell(now)
            for operation in self.operations.values()
            if operation.is_idle_since(before)
        }
        if cursors:
            self.outbox.text(frames.cursors_text(cursors))

    def _close(self, closing: Closing) -> None:
        if self._closed:
            return
        self._closed = True
        self.live.closes[closing.code] += 1
        for operation in list(self.operations.values()):
            operation.end()
        self.outbox.close(closing.code, closing.reason)
        # The server hands us a disconnect once the close is out. Where the peer takes nothing that may be never.
        if self._task is not None:
            self._timer = asyncio.get_running_loop().call_later(self.live.timing.close, self._task.cancel)

    async def _take(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise Closing(CloseCode.BAD_MESSAGE, "Send messages as text")
        limit = self.live.services.settings.max_message
        if len(text) > limit or (4 * len(text) > limit and len(text.encode(errors="replace")) > limit):
            raise Closing(CloseCode.TOO_BIG, f"A message may have {limit} bytes at most")
        if not self._initialised and len(text) > STRANGERS_BODY:
            # Nobody has said yet who they are.
            raise Closing(
                CloseCode.BAD_MESSAGE, f"Before connection_ack a message may have {STRANGERS_BODY} characters"
            )
        match protocol.read(text):
            case protocol.Subscribe() as asked:
                self._subscribe(asked)
            case protocol.Complete(id=identifier):
                operation = self.operations.pop(identifier, None)
                if operation is not None:
                    operation.end()
            case protocol.Ping(payload=payload):
                self.outbox.text(frames.pong_text(payload))
            case protocol.Init(payload=payload):
                await self._init(payload)
            case protocol.Pong():
                pass

    async def _init(self, payload: dict[str, Any] | None) -> None:
        if self._initialised:
            raise Closing(CloseCode.SECOND_INIT, "Too many initialisation requests")
        try:
            await self._authenticate(credential_from_init(payload))
        except Unauthenticated as error:
            raise Closing(CloseCode.FORBIDDEN, error.message) from None
        except TooManyRequests as error:
            raise Closing(CloseCode.TRY_LATER, error.message) from None
        except Closing:
            raise
        except Exception as fault:
            # The database is away, not the client at fault: with this code it comes back.
            internal_error(fault)
            raise Closing(CloseCode.TRY_LATER, "Credentials cannot be checked now; try again") from None
        if self._closed:
            return
        self._initialised = True
        if self._timer is not None:
            self._timer.cancel()
        self.outbox.text(frames.ACK)

    async def _authenticate(self, given: str | None) -> None:
        """The credential of `connection_init` beats the headers'; at least one there must be."""
        if given is None:
            if self.credential is None:
                raise Unauthenticated("Send an API key or a stream token in connection_init")
            return
        credential = await self.live.rates.authenticated(self.live.authenticator, given, self._client)
        counts, actor = self.live.counts, credential.actor
        held = None if self.credential is None else self.credential.actor
        if held != actor:
            # The one it was let in by no longer counts, and may be what fills the account.
            if held is not None:
                counts.release(held)
                self.credential = None
            if counts.is_full(actor):
                raise Closing(CloseCode.TRY_LATER, "The account has too many open sockets")
            counts.claim(actor)
        self.credential = credential

    def _subscribe(self, asked: protocol.Subscribe) -> None:
        if not self._initialised or self.credential is None:
            raise Closing(CloseCode.UNAUTHORIZED, "Unauthorized")
        if asked.id in self.operations:
            raise Closing(CloseCode.TAKEN_ID, f"Subscriber for {asked.id} already exists")
        limit = self.live.services.settings.max_subscriptions
        if len(self.operations) >= limit:
            message = f"A socket may have {limit} operations at once; complete one, or open another socket."
            error = RateLimited(message)
            errors = [{"message": error.message, "extensions": error.extensions}]
            self.outbox.text(frames.error_text(asked.id, errors))
            return
        operation = self.operations[asked.id] = Operation(self, asked, self.credential.actor)
        operation.start()
