"""GraphQL over Server-Sent Events, distinct connections: one request, one stream of `next` and one `complete`.

Every block carries the cursor as its `id:`, so that a browser's own reconnection sends it back in `Last-Event-ID`; that
beats the operation's `after`. A stream ends with an error and `complete` when its credential does, and without
`complete` for a deploy or for a client that is too slow, so that the client comes back.
Source: github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md.
"""

import asyncio
import time
from collections import deque
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.auth.authenticate import Credential
from app.core.errors import RateLimited, Unauthenticated
from app.graphql.context import Context
from app.graphql.engine import dumps
from app.graphql.failures import RequestErrors, internal_error
from app.graphql.http.tcp_progress import StallTimer, limit_unsent, tcp_progress
from app.graphql.prepared_operation import PreparedOperation
from app.live.payload import Batch
from app.live.registry import CREDENTIAL_ENDED, SHUTTING_DOWN, TRY_AGAIN_AFTER, ConnectionRegistry
from app.live.scope_extensions import TRANSPORT
from app.live.sink import HIGH_WATER, LOW_WATER
from app.live.subscription import Subscription

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Type": "text/event-stream; charset=utf-8",
    # nginx would keep events back to fill its buffer.
    "X-Accel-Buffering": "no",
}
PREFIX: Final = "sse"
"""The key of a payload's encoded block."""
PART: Final = 64 * 1024
"""Bytes handed to the server at once; a longer event is handed over whole."""


class SseResponder:
    """Answers requests that prefer `text/event-stream`."""

    def __init__(self, connections: ConnectionRegistry) -> None:
        self._connections = connections

    async def respond(
        self,
        request: Request,
        prepared: PreparedOperation,
        variables: dict[str, Any] | None,
        credential: Credential | None,
    ) -> Response:
        """A stream, or the one answer to a query or mutation. Raises RequestErrors before anything is sent."""
        connections = self._connections
        if prepared.operation_type != "subscription":
            context = Context(connections.services, None if credential is None else credential.actor)
            response = await connections.engine.execute(prepared, variables, context)
            content = event_block("next", dumps(response)) + event_block("complete", b"")
            return Response(content, headers=HEADERS)
        if credential is None:
            raise RequestErrors.of(Unauthenticated("Send an API key or a stream token to subscribe."))
        if connections.is_closing:
            return Response(
                f"{SHUTTING_DOWN}\n",
                503,
                {"Connection": "close", "Retry-After": TRY_AGAIN_AFTER},
                "text/plain",
            )
        if connections.counts.is_full(credential.actor):
            raise RequestErrors.of(RateLimited("The account has too many open streams; close one."))
        if request.method == "HEAD":
            # Only the head of a stream is asked for, so nothing is subscribed.
            connections.engine.root_of(prepared, variables)
            return _unsized(Response(headers=HEADERS))
        stream = EventStreamResponse(connections, credential)
        try:
            after = request.headers.get("last-event-id") or None
            await stream.subscribe(prepared, variables, after)
        except BaseException:
            stream.discard()
            raise
        return stream

    def refuse(self, errors: list[dict[str, Any]]) -> Response:
        """The response to a refused request, as an event stream: `next` with the errors, `complete`."""
        return Response(_last(errors), headers=HEADERS)


class EventStreamResponse(Response):
    """The response to one subscription, and its sink."""

    transport = "sse"

    def __init__(self, connections: ConnectionRegistry, credential: Credential) -> None:
        super().__init__(headers=HEADERS)
        _unsized(self)
        self.credential: Credential | None = credential
        self._connections = connections
        self._actor = credential.actor
        self._subscription: Subscription | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._progress_at = time.monotonic()
        self._stall_timer = StallTimer(connections.timing.stalled)
        self._sent = 0
        # The server's own, where it offers it.
        self._transport: asyncio.Transport | None = None
        self._is_behind = False
        self._is_over = False
        self._is_cut_off = False
        self._sending: asyncio.Task[None] | None = None
        connections.counts.claim(self._actor)
        connections.add(self)

    async def subscribe(
        self, prepared: PreparedOperation, variables: dict[str, Any] | None, after: str | None
    ) -> None:
        """Raises RequestErrors."""
        self._subscription = await self._connections.hub.subscribe(
            prepared, variables, self._actor, self, after
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = scope.get("extensions", {}).get(TRANSPORT)
        if offered:
            self._transport = offered["transport"]
            limit_unsent(offered["transport"])
        sending = self._sending = asyncio.create_task(self._send(send), name="event stream")
        leaving = asyncio.create_task(_disconnected(receive), name="event stream peer")
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.discard()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    def discard(self) -> None:
        """End everything that belongs to the stream."""
        self._is_over = True
        self._wake.set()
        if self._subscription is not None:
            self._subscription.end()
        if self.credential is not None:
            self.credential = None
            self._connections.counts.release(self._actor)
        self._connections.remove(self)

    # Called by the connection registry.

    def forbid(self) -> None:
        error = Unauthenticated(f"{CREDENTIAL_ENDED}.")
        self._cut_off(_last([{"message": error.message, "extensions": error.extensions}]))

    def go_away(self) -> None:
        self._cut_off()

    def _cut_off(self, *last: bytes) -> None:
        """End with these blocks in place of the unsent ones."""
        if self._is_cut_off:
            return
        self._is_cut_off = self._is_over = True
        self._queue = deque(last)
        self._queued = sum(map(len, last))
        self._wake.set()
        if self._subscription is not None:
            self._subscription.end()
        if self._sending is not None:
            # A client that takes nothing would keep it for ever.
            asyncio.get_running_loop().call_later(self._connections.timing.close, self._sending.cancel)

    def maintain(self, now: float) -> None:
        if self._subscription is None or self._is_over:
            return
        if self._is_behind:
            if self._stall_timer.is_over(now, self._bytes_taken):
                self._cut_off()
            return
        self._stall_timer.reset()
        if max(self._subscription.last_sent_at, self._progress_at) <= now - self._connections.timing.idle:
            self._progress_at = now
            self._add(progress_block(self._subscription.cursor))

    # Called by the hub.

    direct_writer = None
    """The task that sends the blocks joins them."""

    @property
    def has_room(self) -> bool:
        return not self._is_behind

    def push(self, batch: Batch) -> bool:
        self._add(_blocks(batch))
        return self.has_room

    async def wait_for_room(self) -> None:
        while self._is_behind:
            self._taken.clear()
            await self._taken.wait()

    def error(self, errors: list[dict[str, Any]]) -> None:
        self._add(_last(errors))
        self._is_over = True

    @property
    def _bytes_taken(self) -> int:
        """Changes when the peer takes bytes, as far as is known."""
        return self._sent if self._transport is None else tcp_progress(self._transport).acked

    def _add(self, block: bytes) -> None:
        if not self._is_over:
            self._queue.append(block)
            self._queued += len(block)
            self._is_behind = self._is_behind or self._queued >= HIGH_WATER
            self._wake.set()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # A first block makes proxies and clients see the headers at once.
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
        try:
            while True:
                if self._queue:
                    await self._send_some(send)
                elif self._is_over:
                    break
                else:
                    self._wake.clear()
                    await self._wake.wait()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            # The client is gone, which is how most streams end.
            return
        except Exception as fault:
            internal_error(fault)

    async def _send_some(self, send: Send) -> None:
        # A part at a time: where the transport is not known, only this shows that the peer takes anything.
        blocks = self._queue.popleft()
        while self._queue and len(blocks) < PART:
            blocks += self._queue.popleft()
        await send({"type": "http.response.body", "body": blocks, "more_body": True})
        # They counted as unsent until now.
        self._queued -= len(blocks)
        self._sent += len(blocks)
        self._is_behind = self._is_behind and self._queued >= LOW_WATER
        self._taken.set()


def event_block(name: str, data: bytes, cursor: str | None = None) -> bytes:
    """An event of an event stream; JSON without line breaks is one data line."""
    head = b"" if cursor is None else f"id: {cursor}\n".encode()
    return head + f"event: {name}\ndata: ".encode() + data + b"\n\n"


def progress_block(cursor: str) -> bytes:
    """A comment that keeps the connection open, with the cursor through which everything was sent."""
    return f":\nid: {cursor}\n\n".encode()


def _last(errors: list[dict[str, Any]]) -> bytes:
    return event_block("next", dumps({"errors": errors})) + event_block("complete", b"")


def _unsized(response: Response) -> Response:
    """The response without a length, which a stream does not have."""
    del response.headers["content-length"]
    return response


def _blocks(batch: Batch) -> bytes:
    kept = batch if len(batch) > 1 else batch.payloads[0]
    blocks: bytes | None = kept.encoded.get(PREFIX)
    if blocks is None:
        blocks = b"".join([event_block("next", payload.body, payload.cursor) for payload in batch])
        kept.keep_encoded(PREFIX, blocks)
    return blocks


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
