"""Executes subscriptions and selections for recorded events.

A request that can be compiled is one statement for all its events. The others are executed event by event, several at
once over one consistent read, with the same responses.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from app.auth.actor import Actor
from app.core import failpoints
from app.core.outages import is_database_away, report
from app.events.models import EventRecord
from app.graphql.compiled.reads import read_selected
from app.graphql.compiled.values import NotCompiled
from app.graphql.context import Context, Services
from app.graphql.engine import Engine
from app.graphql.events import show_event
from app.graphql.failures import RequestErrors, internal_error, is_internal
from app.live.subscription_request import SubscriptionRequest

EventResponse = dict[str, Any]
Job = tuple[SubscriptionRequest, EventRecord]


class _SharedContext(Context):
    """Shared by several executions at once: a row that one of them has read, the others need not read again."""

    async def end(self) -> None:
        """Does nothing: an execution that has ended must not take the session from the others, as `close` does."""

    async def close(self) -> None:
        await super().end()


async def respond(
    services: Services, engine: Engine, actor: Actor, epoch: str, jobs: Sequence[Job]
) -> list[EventResponse]:
    """The response of each job for one viewer; all events are of the viewer's account.

    A response with `internal_errors` must not be shown: its nulls may stand for objects that exist.
    """
    by_request: dict[SubscriptionRequest, list[EventRecord]] = {}
    for request, record in jobs:
        by_request.setdefault(request, []).append(record)
    found = await _all(*(_compiled(services, actor, *some) for some in by_request.items()))
    ready: Mapping[SubscriptionRequest, dict[int, EventResponse]] = dict(zip(by_request, found, strict=True))
    rest = [(request, record) for request, record in jobs if record.sequence not in ready[request]]
    executed = iter(await _executed(services, engine, actor, epoch, rest))
    return [ready[request].get(record.sequence) or next(executed) for request, record in jobs]


def internal_errors(response: EventResponse) -> list[dict[str, Any]]:
    """The errors that are faults of ours."""
    return [error for error in response.get("errors", ()) if is_internal(error)]


async def _compiled(
    services: Services, actor: Actor, request: SubscriptionRequest, records: Sequence[EventRecord]
) -> dict[int, EventResponse]:
    """Responses by their events' sequences; an event without one is to be executed."""
    context = Context(services, actor, plan_cache=request.prepared.plan_cache)
    try:
        failpoints.reach("subscription.execute")
        try:
            found = await read_selected(context, request.root, EventRecord, "sequence", records)
        finally:
            await context.end()
    except NotCompiled:
        return {}
    except Exception as fault:
        if is_database_away(fault):
            error = internal_error(fault)
            return {record.sequence: _failed([error]) for record in records}
        # Executed one by one, the response names each field that has failed.
        report("reading for events failed, they are executed one by one", fault)
        return {}
    return {sequence: {"data": {request.root.path.key: value}} for sequence, value in found.items()}


async def _executed(
    services: Services, engine: Engine, actor: Actor, epoch: str, jobs: Sequence[Job]
) -> list[EventResponse]:
    if not jobs:
        return []
    context = _SharedContext(services, actor)

    async def respond_to(request: SubscriptionRequest, record: EventRecord) -> EventResponse:
        try:
            event = show_event(context, record, epoch, actor)
            return await engine.execute(request.prepared, request.variables, context, event)
        except RequestErrors as error:
            return _failed(error.errors)
        except Exception as fault:
            return _failed([internal_error(fault)])

    try:
        return await _all(*(respond_to(*job) for job in jobs))
    finally:
        await context.close()


async def _all(*work: Any) -> list[Any]:
    """The results of all work at once; a single piece of work gets no task."""
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))


def _failed(errors: list[dict[str, Any]]) -> EventResponse:
    return {"errors": errors, "data": None}
