"""From recorded events to payloads, for one viewer and several events at once."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from app.api.engine import dumps
from app.api.failures import internal_error
from app.auth.actor import Actor
from app.events import cursors, log
from app.events.log import Appended
from app.events.models import EventRecord, Stream
from app.events.payload import Page, Payload
from app.events.responses import respond

if TYPE_CHECKING:
    from app.events.feed import Feed
    from app.events.group import Group

PAGE: Final = 100
EVENTS_AT_ONCE: Final = 20
# A page ends early when its payloads are longer than this together.
PAGE_BYTES: Final = 256 * 1024


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
    keyring = feed.hub.services.keyring
    if stream.epoch != feed.epoch:
        raise cursors.expired(keyring, stream, cursors.OF_ANOTHER_LOG)
    if after < stream.first_sequence - 1:
        raise cursors.expired(keyring, stream, cursors.PAST_RETENTION)


async def _execute(feed: "Feed", actor: Actor, jobs: Sequence[tuple["Group", EventRecord]]) -> list[Payload]:
    hub = feed.hub
    begun = hub.now()
    asked = [(group.asked, record) for group, record in jobs]
    answers = await respond(hub.services, hub.engine, actor, feed.epoch, asked)
    hub.stats.executions += len(jobs)
    return [
        Payload(record.sequence, feed.cursor(record.sequence), _body(response), begun)
        for (_, record), response in zip(jobs, answers, strict=True)
    ]


def _body(response: dict[str, Any]) -> bytes:
    try:
        return dumps(response)
    except Exception as fault:
        return dumps({"errors": [internal_error(fault)], "data": None})
