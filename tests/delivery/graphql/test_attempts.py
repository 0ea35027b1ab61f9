"""The request of each attempt in the API: exact to the byte, or null."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.customers import actions as customers
from app.db.database import run_script
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook import custom_headers, endpoints
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.graphql import attempts as graphql_attempts
from app.delivery.queue import deliveries
from app.delivery.queue.models import Delivery, DeliveryAttempt
from app.outbound.mail.mail_files import MailFiles
from tests.accounts.state import reads
from tests.delivery.scene import Scene, admin, open_scene, send_test
from tests.services.receiver import Receiver
from tests.support import TestAccount

SENT = """query ($first: Int, $types: [EventType!]) { deliveries(first: $first, filter: {eventTypes: $types}) {
    nodes { id attempts { number requestBody requestHeaders } } } }"""
OWN = {"x-api-key": "the receiver's own secret", "x-tag": "short"}


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


async def shown(scene: Scene, account: TestAccount, **variables: Any) -> list[dict[str, Any]]:
    """The attempts of all deliveries, the newest delivery first."""
    found = (await scene.world.data(SENT, variables, key=account.key))["deliveries"]["nodes"]
    return [attempt for one in found for attempt in one["attempts"]]


def as_sent(receiver: Receiver) -> list[tuple[str, dict[str, str]]]:
    """Body and headers of each request that came, but for those of the connection and the account's own."""
    ours = ("content-type", "user-agent", "webhook-", "voltwire-")
    return [
        (
            request.body.decode(),
            {name: value for name, value in request.headers.items() if name.startswith(ours)},
        )
        for request in receiver.requests
    ]


def of_ours(attempt: dict[str, Any]) -> tuple[str, dict[str, str]]:
    headers = {name: value for name, value in attempt["requestHeaders"].items() if name not in OWN}
    return attempt["requestBody"], headers


@pytest.mark.parametrize("selection", [None, "{ name ... on CustomerCreatedEvent { data customer { id } } }"])
async def test_each_attempt_shows_what_it_sent(
    scene: Scene, receiver: Receiver, selection: str | None
) -> None:
    account = await scene.world.account()
    keyring = scene.services.keyring
    receiver.plan(500, 500)
    encrypted = {"headers_encrypted": keyring.encrypt(json.dumps(OWN))}
    endpoint = await scene.endpoint(account.id, receiver.url(), selection=selection, **encrypted)
    async with scene.worker():
        await scene.happen(account.id, name="Zoë")
        await scene.settled()
        # Neither a new secret nor another selection changes what was sent before.
        async with scene.database.transaction() as session:
            await endpoints.rotate_secret(session, admin(account.id), keyring, endpoint.id, 0)
        await scene.change(WebhookEndpoint, endpoint.id, selection="{ id }", headers_encrypted=None)
        (delivery,) = await scene.deliveries()
        async with scene.database.transaction() as session:
            await deliveries.send_again(session, admin(account.id), KINDS, delivery.id)
        await scene.settled()
    attempts = await shown(scene, account)
    assert [one["number"] for one in attempts] == [1, 2, 3, 4]
    assert [of_ours(one) for one in attempts] == as_sent(receiver)
    masked = custom_headers.masked(OWN)
    assert masked == {"x-api-key": "••••cret", "x-tag": "••••"}
    own = [{name: value for name, value in one["requestHeaders"].items() if name in OWN} for one in attempts]
    assert own == [masked, masked, masked, {}]
    for request in receiver.requests[:3]:
        assert {name: request.headers[name] for name in OWN} == OWN
    assert len({request.body for request in receiver.requests}) == 1


async def test_a_test_event_shows_what_it_sent(scene: Scene, receiver: Receiver) -> None:
    account = await scene.world.account()
    endpoint = await scene.endpoint(account.id, receiver.url())
    async with scene.worker():
        async with scene.database.transaction() as session:
            await send_test(session, admin(account.id), endpoint.id, "meter.created")
        await scene.settled()
    assert [of_ours(one) for one in await shown(scene, account)] == as_sent(receiver)


async def test_a_body_about_a_deleted_customer_is_shown_no_more(scene: Scene, receiver: Receiver) -> None:
    account = await scene.world.account()
    actor = admin(account.id)
    await scene.endpoint(account.id, receiver.url())
    async with scene.worker():
        async with scene.database.transaction() as session:
            ada = await run_script(
                session, customers.create(session, actor, name="Ada", email="ada@example.com")
            )
        await scene.settled()
        async with scene.database.transaction() as session:
            services = scene.services
            files = MailFiles(services.settings.mail_folder)
            await customers.delete(session, actor, services.keyring, ada.id, files)
        (gone,) = await shown(scene, account)
        (delivery,) = await scene.deliveries()
        async with scene.database.transaction() as session:
            await deliveries.send_again(session, actor, KINDS, delivery.id)
        await scene.settled()
    before, after = await shown(scene, account)
    assert gone == before
    assert before["requestBody"] is None
    assert before["requestHeaders"] == as_sent(receiver)[0][1]
    # Sent once more it is another one, without the person.
    assert of_ours(after) == as_sent(receiver)[1]
    assert "Ada" not in after["requestBody"]


async def test_what_was_not_sent_is_not_shown(scene: Scene, receiver: Receiver) -> None:
    account = await scene.world.account()
    endpoint = await scene.endpoint(account.id, receiver.url())
    subscription = await scene.subscription(account.id, "grace@example.com")
    async with scene.worker():
        await scene.happen(account.id)
        await scene.settled()
    (by_hook,) = await scene.deliveries(destination_id=endpoint.id)
    (by_mail,) = await scene.deliveries(destination_id=subscription)
    async with scene.database.transaction() as session:
        # An attempt of an earlier version, which kept nothing of it.
        first = await session.get_one(DeliveryAttempt, (by_hook.id, 1))
        first.request_headers = first.request_digest = None
    assert len(await scene.attempts(by_mail.id)) == 1
    nothing = {"number": 1, "requestBody": None, "requestHeaders": None}
    assert await shown(scene, account) == [nothing, nothing]


async def test_the_bodies_of_all_deliveries_take_two_statements(scene: Scene, receiver: Receiver) -> None:
    account = await scene.world.account()
    await scene.endpoint(account.id, receiver.url())
    async with scene.worker():
        await scene.happen(account.id, 5)
        await scene.settled()
    counts = []
    for first in (1, 5):
        with reads(scene.database) as statements:
            attempts = await shown(scene, account, first=first)
        assert len(attempts) == first
        assert all(attempts)
        counts.append(sum("deliver" in one for one in statements))
    # Deliveries, their attempts, how long the bodies are, and the bodies.
    assert counts == [4, 4]
    assert await shown(scene, account, types=["METER_CREATED"]) == []


async def test_no_operation_reads_more_bodies_than_memory_is_for(scene: Scene, receiver: Receiver) -> None:
    account = await scene.world.account()
    await scene.endpoint(account.id, receiver.url())
    async with scene.worker():
        await scene.happen(account.id, 3)
        await scene.settled()
    long = bytes(graphql_attempts.MAX_BODIES // 2)
    for one in await scene.deliveries():
        await scene.change(Delivery, one.id, body=long)
    response = await scene.world.ask(SENT, {"first": 3}, key=account.key)
    assert {one["extensions"]["code"] for one in response["errors"]} == {"QUERY_TOO_COMPLEX"}
    # Two are within the bound; they are not the bodies that were sent.
    assert {one["requestBody"] for one in await shown(scene, account, first=2)} == {None}
