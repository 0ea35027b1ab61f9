"""Secrets that cannot be decrypted: attempts fail and say so, the schedule gives them up, the operator is told once."""

from collections.abc import AsyncIterator, MutableMapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from app.core import clock
from app.core.crypto import Keyring
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.destinations.webhook.provider import UNREADABLE_HEADERS, UNREADABLE_SIGNATURE
from app.delivery.destinations.webhook.signing import new_secret
from app.events.models import EventRecord, Stream
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.transactional import UNREADABLE
from app.server.housekeeping import Housekeeping
from tests.delivery.asking import outgoing_done, queue_mail
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.receiver import Receiver
from tests.services.smtp import SmtpSink

ELSEWHERE = Keyring(["a key that this deployment never had"])
ATTEMPTS = 3


@pytest.fixture
async def scene(migrated_url: str, smtp_sink: SmtpSink) -> AsyncIterator[Scene]:
    settings = {"smtp_url": smtp_sink.url, "webhook_retry_schedule": [0.05] * (ATTEMPTS - 1)}
    async with open_scene(migrated_url, **settings) as opened:
        yield opened


@pytest.mark.parametrize(
    ("column", "what", "error"),
    [
        ("secret_encrypted", "secret", UNREADABLE_SIGNATURE),
        ("signing_key_encrypted", "signing key", UNREADABLE_SIGNATURE),
        ("headers_encrypted", "headers", UNREADABLE_HEADERS),
    ],
)
async def test_a_delivery_without_its_secret_is_given_up(
    scene: Scene, receiver: Receiver, column: str, what: str, error: str
) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    beside = await scene.endpoint(account, receiver.url("/beside"))
    await scene.change(WebhookEndpoint, endpoint.id, **{column: ELSEWHERE.encrypt("{}")})
    with capture_logs() as logs:
        async with scene.worker():
            await scene.happen(account, 5)
            await scene.settled()
    assert receiver.to("/") == []
    assert len(receiver.to("/beside")) == 5
    assert {one.status for one in await scene.deliveries(destination_id=beside.id)} == {"SUCCEEDED"}
    for delivery in await scene.deliveries(destination_id=endpoint.id):
        assert delivery.status == "EXHAUSTED"
        attempts = await scene.attempts(delivery.id)
        assert [(one.outcome, one.error) for one in attempts] == [("CONNECTION", error)] * ATTEMPTS
    (told,) = complaints(logs)
    assert (told["log_level"], told["what"], told["endpoint_id"]) == ("error", what, endpoint.id)
    assert "VOLTWIRE_SECRET_KEY" in told["hint"]

    # Retention goes on, since a delivery that is given up is finished.
    long_ago = update(EventRecord).values(occurred_at=clock.now() - timedelta(days=100))
    async with scene.database.transaction() as session:
        await session.execute(long_ago.where(col(EventRecord.account_id) == account))
    await Housekeeping(scene.database, 90, MailFiles(scene.services.settings.mail_folder)).run()
    stream = await scene.row(Stream, account)
    assert stream.first_sequence == stream.last_sequence + 1
    assert await scene.deliveries() == []


async def test_a_rotated_secret_signs_alone_where_the_one_before_cannot_be_read(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    await scene.change(
        WebhookEndpoint,
        endpoint.id,
        secret_encrypted=ELSEWHERE.encrypt(new_secret()),
        signing_key_encrypted=ELSEWHERE.encrypt("whsk_lost"),
    )
    async with scene.database.transaction() as session:
        _, secret = await endpoints.rotate_secret(
            session, admin(account), scene.services.keyring, endpoint.id
        )
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (request,) = receiver.requests
    Webhook(secret).verify(request.body, request.headers)
    assert [one.partition(",")[0] for one in request.headers["webhook-signature"].split()] == ["v1", "v1a"]


async def test_a_mail_that_cannot_be_read_is_given_up(scene: Scene, smtp_sink: SmtpSink) -> None:
    account = await scene.account()
    lost = [await queue_mail(scene.world, account, f"eve{number}@example.com") for number in range(2)]
    for mail_id in lost:
        await scene.change(TransactionalMail, mail_id, content_encrypted=ELSEWHERE.encrypt("{}"))
    good = await queue_mail(scene.world, account, "ada@example.com")
    with capture_logs() as logs:
        async with scene.worker() as worker:
            await scene.until(lambda: outgoing_done(scene.world))
            assert worker.failures == 0
    assert list(smtp_sink.attempts) == ["ada@example.com"]
    assert (await scene.row(TransactionalMail, good)).error is None
    for mail_id in lost:
        mail = await scene.row(TransactionalMail, mail_id)
        assert (mail.attempts_made, mail.content_encrypted, mail.error) == (ATTEMPTS, None, UNREADABLE)
    (told,) = complaints(logs)
    assert (told["what"], told["account_id"]) == ("mail", account)


def complaints(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    """The errors that were logged."""
    return [one for one in logs if one["log_level"] == "error"]
