"""One operation on a socket: a query or mutation with its one result, or a subscription with many."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from app.auth.actor import Actor
from app.graphql.context import Context
from app.graphql.engine import dumps
from app.graphql.failures import RequestErrors, internal_error
from app.graphql.http.rates import TooManyRequests
from app.graphql.persisted import requested_hash
from app.graphql.prepared_operation import PreparedOperation
from app.live import frames
from app.live.payload import Batch, Line, Payload
from app.live.subscriber import Subscription
from app.live.ws.protocol import Subscribe
from app.live.ws.send_queue import frames_of

if TYPE_CHECKING:
    from app.live.ws.session import Session


class Operation:
    """Sends to its socket until it is complete, fails, or is ended. It is the sink of its subscription."""

    __slots__ = (
        "_actor",
        "_asked",
        "_ended",
        "_lead",
        "_session",
        "_subscription",
        "_task",
        "_told_at",
        "id",
    )

    def __init__(self, session: "Session", asked: Subscribe, actor: Actor) -> None:
        self.id = asked.id
        self._session = session
        self._actor = actor
        self._asked: Subscribe | None = asked
        self._lead = frames.next_lead(asked.id)
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._ended = False

    def start(self) -> None:
        self._task = self._session.live.hub.spawn(self._run(), "operation")

    def end(self) -> None:
        """Send nothing more. A mutation that has begun is carried out."""
        if self._ended:
            return
        self._ended = True
        if self._subscription is not None:
            self._subscription.end()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def is_idle_since(self, before: float) -> bool:
        """Whether it is a subscription that was sent nothing since then, not even how far it has read."""
        subscription = self._subscription
        return subscription is not None and max(subscription.last_sent_at, self._told_at) <= before

    def tell(self, now: float) -> str:
        """The cursor through which all was sent, for a message that says so now."""
        assert self._subscription is not None  # noqa: S101 - asked only where `is_idle_since`
        self._told_at = now
        return self._session.live.hub.progress(self._subscription)

    def rewire(self) -> None:
        """The outbox can be written to in another way."""
        if self._subscription is not None:
            self._subscription.rewire()

    # What the hub calls.

    @property
    def line(self) -> Line | None:
        write = self._session.outbox.write
        return None if write is None else Line(self._lead, partial(frames_of, self._lead), write)

    @property
    def has_room(self) -> bool:
        return self._session.outbox.has_room

    def push(self, batch: Batch) -> bool:
        return self._session.outbox.batch(self._lead, batch)

    async def send(self, payload: Payload) -> None:
        await self.room()
        self._session.outbox.payload(self._lead, payload)

    async def room(self) -> None:
        await self._session.outbox.room()
        await self._require_open()

    def error(self, errors: list[dict[str, Any]]) -> None:
        if not self._ended:
            self._ended = True
            self._session.ended(self)
            self._session.outbox.text(frames.error_text(self.id, errors))

    async def _require_open(self) -> None:
        """On a closed socket nothing goes on; the session is about to end this."""
        if self._session.outbox.closed:
            await asyncio.get_running_loop().create_future()

    async def _run(self) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None  # noqa: S101 - run once
        live = self._session.live
        try:
            # Nothing is begun on a socket that is about to close: its client asks again elsewhere.
            if not live.is_closing:
                with live.answering(self._session):
                    await self._answer(asked)
                    if live.is_closing:
                        await self._session.outbox.emptied()
        finally:
            self._task = None

    async def _answer(self, asked: Subscribe) -> None:
        live = self._session.live
        try:
            named = requested_hash(asked.extensions) if asked.extensions else None
            prepared = live.engine.prepare(
                asked.query, asked.operation_name, authenticated=True, document_hash=named
            )
            if asked.extensions.get("cost") is True:
                prepared = prepared.telling_cost()
            self._require_rate(prepared)
            if prepared.operation_type == "subscription":
                await self._subscribe(prepared, asked.variables)
            else:
                await self._execute(prepared, asked.variables)
        except RequestErrors as error:
            self.error(error.errors)
        except TooManyRequests as error:
            self.error(RequestErrors.of(error).errors)
        except Exception as fault:
            self.error([internal_error(fault)])

    def _require_rate(self, prepared: PreparedOperation) -> None:
        """Queries and mutations count as requests. A socket's first subscriptions are free, else a deploy, after which
        all clients come back at once, would refuse most of them."""
        live = self._session.live
        if prepared.operation_type == "subscription":
            self._session.subscribed += 1
            if self._session.subscribed <= live.services.settings.max_subscriptions:
                return
        live.rates.require(self._actor)

    async def _subscribe(self, prepared: PreparedOperation, variables: dict[str, Any] | None) -> None:
        subscription = await self._session.live.hub.subscribe(prepared, variables, self._actor, self)
        self._subscription = subscription
        if self._ended:
            subscription.end()

    async def _execute(self, prepared: PreparedOperation, variables: dict[str, Any] | None) -> None:
        live, outbox = self._session.live, self._session.outbox
        execution = live.hub.spawn(self._executed(prepared, variables), "execute")
        try:
            # A mutation is not cut off in its transaction because its client is gone.
            response = await (
                asyncio.shield(execution) if prepared.operation_type == "mutation" else execution
            )
        except asyncio.CancelledError:
            if prepared.operation_type != "mutation":
                execution.cancel()
            raise
        await outbox.room()
        if not self._ended:
            self._ended = True
            self._session.ended(self)
            outbox.text(frames.next_text(self._lead, dumps(response)))
            outbox.text(frames.complete_text(self.id))

    async def _executed(
        self, prepared: PreparedOperation, variables: dict[str, Any] | None
    ) -> dict[str, Any]:
        live = self._session.live
        # A mutation goes on without its socket.
        with live.answering(self._session):
            return await live.engine.execute(prepared, variables, Context(live.services, self._actor))
