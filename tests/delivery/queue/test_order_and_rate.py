"""Endpoints with an order, a rate, headers of their own."""

import itertools
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from app.core import clock
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.cancellation import Cancellation
from app.delivery.queue.deliveries import send_again
from app.delivery.queue.models import DeliveryStatus, Replay
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


def ids(receiver: Receiver) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.requests]


async def test_in_order_each_waits_for_the_one_before(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(500, 500, 200, 500, 200)
    account = await scene.account()
    await scene.endpoint(account, receiver.url(), ordered=True)
    async with scene.worker():
        events = await scene.happen(account, 4)
        await scene.settled()
    first, second, third, fourth = [one.id for one in events]
    assert ids(receiver) == [first, first, first, second, second, third, fourth]
    assert {one.status for one in await scene.deliveries()} == {DeliveryStatus.SUCCEEDED.value}


async def test_what_is_given_up_lets_the_next_go(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(500, 500, 500)
    account = await scene.account()
    await scene.endpoint(account, receiver.url(), ordered=True)
    async with scene.worker():
        events = await scene.happen(account, 2)
        await scene.settled()
    assert ids(receiver) == [events[0].id] * 3 + [events[1].id]
    statuses = [one.status for one in await scene.deliveries()]
    assert statuses == [DeliveryStatus.EXHAUSTED.value, DeliveryStatus.SUCCEEDED.value]


async def test_never_two_at_once_whoever_works(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url(), ordered=True)
    receiver.plan(Answer(200, hold=True))
    async with scene.worker(), scene.worker():
        events = await scene.happen(account, 30)
        await receiver.wait_for(1)
        # While the first is under way, one is retried by hand and a replay is made.
        async with scene.database.transaction() as session:
            session.add(Replay(account_id=account, destination_id=endpoint.id, position=1, through=3))
        await scene.points.wait_for("replay.committed")
        assert len(receiver.requests) == 1
        receiver.release()
        await scene.settled()
        done = (await scene.deliveries(replay_id=""))[0]
        async with scene.database.transaction() as session:
            await send_again(session, admin(account), KINDS, done.id)
        await scene.settled()
        # An order needs no hold, which a killed worker would keep.
        assert (await scene.row(WebhookEndpoint, endpoint.id)).held_by is None
    fresh = [request for request in receiver.requests if "voltwire-replay-id" not in request.headers]
    assert [request.headers["webhook-id"] for request in fresh] == [one.id for one in events] + [events[0].id]
    attempts = [attempt for one in await scene.deliveries() for attempt in await scene.attempts(one.id)]
    attempts.sort(key=lambda attempt: attempt.at)
    for earlier, later in itertools.pairwise(attempts):
        assert later.at >= earlier.at + timedelta(milliseconds=earlier.duration_ms)


async def test_a_replay_keeps_the_order_too(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(500, 200, 500)
    account = await scene.account()
    events = await scene.happen(account, 3)
    endpoint = await scene.endpoint(account, receiver.url(), ordered=True)
    async with scene.database.transaction() as session:
        session.add(Replay(account_id=account, destination_id=endpoint.id, position=1, through=4))
    async with scene.worker():
        await scene.points.wait_for("replay.committed")
        await scene.settled()
    first, second, third = [one.id for one in events]
    assert ids(receiver) == [first, first, second, second, third]


async def test_a_rate_spreads_requests_evenly(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url("/slow"), rate_limit=20)
    await scene.endpoint(account, receiver.url("/fast"))
    async with scene.worker() as one, scene.worker() as other:
        begun = time.monotonic()
        await scene.happen(account, 21)
        await scene.settled()
        took = time.monotonic() - begun
        row = await scene.row(WebhookEndpoint, endpoint.id)
        assert row.held_by in (one.id, other.id)
    assert len(receiver.to("/slow")) == len(receiver.to("/fast")) == 21
    # 21 requests are 20 pauses of 50 ms, whatever the other worker does.
    assert took >= 1.0
    assert (await scene.row(WebhookEndpoint, endpoint.id)).held_by is None


async def test_what_another_worker_holds_is_left_to_it(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    later = clock.from_ms(clock.to_ms(clock.now()) + 1500)
    await scene.endpoint(account, receiver.url(), rate_limit=20, held_by="worker_gone", held_until=later)
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    (attempt,) = await scene.attempts(delivery.id)
    assert attempt.at >= later


async def test_headers_of_its_own_are_sent_but_never_instead_of_ours(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    headers: Any = {"authorization": "Bearer abc", "x-tenant": "7", "webhook-id": "mine"}
    encrypted = scene.services.keyring.encrypt(orjson.dumps(headers).decode())
    await scene.endpoint(account, receiver.url(), headers_encrypted=encrypted)
    async with scene.worker():
        (event,) = await scene.happen(account)
        await scene.settled()
    (request,) = receiver.requests
    assert (request.headers["authorization"], request.headers["x-tenant"]) == ("Bearer abc", "7")
    assert request.headers["webhook-id"] == event.id


async def test_cancellation_leaves_active_destinations_alone(scene: Scene) -> None:
    account = await scene.account()
    await scene.endpoint(account, "https://example.com/", paused_until=clock.from_ms(4_000_000_000_000))
    async with scene.worker():
        await scene.happen(account, 3)
        await scene.points.wait_for("dispatch.committed")
    await Cancellation(scene.database, KINDS).run()
    assert {one.status for one in await scene.deliveries()} == {DeliveryStatus.PENDING.value}
