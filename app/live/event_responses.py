"""From recorded events to the responses of subscriptions and selections to them.

What can be compiled is one statement for all events of one request. The rest is executed event by event, several at
once over one consistent read, and answers the same.
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
from app.live.subscribed import Asked

Response = dict[str, Any]
Job = tuple[Asked, EventRecord]


class _SharedContext(Context):
    """One context for several executions at once: what one of them read, the others need not read again."""

    async def end(self) -> None:
        """An execution that has ended must not take the session from the others; `close` does."""

    async def close(self) -> None:
        await super().end()


async def respond(
    services: Services, engine: Engine, actor: Actor, epoch: str, jobs: Sequence[Job]
) -> list[Response]:
    """The response of each job for one viewer; all events are of the viewer's account.

    A response with an error that `is_internal` is not to be shown as what became of the event: see `fault_of`.
    """
    by_request: dict[Asked, list[EventRecord]] = {}
    for asked, record in jobs:
        by_request.setdefault(asked, []).append(record)
    found = await _all(*(_compiled(services, actor, *one) for one in by_request.items()))
    ready: Mapping[Asked, dict[int, Response]] = dict(zip(by_request, found, strict=True))
    rest = [(asked, record) for asked, record in jobs if record.sequence not in ready[asked]]
    executed = iter(await _executed(services, engine, actor, epoch, rest))
    return [ready[asked].get(record.sequence) or next(executed) for asked, record in jobs]


def fault_of(response: Response) -> list[dict[str, Any]]:
    """The errors that are faults of ours: where there is one, null stands also for what is there."""
    return [error for error in response.get("errors", ()) if is_internal(error)]


async def _compiled(
    services: Services, actor: Actor, asked: Asked, records: Sequence[EventRecord]
) -> dict[int, Response]:
    """The responses by their events' sequences; what is not there is to be executed."""
    context = Context(services, actor, plan_cache=asked.prepared.plan_cache)
    try:
        failpoints.reach("subscription.execute")
        try:
            found = await read_selected(context, asked.root, EventRecord, "sequence", records)
        finally:
            await context.end()
    except NotCompiled:
        return {}
    except Exception as fault:
        if is_database_away(fault):
            error = internal_error(fault)
            return {record.sequence: _failed([error]) for record in records}
        # The ordinary way says of each field what has failed.
        report("reading for events failed, they are executed one by one", fault)
        return {}
    return {sequence: {"data": {asked.root.path.key: value}} for sequence, value in found.items()}


async def _executed(
    services: Services, engine: Engine, actor: Actor, epoch: str, jobs: Sequence[Job]
) -> list[Response]:
    if not jobs:
        return []
    context = _SharedContext(services, actor)

    async def respond_to(asked: Asked, record: EventRecord) -> Response:
        try:
            event = show_event(context, record, epoch, actor)
            return await engine.execute(asked.prepared, asked.variables, context, event)
        except RequestErrors as error:
            return _failed(error.errors)
        except Exception as fault:
            return _failed([internal_error(fault)])

    try:
        return await _all(*(respond_to(*job) for job in jobs))
    finally:
        await context.close()


async def _all(*work: Any) -> list[Any]:
    """All of it at once; without a task where it is only one."""
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))


def _failed(errors: list[dict[str, Any]]) -> Response:
    return {"errors": errors, "data": None}
