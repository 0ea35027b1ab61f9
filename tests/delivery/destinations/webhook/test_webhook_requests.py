"""The requests of webhooks, as a real receiver gets them: body, headers and signatures."""

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
from standardwebhooks import Webhook

from app import __version__
from app.core import clock
from app.delivery.destinations.webhook.signing import new_key_pair, new_secret
from app.delivery.queue.models import Delivery
from tests.delivery.scene import Scene, admin, open_scene, send_test
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
            delivery = await send_test(session, admin(account), endpoint.id, "meter.created")
        await scene.settled()
    (request,) = receiver.requests
    body = verified(request, endpoint.secret)
    assert list(body) == ["type", "timestamp", "id", "sequence", "data", "test"]
    assert body["id"] == request.headers["webhook-id"] == delivery.event_id
    assert body["id"].startswith("evt_test_")
    assert (body["type"], body["sequence"], body["test"]) == ("meter.created", 0, True)
    assert body["data"] == delivery.test_event


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
