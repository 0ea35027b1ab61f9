"""Webhooks from the log to a real receiver: results and their consequences for deliveries and endpoints."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col
from standardwebhooks import Webhook

from app.core import clock
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.endpoints import MAX_ENDPOINTS
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.destinations.webhook.provider import MOST_IN_FLIGHT
from app.delivery.queue.deliveries import send_again
from app.delivery.queue.destination_queue import FIRST_LIMIT
from app.delivery.queue.models import Delivery, DeliveryStatus, Lane
from app.delivery.queue.scheduler import ACCOUNT_SHARE
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Answer, Receiver


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


async def test_a_success_is_recorded(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(Answer(200, body=b"thank you\x00"))
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker() as worker:
        await scene.happen(account)
        await scene.settled()

    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.SUCCEEDED.value, 1)
    assert (delivery.due_at, delivery.leased_until, delivery.fence) == (None, None, 1)
    assert delivery.finished_at is not None
    assert delivery.body == b""
    (attempt,) = await scene.attempts(delivery.id)
    assert (attempt.number, attempt.outcome, attempt.response_status) == (1, "SUCCEEDED", 200)
    assert (attempt.response_body, attempt.error) == ("thank you", None)
    assert delivery.created_at <= attempt.at <= delivery.finished_at
    stamped = (await scene.row(WebhookEndpoint, endpoint.id)).last_success_at
    assert stamped >= attempt.at
    assert (worker.senders["webhook"].recorded, worker.senders["webhook"].stats.fates) == (
        1,
        {"SUCCEEDED": 1},
    )


async def test_a_failure_is_tried_again_by_the_schedule(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(Answer(500, body=b"oops"), 302, 200)
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()

    requests = list(receiver.requests)
    assert [one.headers["voltwire-attempt"] for one in requests] == ["1", "2", "3"]
    assert len({one.body for one in requests}) == len({one.headers["webhook-id"] for one in requests}) == 1
    for one in requests:
        Webhook(endpoint.secret).verify(one.body, one.headers)
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.lane) == (DeliveryStatus.SUCCEEDED.value, Lane.RETRY)
    attempts = await scene.attempts(delivery.id)
    assert [(one.number, one.outcome, one.response_status) for one in attempts] == [
        (1, "HTTP_STATUS", 500),
        (2, "HTTP_STATUS", 302),
        (3, "SUCCEEDED", 200),
    ]
    assert attempts[0].response_body == "oops"
    assert attempts[0].error == "The receiver answered 500."
    assert attempts[1].at - attempts[0].at >= timedelta(milliseconds=40)


async def test_at_the_end_of_the_schedule_it_is_exhausted(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(500)
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        (delivery,) = await scene.deliveries()
        assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.EXHAUSTED.value, 3)
        assert delivery.finished_at is not None

        # By hand it begins anew, with the numbers going on.
        receiver.plan(500)
        receiver.default = Answer(204)
        async with scene.database.transaction() as session:
            await send_again(session, admin(account), KINDS, delivery.id)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.SUCCEEDED.value, 5)
    assert [one.number for one in await scene.attempts(delivery.id)] == [1, 2, 3, 4, 5]
    assert len({one.body for one in receiver.requests}) == 1


async def test_a_receiver_that_is_away_is_recorded_too(scene: Scene, receiver: Receiver) -> None:
    receiver.stop()
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    assert delivery.status == DeliveryStatus.EXHAUSTED.value
    assert {one.outcome for one in await scene.attempts(delivery.id)} == {"CONNECTION"}


async def test_gone_disables_the_endpoint_and_cancels_the_rest(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(410)
    account = await scene.account()
    gone = await scene.endpoint(account, receiver.url("/gone"))
    other = await scene.endpoint(account, receiver.url("/other"), event_types=["meter.*"])
    receiver.on("/gone", 410)
    async with scene.worker():
        # More than are claimed at once, so that some wait in the database.
        await scene.happen(account, 10)
        await scene.settled()
        assert 1 <= len(receiver.requests) <= FIRST_LIMIT
        await scene.happen(account)
        await scene.settled()

    row = await scene.row(WebhookEndpoint, gone.id)
    assert (row.status, row.disabled_reason) == (EndpointStatus.DISABLED.value, "The receiver answered 410.")
    assert row.disabled_at is not None
    assert (await scene.row(WebhookEndpoint, other.id)).status == EndpointStatus.ENABLED.value
    statuses = [one.status for one in await scene.deliveries()]
    assert statuses.count(DeliveryStatus.EXHAUSTED.value) == len(receiver.requests)
    assert statuses.count(DeliveryStatus.CANCELLED.value) == 10 - len(receiver.requests)


async def test_gone_says_nothing_about_where_the_endpoint_points_now(
    scene: Scene, receiver: Receiver
) -> None:
    receiver.on("/old", Answer(410, hold=True))
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url("/old"))
    async with scene.worker():
        await scene.happen(account)
        await receiver.wait_for(1)
        await scene.change(WebhookEndpoint, endpoint.id, url=receiver.url("/new"))
        receiver.release()
        await scene.settled()
        await scene.happen(account)
        await receiver.wait_for(lambda request: request.path == "/new")
        await scene.settled()
    assert (await scene.row(WebhookEndpoint, endpoint.id)).status == EndpointStatus.ENABLED.value


async def test_retry_after_pauses_the_whole_endpoint(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(Answer(503, {"retry-after": "1"}))
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.points.wait_for("send.recorded")
        row = await scene.row(WebhookEndpoint, endpoint.id)
        (first,) = await scene.deliveries()
        await scene.happen(account)
        await scene.settled()

    attempts = [(await scene.attempts(one.id)) for one in await scene.deliveries()]
    asked_at = attempts[0][0].at
    assert row.paused_until >= asked_at + timedelta(seconds=1)
    assert first.status == DeliveryStatus.FAILED.value
    assert first.due_at is not None
    assert first.due_at >= asked_at + timedelta(seconds=1)
    # Neither the retry nor the fresh event came before the pause was over.
    assert [len(one) for one in attempts] == [2, 1]
    for later in (attempts[0][1], attempts[1][0]):
        assert later.at >= asked_at + timedelta(seconds=1)


async def test_a_hanging_receiver_holds_up_nobody(scene: Scene, receiver: Receiver) -> None:
    receiver.on("/dead", Answer(hold=True))
    one, other = await scene.account(), await scene.account()
    dead = await scene.endpoint(one, receiver.url("/dead"))
    beside = await scene.endpoint(one, receiver.url("/beside"))
    healthy = await scene.endpoint(other, receiver.url("/healthy"))
    async with scene.worker():
        await scene.happen(one, 300)
        await scene.happen(other, 100)

        async def arrived() -> bool:
            done = [
                len(await scene.deliveries(destination_id=name, status=DeliveryStatus.SUCCEEDED.value))
                for name in (beside.id, healthy.id)
            ]
            return done == [300, 100]

        await scene.until(arrived)
        # A destination that has not answered yet has a few requests at once and no more.
        assert len(receiver.to("/dead")) == FIRST_LIMIT
        receiver.release()
        await scene.settled()
    assert len({request.headers["webhook-id"] for request in receiver.to("/dead")}) == 300
    assert len(await scene.deliveries(destination_id=dead.id, status=DeliveryStatus.SUCCEEDED.value)) == 300


async def test_however_much_of_one_account_hangs_others_are_served(scene: Scene, receiver: Receiver) -> None:
    """As many endpoints as an account may have, none of which has failed yet, would fill every place there is."""
    receiver.on("/dead", Answer(hold=True))
    one, other = await scene.account(), await scene.account()
    for _ in range(MAX_ENDPOINTS):
        await scene.endpoint(one, receiver.url("/dead"))
    healthy = await scene.endpoint(other, receiver.url("/healthy"))
    places = MOST_IN_FLIGHT * ACCOUNT_SHARE // (ACCOUNT_SHARE + 1)
    async with scene.worker():
        await scene.happen(one, 10)
        await receiver.wait_for(places)
        await scene.happen(other)

        async def arrived() -> bool:
            return len(await scene.deliveries(destination_id=healthy.id, status="SUCCEEDED")) == 1

        await scene.until(arrived)
        assert len(receiver.to("/dead")) == places
        assert {row.attempts_made for row in await scene.deliveries(account_id=one)} == {0}
        receiver.on("/dead", 204)
        receiver.release()
        await scene.settled()
    assert len({request.headers["voltwire-delivery-id"] for request in receiver.to("/dead")}) == 1000


async def test_what_is_cancelled_while_it_fails_stays_cancelled(scene: Scene, receiver: Receiver) -> None:
    receiver.on("/failing", Answer(500, hold=True))
    receiver.on("/working", Answer(200, hold=True))
    account = await scene.account()
    await scene.endpoint(account, receiver.url("/failing"))
    await scene.endpoint(account, receiver.url("/working"))
    async with scene.worker():
        await scene.happen(account)
        await receiver.wait_for(2)
        async with scene.database.transaction() as session:
            await session.execute(
                update(Delivery).values(
                    status=DeliveryStatus.CANCELLED.value, due_at=None, finished_at=clock.now()
                )
            )
        receiver.release()
        await scene.until(lambda: _attempted(scene, 2))
    assert sorted(one.status for one in await scene.deliveries()) == [
        DeliveryStatus.CANCELLED.value,
        # It arrived, and is recorded so.
        DeliveryStatus.SUCCEEDED.value,
    ]


async def _attempted(scene: Scene, count: int) -> bool:
    return sum(one.attempts_made for one in await scene.deliveries()) == count


async def test_a_retry_by_hand_is_not_lost_to_the_attempt_under_way(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(500, 500, Answer(500, hold=True))
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await receiver.wait_for(3)
        (delivery,) = await scene.deliveries()
        # The third attempt, the schedule's last, is under way; begun anew it is not the last any more.
        async with scene.database.transaction() as session:
            changed = {"status": DeliveryStatus.PENDING.value, "schedule_start": 2, "due_at": clock.now()}
            await session.execute(update(Delivery).where(col(Delivery.id) == delivery.id).values(**changed))
        receiver.release()
        await receiver.wait_for(4)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.SUCCEEDED.value, 4)


async def test_what_waits_for_a_deleted_endpoint_is_cancelled(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url(), paused_until=clock.now() + timedelta(hours=1))
    async with scene.worker():
        await scene.happen(account, 3)
        await scene.points.wait_for("dispatch.committed")
        async with scene.database.transaction() as session:
            await session.delete(await session.get(WebhookEndpoint, endpoint.id))
    # By another worker, which does not know of the pause.
    async with scene.worker():
        await scene.settled()
    assert [one.status for one in await scene.deliveries()] == [DeliveryStatus.CANCELLED.value] * 3
    assert len(receiver.requests) == 0
