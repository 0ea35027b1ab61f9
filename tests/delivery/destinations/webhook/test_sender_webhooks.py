"""Webhooks from the log to a real receiver: what is sent, what is recorded, and what an answer changes."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import update
from sqlmodel import col
from standardwebhooks import Webhook

from app import __version__
from app.core import clock
from app.delivery.destinations.webhook.endpoints import MAX_ENDPOINTS
from app.delivery.destinations.webhook.provider import MOST_IN_FLIGHT
from app.delivery.destinations.webhook.signing import new_key_pair, new_secret
from app.delivery.queue.deliveries import send_again, send_test
from app.delivery.queue.models import (
    Delivery,
    DeliveryStatus,
    EndpointStatus,
    Lane,
    WebhookEndpoint,
)
from app.delivery.queue.scheduler import ACCOUNT_SHARE, FIRST_LIMIT
from app.events.catalogue import EventType
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Answer, Receiver, Request


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


def verified(request: Request, secret: str) -> Any:
    """The body, its signature checked by the library that receivers use."""
    return Webhook(secret).verify(request.body, request.headers)


def signed_with(request: Request, public_key: str) -> bool:
    """Whether one of the `v1a` signatures was made with this public key's private one."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_")))
    content = (
        f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    )
    for version, _, signature in (one.partition(",") for one in request.headers["webhook-signature"].split()):
        if version == "v1a":
            with contextlib.suppress(InvalidSignature):
                key.verify(base64.b64decode(signature), content)
                return True
    return False


async def test_a_webhook_is_signed_and_says_what_happened(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url("/hook?tenant=1"))
    async with scene.worker():
        (event,) = await scene.happen(account, name="Zoë")
        await scene.settled()

    (request,) = receiver.requests
    assert (request.method, request.target) == ("POST", "/hook?tenant=1")
    assert verified(request, endpoint.secret) == json.loads(request.body)
    assert signed_with(request, endpoint.public_key)
    content = {
        "type": "customer.created",
        "timestamp": clock.format_utc(event.occurred_at),
        "id": event.id,
        "sequence": 2,
        "data": event.data,
    }
    assert request.json() == content
    assert list(request.json()) == list(content)
    (delivery,) = await scene.deliveries()
    headers = {name: value for name, value in request.headers.items() if name != "webhook-signature"}
    assert headers.pop("webhook-timestamp").isdigit()
    assert headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": str(len(request.body)),
        "content-type": "application/json",
        "user-agent": f"Voltwire/{__version__}",
        "webhook-id": event.id,
        "voltwire-delivery-id": delivery.id,
        "voltwire-attempt": "1",
    }


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
    assert (worker.webhooks.recorded, worker.webhooks.fates) == (1, {"SUCCEEDED": 1})


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
        verified(one, endpoint.secret)
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
            await send_again(session, admin(account), delivery.id)
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


async def test_both_secrets_sign_while_they_overlap(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    encrypt, old, older = scene.services.keyring.encrypt, new_secret(), new_secret()
    old_key, old_public_key = new_key_pair()
    overlapping = await scene.endpoint(
        account,
        receiver.url("/overlapping"),
        previous_secret_encrypted=encrypt(old),
        previous_signing_key_encrypted=encrypt(old_key),
        previous_secret_until=clock.now() + timedelta(hours=1),
    )
    over = await scene.endpoint(
        account,
        receiver.url("/over"),
        previous_secret_encrypted=encrypt(older),
        previous_secret_until=clock.now() - timedelta(seconds=1),
    )
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (request,) = receiver.to("/overlapping")
    assert verified(request, overlapping.secret) == verified(request, old)
    assert signed_with(request, overlapping.public_key)
    assert signed_with(request, old_public_key)
    assert not signed_with(request, over.public_key)
    (request,) = receiver.to("/over")
    verified(request, over.secret)
    assert [one.partition(",")[0] for one in request.headers["webhook-signature"].split()] == ["v1", "v1a"]


async def test_a_test_event_says_that_it_is_one(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        async with scene.database.transaction() as session:
            delivery = await send_test(session, admin(account), endpoint.id, EventType.METER_CREATED)
        await scene.settled()
    (request,) = receiver.requests
    body = verified(request, endpoint.secret)
    assert list(body) == ["type", "timestamp", "id", "sequence", "data", "test"]
    assert body["id"] == request.headers["webhook-id"] == delivery.event_id
    assert body["id"].startswith("evt_test_")
    assert (body["type"], body["sequence"], body["test"]) == ("meter.created", 0, True)
    assert body["data"] == delivery.test_event


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
        # It arrived, and so it says.
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


async def test_a_forgotten_body_is_made_anew_from_the_log(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(Answer(500, {"retry-after": "1"}))
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.points.wait_for("send.recorded")
        async with scene.database.transaction() as session:
            await session.execute(update(Delivery).values(body=None))
        await scene.settled()
    first, second = receiver.requests
    assert first.body == second.body
