"""The oracle of the fault battery: the facts about a destination once everything has ended, whatever went wrong."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from standardwebhooks import Webhook

from app.delivery.queue.models import DeliveryAttempt
from app.events.models import EventRecord
from tests.delivery.scene import Scene

Try = tuple[str, int | None]
"""Outcome and response status of an attempt."""


class Arrived(Protocol):
    """A request as one of the receivers has kept it."""

    @property
    def headers(self) -> dict[str, str]: ...

    @property
    def body(self) -> bytes: ...


async def ended(
    scene: Scene, destination_id: str, events: Sequence[EventRecord], replay_id: str = ""
) -> list[tuple[str, list[Try]]]:
    """The end of the deliveries, one for each event, in their order: status and every attempt."""
    deliveries = await scene.deliveries(destination_id=destination_id, replay_id=replay_id)
    assert [one.event_id for one in deliveries] == [event.id for event in events]
    told = []
    for one in deliveries:
        attempts = await scene.attempts(one.id)
        assert (one.due_at, one.leased_until) == (None, None)
        assert one.finished_at is not None
        assert [attempt.number for attempt in attempts] == list(range(1, one.attempts_made + 1))
        told.append((one.status, tries(attempts)))
    return told


def tries(attempts: Iterable[DeliveryAttempt]) -> list[Try]:
    return [(one.outcome, one.response_status) for one in attempts]


def arrivals(requests: Iterable[Arrived], events: Sequence[EventRecord], secret: str) -> list[int]:
    """The number of times each event came, always signed, under its own id and with the same body."""
    signed = Webhook(secret)
    bodies: dict[str, set[bytes]] = {event.id: set() for event in events}
    came: Counter[str] = Counter()
    for request in requests:
        signed.verify(request.body, request.headers)
        bodies[request.headers["webhook-id"]].add(request.body)
        came[request.headers["webhook-id"]] += 1
    assert max(map(len, bodies.values()), default=0) <= 1
    return [came[event.id] for event in events]


async def check_healthy(
    scene: Scene, destination_id: str, events: Sequence[EventRecord], requests: Iterable[Arrived]
) -> None:
    """Check that each event came exactly once, at the first attempt."""
    assert await ended(scene, destination_id, events) == [("SUCCEEDED", [("SUCCEEDED", 204)])] * len(events)
    assert arrivals(requests, events, scene.secrets[destination_id]) == [1] * len(events)
