"""Replays: events sent to one endpoint again, in a lane of their own."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.events import WebhookEndpointDisabled
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.metadata import METADATA
from app.delivery.queue.models import DeliveryStatus, Lane, Replay
from app.delivery.queue.replay_worker import EVENTS_AT_ONCE, EVENTS_SEARCHED, ReplayWorker
from app.events.models import EventRecord
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05]) as opened:
        yield opened


async def replay(scene: Scene, account_id: str, endpoint_id: str, through: int, **values: Any) -> Replay:
    made = Replay(
        account_id=account_id,
        destination_id=endpoint_id,
        through=through,
        **{"position": 0} | values,
    )
    async with scene.database.transaction() as session:
        session.add(made)
    return made


async def finished(scene: Scene, replay_id: str) -> bool:
    row = await scene.row(Replay, replay_id)
    return bool(row.position == row.through)


async def test_a_replay_reaches_an_endpoint_that_was_made_later(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    events = await scene.happen(account, 5)
    endpoint = await scene.endpoint(account, receiver.url(), event_types=["customer.created"])
    async with scene.worker():
        # Sequence 1 is the account's user.created, which this endpoint does not take.
        again = await replay(scene, account, endpoint.id, through=5)
        await scene.until(lambda: finished(scene, again.id))
        await scene.settled()
    requests = list(receiver.requests)
    assert sorted(one.headers["webhook-id"] for one in requests) == sorted(one.id for one in events[:4])
    assert {one.headers["voltwire-replay-id"] for one in requests} == {again.id}
    deliveries = await scene.deliveries()
    assert [one.event_sequence for one in deliveries] == [2, 3, 4, 5]
    assert {(one.lane, one.replay_id) for one in deliveries} == {(Lane.REPLAY, again.id)}


async def test_a_long_replay_is_made_in_pages_and_each_delivery_once(scene: Scene) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account, EVENTS_AT_ONCE + 100)
    again = await replay(scene, account, endpoint.id, through=EVENTS_AT_ONCE + 101, position=1)
    told: list[Any] = []
    await ReplayWorker(scene.database, KINDS, METADATA, lambda ids, lane: told.append((ids, lane))).run()
    assert told == [([endpoint.id], Lane.REPLAY)] * 2
    made = await scene.deliveries(replay_id=again.id)
    assert [one.event_sequence for one in made] == list(range(2, EVENTS_AT_ONCE + 102))


async def test_a_page_ends_however_few_of_its_events_are_wanted(scene: Scene) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account, 3)
    pages = 3
    again = await replay(scene, account, endpoint.id, through=4, position=4 - pages * EVENTS_SEARCHED)
    before = scene.points.counts["replay.committed"]
    await ReplayWorker(scene.database, KINDS, METADATA, lambda *_: None).run()
    assert scene.points.counts["replay.committed"] - before == pages
    assert await finished(scene, again.id)
    assert [one.event_sequence for one in await scene.deliveries()] == [1, 2, 3, 4]


async def test_what_another_worker_fills_is_left_to_it(postgres_url: str) -> None:
    async with open_scene(postgres_url) as scene:
        account = await scene.account()
        endpoint = await scene.endpoint(account, "https://example.com/")
        again = await replay(scene, account, endpoint.id, through=1)
        worker = ReplayWorker(scene.database, KINDS, METADATA, lambda *_: None)
        async with scene.database.transaction() as session:
            await session.execute(select(Replay).where(col(Replay.id) == again.id).with_for_update())
            await worker.run()
            assert not await finished(scene, again.id)
        await worker.run()
        assert await finished(scene, again.id)


async def test_only_what_failed_since_a_time_is_sent_again(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    other = await scene.endpoint(account, receiver.url("/other"))
    async with scene.worker():
        await scene.happen(account, 2)
        await scene.settled()
        receiver.default = Answer(500)
        receiver.on("/other", 204)
        failed = await scene.happen(account, 3)
        await scene.settled()
        receiver.default = Answer(204)
        await scene.happen(account, 2)
        await scene.settled()
        assert len(await scene.deliveries(status=DeliveryStatus.EXHAUSTED.value)) == 3

        since = clock.now() - timedelta(hours=1)
        again = await replay(scene, account, endpoint.id, through=8, failed_since=since)
        await scene.until(lambda: finished(scene, again.id))
        await scene.settled()
        made = await scene.deliveries(replay_id=again.id)
        assert [one.event_id for one in made] == [one.id for one in failed]
        assert {one.status for one in made} == {DeliveryStatus.SUCCEEDED.value}
        assert {one.destination_id for one in made} == {endpoint.id}

        # They have arrived now, so a second replay has nothing to do, and one from later on had nothing either.
        for moment in (since, clock.now() + timedelta(hours=1)):
            more = await replay(scene, account, endpoint.id, through=8, failed_since=moment)
            await scene.until(lambda more=more: finished(scene, more.id))
            assert await scene.deliveries(replay_id=more.id) == []
    assert len(await scene.deliveries(destination_id=other.id)) == 7


async def test_what_came_up_while_the_endpoint_was_disabled_is_caught_up_as_well(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    await scene.happen(account)
    endpoint = await scene.endpoint(account, receiver.url())
    began = clock.now()
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        receiver.default = Answer(410)
        missed = await scene.happen(account)
        await scene.settled()
        missed += await scene.happen(account, 2)
        await scene.settled()
        receiver.default = Answer(204)
        async with scene.database.transaction() as session:
            await endpoints.update_endpoint(
                session,
                admin(account),
                scene.services.keyring,
                (),
                endpoint.id,
                {"status": EndpointStatus.ENABLED},
            )
        await scene.happen(account)
        await scene.settled()
        # The event that tells of its end was not told to it either.
        again = await replay(scene, account, endpoint.id, through=7, failed_since=began)
        await scene.until(lambda: finished(scene, again.id))
        await scene.settled()
        made = await scene.deliveries(replay_id=again.id)
        async with scene.database.reading() as session:
            is_disabling = col(EventRecord.type) == WebhookEndpointDisabled.type
            disabling = (await session.execute(select(EventRecord.id).where(is_disabling))).scalar_one()
        ids = [one.id for one in missed]
        assert [one.event_id for one in made] == [ids[0], disabling, *ids[1:]]
        assert {one.status for one in made} == {DeliveryStatus.SUCCEEDED.value}
        once_more = await replay(scene, account, endpoint.id, through=7, failed_since=began)
        await scene.until(lambda: finished(scene, once_more.id))
        assert await scene.deliveries(replay_id=once_more.id) == []


async def test_what_still_waits_is_not_sent_twice(migrated_url: str, receiver: Receiver) -> None:
    """A replay takes the place of the schedule, and a second replay finds what the first has made."""
    async with open_scene(migrated_url, webhook_retry_schedule=[3600]) as scene:
        account = await scene.account()
        endpoint = await scene.endpoint(account, receiver.url())
        since = clock.now()
        receiver.default = Answer(500)
        async with scene.worker():
            await scene.happen(account, 3)
            await scene.until(lambda: failed(scene, 3))
        receiver.clear()
        receiver.default = Answer(204)
        first = await replay(scene, account, endpoint.id, through=4, failed_since=since)
        second = await replay(scene, account, endpoint.id, through=4, failed_since=since)
        await ReplayWorker(scene.database, KINDS, METADATA, lambda *_: None).run()
        assert len(await scene.deliveries(replay_id=first.id)) == 3
        assert await scene.deliveries(replay_id=second.id) == []
        async with scene.worker():
            await scene.settled()
        assert len(receiver.requests) == 3
        assert {one.status for one in await scene.deliveries(replay_id="")} == {
            DeliveryStatus.CANCELLED.value
        }
        assert {one.due_at for one in await scene.deliveries()} == {None}


async def failed(scene: Scene, count: int) -> bool:
    return len(await scene.deliveries(status=DeliveryStatus.FAILED.value)) == count


async def test_a_replay_ends_with_its_endpoint(scene: Scene) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account, 3)
    again = await replay(scene, account, endpoint.id, through=4)
    await scene.change(WebhookEndpoint, endpoint.id, status=EndpointStatus.DISABLED.value)
    await ReplayWorker(scene.database, KINDS, METADATA, lambda *_: None).run()
    row = await scene.row(Replay, again.id)
    assert (row.is_cancelled, row.position) == (True, 0)
    assert await scene.deliveries() == []
