"""Endpoints that fail for good are counted, reported once and disabled after five days; their queue is cancelled."""

from collections.abc import AsyncIterator
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest

from app.accounts.models import User
from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.endpoints import delete, update_endpoint
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.metadata import METADATA
from app.delivery.queue import leases
from app.delivery.queue.cancellation import Cancellation
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.models import DeliveryStatus
from app.events.models import EventRecord
from tests.accounts.state import events
from tests.delivery.asking import outgoing_mails
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.02]) as opened:
        yield opened


async def mails(scene: Scene, count: int) -> list[tuple[str, str]]:
    """Subject and text of the mails that were sent, once there are `count`."""
    await scene.points.wait_for("mail.sent", count)
    return stored_mails(scene, count)


def stored_mails(scene: Scene, count: int) -> list[tuple[str, str]]:
    """Subject and text of the mails of any kind, of which there are `count`."""
    files = sorted((scene.services.settings.data_dir / "mail").glob("*.eml"))
    found: list[Any] = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]
    assert len(found) == count
    return [(one["subject"], one.get_body(("plain",)).get_content()) for one in found]


async def account_of(scene: Scene) -> str:
    """An account whose administrator has confirmed the address that notices go to."""
    account = await scene.world.account()
    await scene.change(User, account.user_id, email_confirmed_at=clock.now())
    return account.id


async def change(scene: Scene, account_id: str, endpoint_id: str, **changes: Any) -> None:
    async with scene.database.transaction() as session:
        services = scene.services
        networks = services.settings.webhook_allow_networks
        await update_endpoint(session, admin(account_id), services.keyring, networks, endpoint_id, changes)


async def test_failures_are_counted_until_something_arrives(scene: Scene, receiver: Receiver) -> None:
    receiver.plan(500, 500, 500, 200)
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        failing = await scene.row(WebhookEndpoint, endpoint.id)
        await scene.happen(account)
        await scene.settled()
        well = await scene.row(WebhookEndpoint, endpoint.id)
    (given_up, arrived) = await scene.deliveries()
    first, _ = await scene.attempts(given_up.id)
    assert failing.failures == 2
    assert first.at <= failing.failing_since <= given_up.finished_at
    assert arrived.status == DeliveryStatus.SUCCEEDED.value
    assert (well.failing_since, well.failures) == (None, 0)


async def test_the_first_delivery_that_is_given_up_is_told_once(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(500)
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, receiver.url("/hook"))
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        await scene.happen(account, 3)
        await scene.settled()
        ((subject, text),) = await mails(scene, 1)
    assert subject == f"Webhooks fail: 127.0.0.1:{receiver.port} (Bright Energy)"
    row = await scene.row(WebhookEndpoint, endpoint.id)
    assert (row.status, row.failures) == (EndpointStatus.ENABLED.value, 8)
    since = clock.format_utc(row.failing_since)
    assert f'replayEvents(input: {{webhookEndpointId: "{endpoint.id}", failedSince: "{since}"}})' in text
    assert "The receiver answered 500." in text
    assert "2 attempts in a row" in text


async def test_five_days_of_failures_disable_it(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(500)
    account = await account_of(scene)
    since = clock.now() - timedelta(days=5, seconds=1)
    endpoint = await scene.endpoint(account, receiver.url(), failing_since=since, failures=1233)
    almost = await scene.endpoint(
        account,
        receiver.url("/almost"),
        failing_since=since + timedelta(hours=1),
        told_failing_at=clock.now(),
    )
    async with scene.worker():
        await scene.happen(account, 1)
        await scene.settled()
        ((subject, text),) = await mails(scene, 1)
    row = await scene.row(WebhookEndpoint, endpoint.id)
    assert row.status == EndpointStatus.DISABLED.value
    assert row.disabled_reason.startswith("Nothing has arrived since ")
    assert row.disabled_reason.endswith(
        ": 1,234 attempts in a row failed. The last one: The receiver answered 500."
    )
    assert row.disabled_at is not None
    assert subject == f"Webhooks stopped: 127.0.0.1:{receiver.port} (Bright Energy)"
    assert f'updateWebhookEndpoint(input: {{webhookEndpointId: "{endpoint.id}", status: ENABLED}})' in text
    assert f'failedSince: "{clock.format_utc(since)}"' in text
    assert (await scene.row(WebhookEndpoint, almost.id)).status == EndpointStatus.ENABLED.value
    statuses = [one.status for one in await scene.deliveries(destination_id=endpoint.id)]
    assert statuses == [DeliveryStatus.CANCELLED.value]


async def test_gone_is_told_as_well(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(410)
    account = await account_of(scene)
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        ((subject, text),) = await mails(scene, 1)
    assert subject.startswith("Webhooks stopped: ")
    assert "The receiver answered 410." in text


async def test_other_destinations_are_told_that_it_was_disabled(scene: Scene, receiver: Receiver) -> None:
    receiver.on("/gone", 410)
    account = await account_of(scene)
    gone = await scene.endpoint(account, receiver.url("/gone"))
    await scene.endpoint(account, receiver.url("/other"))
    await scene.subscription(account, "grace@example.com", event_types=["webhook_endpoint.*"])
    async with scene.worker():
        await scene.happen(account)
        await receiver.wait_for(lambda request: request.json()["type"] == "webhook_endpoint.disabled")
        # The administrator gets a notice.
        await scene.points.wait_for("mail.sent")
        await scene.settled()
    ((subject, text),) = [one for one in stored_mails(scene, 2) if one[0].startswith("Webhooks to ")]
    (event,) = await disabled_events(scene, account)
    data = {"webhookEndpointId": gone.id, "reason": "The receiver answered 410."}
    assert (event.subject_id, event.customer_id, event.data) == (gone.id, None, data)
    types = [one.json()["type"] for one in receiver.to("/other")]
    assert types == ["customer.created", "webhook_endpoint.disabled"]
    assert receiver.to("/other")[-1].json()["data"] == data
    assert len(receiver.to("/gone")) == 1
    assert subject == f"Webhooks to 127.0.0.1:{receiver.port} stopped: their endpoint was disabled"
    assert gone.id in text


async def disabled_events(scene: Scene, account_id: str) -> list[EventRecord]:
    found = await events(scene.world, account_id)
    return [one for one in found if one.type == "webhook_endpoint.disabled"]


async def test_an_endpoint_that_the_account_disables_raises_no_event(scene: Scene) -> None:
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, "https://example.com/")
    await change(scene, account, endpoint.id, status=EndpointStatus.DISABLED)
    assert await disabled_events(scene, account) == []


async def test_enabling_and_moving_it_begin_anew(scene: Scene) -> None:
    account = await account_of(scene)
    failed: Any = {"failing_since": clock.now(), "failures": 7, "told_failing_at": clock.now()}
    disabled = await scene.endpoint(account, "https://example.com/", status="DISABLED", **failed)
    moved = await scene.endpoint(account, "https://example.com/", **failed)
    await change(scene, account, disabled.id, status=EndpointStatus.ENABLED)
    await change(scene, account, moved.id, url="https://example.com/new")
    for one in (disabled, moved):
        row = await scene.row(WebhookEndpoint, one.id)
        assert (row.failing_since, row.failures) == (None, 0)
        # The administrators were told today, and are not told again.
        assert row.told_failing_at == failed["told_failing_at"]


async def test_disabling_cancels_a_page_and_the_worker_the_rest(scene: Scene) -> None:
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, "https://example.com/")
    deleted = await scene.endpoint(account, "https://example.com/")
    kept = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account, leases.CANCELLED_AT_ONCE + 1)
    await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
    await change(scene, account, endpoint.id, status=EndpointStatus.DISABLED)
    async with scene.database.transaction() as session:
        await delete(session, admin(account), deleted.id)
    for one in (endpoint, deleted):
        waiting = await scene.deliveries(destination_id=one.id, status=DeliveryStatus.PENDING.value)
        assert len(waiting) == 1
    await Cancellation(scene.database, KINDS).run()
    cancelled = await scene.deliveries(status=DeliveryStatus.CANCELLED.value)
    assert len(cancelled) == 2 * (leases.CANCELLED_AT_ONCE + 1)
    assert {one.destination_id for one in cancelled} == {endpoint.id, deleted.id}
    waiting = await scene.deliveries(destination_id=kept.id, status=DeliveryStatus.PENDING.value)
    assert len(waiting) == leases.CANCELLED_AT_ONCE + 1


async def test_it_is_not_enabled_while_more_than_a_page_waits(scene: Scene) -> None:
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account, 2 * leases.CANCELLED_AT_ONCE)
    await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
    await change(scene, account, endpoint.id, status=EndpointStatus.DISABLED)
    with pytest.raises(Refusal) as refused:
        await change(scene, account, endpoint.id, status=EndpointStatus.ENABLED)
    assert (refused.value.code, refused.value.field) == (ErrorCode.CONFLICT, ["status"])
    await Cancellation(scene.database, KINDS).run()
    await change(scene, account, endpoint.id, status=EndpointStatus.ENABLED)
    assert await scene.deliveries(status=DeliveryStatus.PENDING.value) == []


async def test_one_that_is_disabled_again_and_again_is_told_of_once_a_day(
    scene: Scene, receiver: Receiver
) -> None:
    receiver.default = Answer(410)
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        for _ in range(4):
            await scene.happen(account)
            await scene.settled()
            assert (await scene.row(WebhookEndpoint, endpoint.id)).status == EndpointStatus.DISABLED.value
            await change(scene, account, endpoint.id, status=EndpointStatus.ENABLED)
        await mails(scene, 1)
        yesterday = clock.now() - timedelta(days=1, seconds=1)
        await scene.change(WebhookEndpoint, endpoint.id, told_disabled_at=yesterday)
        await scene.happen(account)
        await scene.settled()
        await mails(scene, 2)


async def test_moving_it_to_and_fro_is_told_of_once_a_day(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(500)
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, receiver.url("/0"))
    async with scene.worker():
        for number in range(1, 4):
            await scene.happen(account)
            await scene.settled()
            await change(scene, account, endpoint.id, url=receiver.url(f"/{number}"))
        await mails(scene, 1)


async def test_nobody_who_has_not_confirmed_is_told(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(410)
    account = await scene.account()
    async with scene.worker():
        for _ in range(3):
            await scene.endpoint(account, receiver.url())
            await scene.happen(account)
            await scene.settled()
        # An account's first user gets a single mail, which asks whether the address is theirs.
        ((subject, text),) = await mails(scene, 1)
    assert subject == "Confirm: notices of Bright Energy"
    assert "/users/confirm/" in text
    assert receiver.url() not in text


async def test_deleting_an_endpoint_cancels_its_notices(scene: Scene, receiver: Receiver) -> None:
    receiver.default = Answer(410)
    account = await account_of(scene)
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker() as worker:
        worker.senders["transactional"].stop(0)
        await scene.happen(account)
        await scene.settled()
        assert len(await outgoing_mails(scene.world)) == 1
        async with scene.database.transaction() as session:
            await delete(session, admin(account), endpoint.id)
        assert await outgoing_mails(scene.world) == []
