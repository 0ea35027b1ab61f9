"""Executes recorded events for a viewer, as they come or in pages of the log. No payload hides a fault of ours."""

import time
from collections.abc import Sequence
from typing import Final

from app.auth.actor import Actor
from app.events import log
from app.events.models import EventRecord
from app.graphql.engine import dumps
from app.graphql.failures import internal_error
from app.live.event_responses import EventResponse, Job, internal_errors, respond
from app.live.failed_events import EventFailed
from app.live.log_head import LogHead
from app.live.payload import Page, Payload, batched
from app.live.runtime import Runtime
from app.live.subscription_request import SubscriptionRequest

PAGE: Final = 100
EVENTS_AT_ONCE: Final = 20
# A page ends early when its payloads are longer than this together.
PAGE_BYTES: Final = 256 * 1024


async def execute(
    runtime: Runtime, head: LogHead, actor: Actor, jobs: Sequence[Job]
) -> list[Payload | EventFailed]:
    """The outcome of each job, with fresh loaders."""
    if not jobs:
        return []
    async with runtime.live_slots:
        return await _execute(runtime, head, actor, jobs)


async def read(
    runtime: Runtime, head: LogHead, actor: Actor, request: SubscriptionRequest, after: int
) -> Page:
    """The next events after a sequence that the request takes: at most `PAGE`, and only those before a failed one.

    Raises CursorExpired, and EventFailed if the first of them fails.
    """
    async with runtime.page_slots:
        started_at = time.monotonic()
        async with runtime.services.database.reading() as session:
            stream = await log.stream(session, head.account_id)
            records = await log.page(session, actor, after, stream.last_sequence, PAGE, request.filter)
        head.require_kept(stream, after)
        payloads: list[Payload] = []
        size = 0
        for start in range(0, len(records), EVENTS_AT_ONCE):
            jobs = [(request, record) for record in records[start : start + EVENTS_AT_ONCE]]
            payloads += await _before_failure(runtime, head, actor, jobs, is_first=not payloads)
            size += sum(len(payload.body) for payload in payloads[start:])
            if size > PAGE_BYTES or len(payloads) < start + len(jobs):
                break
    runtime.stats.pages += 1
    is_all = len(payloads) == len(records) < PAGE
    through = stream.last_sequence if is_all else payloads[-1].sequence
    return Page(after, through, list(batched(payloads)), started_at, time.monotonic())


async def _before_failure(
    runtime: Runtime, head: LogHead, actor: Actor, jobs: Sequence[Job], *, is_first: bool
) -> list[Payload]:
    """The payloads up to the first failed event. Raises EventFailed if that is the page's first event."""
    payloads: list[Payload] = []
    for job, outcome in zip(jobs, await _execute(runtime, head, actor, jobs), strict=True):
        if isinstance(outcome, EventFailed) and not outcome.is_outage:
            # A failed event can take the others' transaction with it: executed alone, it shows whose fault it was.
            [outcome] = await _execute(runtime, head, actor, [job])
        if isinstance(outcome, EventFailed):
            if is_first and not payloads:
                raise outcome
            break
        payloads.append(outcome)
    return payloads


async def _execute(
    runtime: Runtime, head: LogHead, actor: Actor, jobs: Sequence[Job]
) -> list[Payload | EventFailed]:
    started_at = time.monotonic()
    responses = await respond(runtime.services, runtime.engine, actor, head.epoch, jobs)
    runtime.stats.executions += len(jobs)
    return [
        _outcome(head, record, response, started_at)
        for (_, record), response in zip(jobs, responses, strict=True)
    ]


def _outcome(
    head: LogHead, record: EventRecord, response: EventResponse, started_at: float
) -> Payload | EventFailed:
    sequence = record.sequence
    if "errors" in response and (errors := internal_errors(response)):
        return EventFailed(sequence, errors)
    try:
        body = dumps(response)
    except Exception as fault:
        return EventFailed(sequence, [internal_error(fault)])
    return Payload(sequence, head.cursor(sequence), body, started_at)
