"""From recorded events to payloads, for one viewer and several events at once. No payload hides a fault of ours."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from app.auth.actor import Actor
from app.events import cursors, log
from app.events.log import Appended
from app.events.models import EventRecord, Stream
from app.graphql.engine import dumps
from app.graphql.failures import internal_error
from app.live.event_responses import Response, fault_of, respond
from app.live.failed_events import Faulty
from app.live.payload import Page, Payload

if TYPE_CHECKING:
    from app.live.account_feed import Feed
    from app.live.group import Group

PAGE: Final = 100
EVENTS_AT_ONCE: Final = 20
# A page ends early when its payloads are longer than this together.
PAGE_BYTES: Final = 256 * 1024


async def execute(
    feed: "Feed", actor: Actor, jobs: Sequence[tuple["Group", Appended]], slots: asyncio.Semaphore
) -> list[Payload | Faulty]:
    """The outcome of each job, with fresh loaders."""
    if not jobs:
        return []
    async with slots:
        return await _execute(feed, actor, [(group, event.record) for group, event in jobs])


async def read(group: "Group", after: int) -> Page:
    """The next events that the group takes after a sequence, at most `PAGE` and none from a faulty one on.

    Raises CursorExpired, and Faulty for the first of them.
    """
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
            payloads += await _before_fault(group, some, is_first=not payloads)
            size += sum(len(payload.body) for payload in payloads[start:])
            if size > PAGE_BYTES or len(payloads) < start + len(some):
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


async def _before_fault(group: "Group", records: Sequence[EventRecord], *, is_first: bool) -> list[Payload]:
    """The payloads up to the first faulty event. Raises Faulty if that `is_first` of all."""
    payloads: list[Payload] = []
    outcomes = await _execute(group.feed, group.actor, [(group, record) for record in records])
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, Faulty) and not outcome.is_outage:
            # An event that fails can take the others' transaction with it: alone it shows whose fault it was.
            [outcome] = await _execute(group.feed, group.actor, [(group, record)])
        if isinstance(outcome, Faulty):
            if is_first and not payloads:
                raise outcome
            break
        payloads.append(outcome)
    return payloads


async def _execute(
    feed: "Feed", actor: Actor, jobs: Sequence[tuple["Group", EventRecord]]
) -> list[Payload | Faulty]:
    hub = feed.hub
    begun = hub.now()
    asked = [(group.asked, record) for group, record in jobs]
    answers = await respond(hub.services, hub.engine, actor, feed.epoch, asked)
    hub.stats.executions += len(jobs)
    return [
        _outcome(feed, record.sequence, response, begun)
        for (_, record), response in zip(jobs, answers, strict=True)
    ]


def _outcome(feed: "Feed", sequence: int, response: Response, begun: float) -> Payload | Faulty:
    if "errors" in response and (faults := fault_of(response)):
        return Faulty(sequence, faults)
    try:
        body = dumps(response)
    except Exception as fault:
        return Faulty(sequence, [internal_error(fault)])
    return Payload(sequence, feed.cursor(sequence), body, begun)
