"""From recorded events to payloads: executed for one viewer, several at once over one consistent read."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from app.api.context import Context
from app.api.engine import dumps
from app.api.failures import RequestErrors, internal_error
from app.auth.actor import Actor
from app.errors import CursorExpired
from app.events import cursors, log
from app.events.graphql import show_event
from app.events.log import Appended
from app.events.models import EventRecord, Stream
from app.events.payload import Page, Payload

if TYPE_CHECKING:
    from app.events.audience import Group
    from app.events.feed import Feed

PAGE: Final = 100
EVENTS_AT_ONCE: Final = 20
# A page ends early when its payloads are longer than this together.
PAGE_BYTES: Final = 256 * 1024


class SharedContext(Context):
    """One context for several executions at once: what one of them read, the others need not read again."""

    async def end(self) -> None:
        """An execution that has ended must not take the session from the others; `close` does."""

    async def close(self) -> None:
        await super().end()


async def execute(
    feed: "Feed", actor: Actor, jobs: Sequence[tuple["Group", Appended]], slots: asyncio.Semaphore
) -> list[Payload]:
    """The payload of each job, with fresh loaders; a fault becomes a payload with errors."""
    if not jobs:
        return []
    async with slots:
        return await _execute(feed, actor, [(group, event.record) for group, event in jobs])


async def read(group: "Group", after: int) -> Page:
    """The next events that the group takes after a sequence, at most `PAGE`. Raises CursorExpired."""
    hub, feed = group.hub, group.feed
    async with hub.page_slots:
        begun = hub.now()
        async with hub.services.database.reading() as session:
            stream = await log.stream(session, feed.account_id)
            records = await log.page(session, group.actor, after, stream.last_sequence, PAGE, group.filter)
        require_reach(feed, stream, after)
        payloads: list[Payload] = []
        size = 0
        for start in range(0, len(records), EVENTS_AT_ONCE):
            some = records[start : start + EVENTS_AT_ONCE]
            payloads += await _execute(feed, group.actor, [(group, record) for record in some])
            size += sum(len(payload.body) for payload in payloads[start:])
            if size > PAGE_BYTES:
                break
    hub.stats.pages += 1
    is_all = len(payloads) == len(records) < PAGE
    return Page(after, stream.last_sequence if is_all else payloads[-1].sequence, payloads, begun)


def require_reach(feed: "Feed", stream: Stream, after: int) -> None:
    """Raises CursorExpired where the log no longer has everything after this sequence."""
    if stream.epoch != feed.epoch or after < stream.first_sequence - 1:
        raise CursorExpired(
            "The log no longer reaches back to where this subscription is: read the state anew and subscribe "
            "after eventStream's latestCursor, or go on from oldestCursor.",
            oldestCursor=cursors.oldest(feed.hub.services.keyring, stream),
        )


async def _execute(feed: "Feed", actor: Actor, jobs: Sequence[tuple["Group", EventRecord]]) -> list[Payload]:
    begun = feed.hub.now()
    context = SharedContext(feed.hub.services, actor)
    try:
        if len(jobs) == 1:
            bodies = [await _body(feed, context, *jobs[0])]
        else:
            bodies = list(await asyncio.gather(*(_body(feed, context, *job) for job in jobs)))
    finally:
        await context.close()
    feed.hub.stats.executions += len(jobs)
    return [
        Payload(record.sequence, feed.cursor(record.sequence), body, begun)
        for (_, record), body in zip(jobs, bodies, strict=True)
    ]


async def _body(feed: "Feed", context: Context, group: "Group", record: EventRecord) -> bytes:
    asked, response = group.asked, dict[str, Any]()
    try:
        event = show_event(context, record, feed.epoch, group.actor)
        response = await feed.hub.engine.execute_event(asked.prepared, asked.variables, context, event)
        return dumps(response)
    except RequestErrors as error:
        response = {"errors": error.errors, "data": None}
    except Exception as fault:
        response = {"errors": [internal_error(fault)], "data": None}
    return dumps(response)
