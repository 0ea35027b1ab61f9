"""Workers that crash, stop, run side by side or lose their database: every event arrives and is recorded once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from app.customers.events import CustomerCreated
from app.delivery.queue.destination_queue import FIRST_LIMIT
from app.delivery.queue.models import DeliveryStatus, Lane, Replay
from app.events import log
from app.events.models import EventRecord
from app.server.worker import Worker
from tests.delivery.scene import Scene, open_scene
from tests.services.postgres import Postgres
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.both_databases

KILLED_BEFORE_A_REQUEST = ["dispatch.before_commit", "dispatch.committed", "send.claimed"]
KILLED_AFTER_A_REQUEST = ["send.before_request", "send.response", "send.before_record", "send.recorded"]


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


def ids(receiver: Receiver, path: str = "/") -> Counter[str]:
    """Arrivals by event."""
    return Counter(request.headers["webhook-id"] for request in receiver.to(path))


async def crash(scene: Scene, point: str) -> None:
    """Runs a worker that dies at the failpoint."""
    worker = Worker(scene.services, scene.doorbell)
    running = asyncio.create_task(worker.run())

    def drop_dead() -> None:
        running.cancel()
        # At once where it is, which the worker would end only after its other parts.
        raise asyncio.CancelledError

    scene.points.on[point] = drop_dead
    with pytest.raises(asyncio.CancelledError):
        await running
    del scene.points.on[point]


@pytest.mark.parametrize("point", KILLED_BEFORE_A_REQUEST + KILLED_AFTER_A_REQUEST)
async def test_a_crash_at_any_point_loses_nothing(scene: Scene, receiver: Receiver, point: str) -> None:
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    events = await scene.happen(account, 20)
    await crash(scene, point)
    await scene.run_out_leases()
    async with scene.worker() as worker:
        await scene.settled()
    arrived = ids(receiver)
    assert arrived.keys() == {one.id for one in events}
    # Only deliveries that were in flight and not recorded may arrive twice.
    assert max(arrived.values()) <= (2 if point in KILLED_AFTER_A_REQUEST else 1)
    deliveries = await scene.deliveries()
    assert [one.status for one in deliveries] == [DeliveryStatus.SUCCEEDED.value] * 20
    for one in deliveries:
        assert len(await scene.attempts(one.id)) == one.attempts_made == 1
    assert worker.failures == 0


async def test_a_lease_that_runs_out_is_taken_over(migrated_url: str, receiver: Receiver) -> None:
    async with open_scene(migrated_url, webhook_timeout=2) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url())
        (event,) = await scene.happen(account)
        await crash(scene, "send.before_record")
        (held,) = await scene.deliveries()
        assert held.leased_until is not None
        async with scene.worker():
            await scene.settled()
        (delivery,) = await scene.deliveries()
        (attempt,) = await scene.attempts(delivery.id)
        assert attempt.at >= held.leased_until
        assert (delivery.fence, ids(receiver)) == (2, {event.id: 2})


async def test_an_outcome_after_the_lease_is_not_recorded(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(Answer(500, hold=True))
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    with capture_logs() as logged:
        event = await record_after_the_lease(scene, receiver, account)
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.SUCCEEDED.value, 1)
    assert [one.outcome for one in await scene.attempts(delivery.id)] == ["SUCCEEDED"]
    ids_of_it = {"account_id": account, "destination_id": endpoint.id, "event_id": event.id}
    ids_of_it |= {"delivery_id": delivery.id, "replay_id": None, "attempt": 1}
    lines = [one for one in logged if one["event"] in ("delivery_attempt", "delivery_lease_lost")]
    assert sorted(one["event"] for one in lines) == [
        "delivery_attempt",
        "delivery_attempt",
        "delivery_lease_lost",
    ]
    assert all(ids_of_it.items() <= one.items() for one in lines)


async def record_after_the_lease(scene: Scene, receiver: Receiver, account: str) -> EventRecord:
    """Deliver an event that a slow worker tries first and records after another worker did."""
    async with scene.worker() as slow:
        (event,) = await scene.happen(account)
        await receiver.wait_for(1)
        await scene.run_out_leases()
        async with scene.worker() as quick:
            await scene.settled()
            receiver.release()
            await scene.until(lambda: _lost(slow))
            assert quick.senders["webhook"].stats.leases_lost == 0
    return event


async def _lost(worker: Worker) -> bool:
    return worker.senders["webhook"].stats.leases_lost == 1


async def test_workers_side_by_side_claim_each_delivery_once(scene: Scene, receiver: Receiver) -> None:
    accounts = [await scene.account() for _ in range(3)]
    for account in accounts:
        await scene.endpoint(account, receiver.url(f"/{account}"))
    async with scene.worker() as first, scene.worker() as second:
        for _ in range(5):
            for account in accounts:
                await scene.happen(account, 40)
        await scene.settled()
    for account in accounts:
        assert set(ids(receiver, f"/{account}").values()) == {1}
        assert len(ids(receiver, f"/{account}")) == 200
    deliveries = await scene.deliveries()
    assert {(one.status, one.fence) for one in deliveries} == {(DeliveryStatus.SUCCEEDED.value, 1)}
    assert sum(one.senders["webhook"].recorded for one in (first, second)) == 600
    assert first.senders["webhook"].stats.leases_lost == second.senders["webhook"].stats.leases_lost == 0


async def test_a_stop_finishes_what_is_in_flight_and_gives_back_the_rest(
    scene: Scene, receiver: Receiver
) -> None:
    receiver.default = Answer(hold=True)
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker() as worker:
        await scene.happen(account, 30)
        await receiver.wait_for(int(FIRST_LIMIT))
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        receiver.release()
        await stopping
        deliveries = await scene.deliveries()
        done = [one for one in deliveries if one.status == DeliveryStatus.SUCCEEDED.value]
        assert len(done) == len(receiver.requests) == FIRST_LIMIT
        # All leases were given back, so that another worker goes on at once.
        assert {one.leased_until for one in deliveries} == {None}
    async with scene.worker():
        await scene.settled()
    assert set(ids(receiver).values()) == {1}
    assert len(receiver.requests) == 30


async def test_a_stop_waits_no_longer_than_it_may(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(hold=True)
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker(drain_seconds=0.1) as worker:
        await scene.happen(account)
        await receiver.wait_for(1)
        await worker.stop()
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.leased_until) == (DeliveryStatus.PENDING.value, None)
    assert await scene.attempts(delivery.id) == []


async def test_a_worker_can_be_stopped_before_it_runs(scene: Scene) -> None:
    worker = Worker(scene.services, scene.doorbell)
    await worker.stop()
    await worker.run()


async def test_a_replay_does_not_delay_a_fresh_event(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    await scene.happen(account, 400)
    async with scene.worker():
        await scene.settled()
        receiver.clear()
        receiver.default = Answer(hold=True)
        async with scene.database.transaction() as session:
            session.add(Replay(account_id=account, destination_id=endpoint.id, position=1, through=401))
        # As much of the replay as can be is on its way, and the rest is due.
        await receiver.wait_for(20)
        (fresh,) = await scene.happen(account)
        await scene.until(lambda: _claimed(scene, fresh.id))
        receiver.release()
        await scene.settled()
    order = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(order) == 401
    # It was sent next, or second, although the replay came first.
    assert order.index(fresh.id) <= 20 + 10
    assert len(await scene.deliveries(lane=Lane.REPLAY)) == 400


async def _claimed(scene: Scene, event_id: str) -> bool:
    return [one.fence for one in await scene.deliveries(event_id=event_id)] == [1]


async def test_a_database_that_restarts_stops_nothing(postgres: Postgres, receiver: Receiver) -> None:
    url = await postgres.create_database()
    async with open_scene(url, webhook_timeout=1) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url())
        receiver.plan(Answer(hold=True))
        async with scene.worker() as worker:
            (first,) = await scene.happen(account)
            await receiver.wait_for(1)
            postgres.stop()
            receiver.release()
            await scene.until(lambda: _failed(worker))
            postgres.start()
            # The test's own connections have ended, too.
            await scene.database.engine.dispose()
            (second,) = await scene.happen(account)
            await scene.settled()
            assert ids(receiver).keys() == {first.id, second.id}
            assert [one.status for one in await scene.deliveries()] == [DeliveryStatus.SUCCEEDED.value] * 2
    await postgres.drop_database(url)


async def _failed(worker: Worker) -> bool:
    return worker.failures > 0


async def test_an_event_without_a_ring_is_found_soon_also_after_a_long_dispatch(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    await scene.endpoint(account, receiver.url())

    def dawdle() -> None:
        del scene.points.on["dispatch.before_commit"]
        time.sleep(2)  # as ten thousand events would take

    scene.points.on["dispatch.before_commit"] = dawdle
    async with scene.worker():
        for _ in range(2):
            async with scene.database.transaction() as session:
                log.append(session, account, CustomerCreated.model_validate(CustomerCreated.example))
            await scene.settled()
    assert len(receiver.requests) == 2
