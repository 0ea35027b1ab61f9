"""An operation on a socket: a query or mutation with one result, or a subscription with many."""

import asyncio
from functools import partial
from typing import Any, Protocol

from app.auth.actor import Actor
from app.graphql.context import Context
from app.graphql.engine import dumps
from app.graphql.failures import RequestErrors, internal_error
from app.graphql.http.rates import TooManyRequests
from app.graphql.persisted import requested_hash
from app.graphql.prepared_operation import PreparedOperation
from app.live.payload import Batch
from app.live.registry import ConnectionRegistry, LiveConnection
from app.live.sink import DirectWriter
from app.live.subscription import Subscription
from app.live.ws import frames
from app.live.ws.protocol import Subscribe
from app.live.ws.send_queue import AsgiSendQueue, FrameSendQueue


class Socket(LiveConnection, Protocol):
    """The session of an operation, as the operation uses it; see `Session`."""

    connections: ConnectionRegistry
    send_queue: FrameSendQueue | AsgiSendQueue
    subscriptions_begun: int

    def ended(self, operation: "Operation") -> None: ...


class Operation:
    """Sends to its socket until it is complete, fails, or is ended. It is the sink of its subscription."""

    __slots__ = (
        "_actor",
        "_ended",
        "_message",
        "_prefix",
        "_progress_at",
        "_socket",
        "_subscription",
        "_task",
        "id",
    )

    def __init__(self, socket: Socket, message: Subscribe, actor: Actor) -> None:
        self.id = message.id
        self._socket = socket
        self._actor = actor
        self._message: Subscribe | None = message
        self._prefix = frames.next_prefix(message.id)
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._progress_at = 0.0
        self._ended = False

    def start(self) -> None:
        self._task = self._socket.connections.spawn(self._run(), "operation")

    def end(self) -> None:
        """Send nothing more. A mutation that has begun is carried out."""
        if self._ended:
            return
        self._ended = True
        if self._subscription is not None:
            self._subscription.end()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def progress_since(self, before: float, now: float) -> str | None:
        """The cursor to be sent now; None unless this is a subscription that was sent nothing since `before`."""
        subscription = self._subscription
        if subscription is None or max(subscription.last_sent_at, self._progress_at) > before:
            return None
        self._progress_at = now
        return subscription.cursor

    def update_writer(self) -> None:
        """The send queue's `write` has changed."""
        if self._subscription is not None:
            self._subscription.update_writer()

    # Called by the hub.

    @property
    def direct_writer(self) -> DirectWriter | None:
        write = self._socket.send_queue.write
        if write is None:
            return None
        return DirectWriter(self._prefix, partial(frames.batch_frames, self._prefix), write)

    @property
    def has_room(self) -> bool:
        return self._socket.send_queue.has_room

    def push(self, batch: Batch) -> bool:
        return self._socket.send_queue.batch(self._prefix, batch)

    async def wait_for_room(self) -> None:
        await self._socket.send_queue.wait_for_room()
        await self._require_open()

    def error(self, errors: list[dict[str, Any]]) -> None:
        if not self._ended:
            self._ended = True
            self._socket.ended(self)
            self._socket.send_queue.text(frames.error_text(self.id, errors))

    async def _require_open(self) -> None:
        """On a closed socket, wait for the session to end this operation."""
        if self._socket.send_queue.closed:
            await asyncio.get_running_loop().create_future()

    async def _run(self) -> None:
        message, self._message = self._message, None
        assert message is not None  # noqa: S101 - run once
        connections = self._socket.connections
        try:
            # Nothing is begun on a socket that is about to close: its client asks again elsewhere.
            if not connections.is_closing:
                with connections.in_flight(self._socket):
                    await self._answer(message)
                    if connections.is_closing:
                        await self._socket.send_queue.wait_until_empty()
        finally:
            self._task = None

    async def _answer(self, message: Subscribe) -> None:
        try:
            prepared = self._prepare(message)
            if message.extensions.get("cost") is True:
                prepared = prepared.telling_cost()
            if prepared.operation_type == "subscription":
                await self._subscribe(prepared, message.variables)
            else:
                await self._execute(prepared, message.variables)
        except RequestErrors as error:
            self.error(error.errors)
        except TooManyRequests as error:
            self.error(RequestErrors.of(error).errors)
        except Exception as fault:
            self.error([internal_error(fault)])

    def _prepare(self, message: Subscribe) -> PreparedOperation:
        """Queries, mutations, refused documents and new ones count as requests. Raises TooManyRequests.

        A socket's first subscriptions by documents that the process has cached are free, else a deploy, after which all
        clients come back at once, would refuse most of them.
        """
        connections, counted = self._socket.connections, False

        def count() -> None:
            nonlocal counted
            if not counted:
                connections.rates.require(self._actor)
                counted = True

        try:
            document_hash = requested_hash(message.extensions) if message.extensions else None
            prepared = connections.engine.prepare(
                message.query,
                message.operation_name,
                authenticated=True,
                document_hash=document_hash,
                before_parsing=count,
            )
        except RequestErrors:
            count()
            raise
        if prepared.operation_type == "subscription":
            self._socket.subscriptions_begun += 1
            if self._socket.subscriptions_begun <= connections.services.settings.max_subscriptions:
                return prepared
        count()
        return prepared

    async def _subscribe(self, prepared: PreparedOperation, variables: dict[str, Any] | None) -> None:
        hub = self._socket.connections.hub
        subscription = await hub.subscribe(prepared, variables, self._actor, self)
        self._subscription = subscription
        if self._ended:
            subscription.end()

    async def _execute(self, prepared: PreparedOperation, variables: dict[str, Any] | None) -> None:
        send_queue = self._socket.send_queue
        execution = self._socket.connections.spawn(self._executed(prepared, variables), "execute")
        try:
            # A mutation is not cut off in its transaction because its client is gone.
            response = await (
                asyncio.shield(execution) if prepared.operation_type == "mutation" else execution
            )
            if isinstance(response, RequestErrors):
                raise response
        except asyncio.CancelledError:
            if prepared.operation_type != "mutation":
                execution.cancel()
            raise
        await send_queue.wait_for_room()
        if not self._ended:
            self._ended = True
            self._socket.ended(self)
            send_queue.text(frames.next_text(self._prefix, dumps(response)))
            send_queue.text(frames.complete_text(self.id))

    async def _executed(
        self, prepared: PreparedOperation, variables: dict[str, Any] | None
    ) -> dict[str, Any] | RequestErrors:
        """The response, or the client's own errors, which are no failure of this task."""
        connections = self._socket.connections
        # A mutation goes on without its socket.
        with connections.in_flight(self._socket):
            context = Context(connections.services, self._actor)
            try:
                return await connections.engine.execute(prepared, variables, context)
            except RequestErrors as error:
                return error
