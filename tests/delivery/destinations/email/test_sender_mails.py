"""Mails from the log to a real mail server: one per event, the same through all attempts, and none to who is gone."""

import base64
from collections.abc import AsyncIterator

import orjson
import pytest

from app.core import clock
from app.customers import actions as customers
from app.db.database import run_script
from app.delivery.destinations.email import link_actions, subscriptions
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.queue.dispatch import delivery_row, insert_deliveries
from app.delivery.queue.models import DeliveryStatus
from app.outbound.mail.addresses import HashedAddress
from app.outbound.mail.link_tokens import Unsubscribe, unsubscribe_token, verified_unsubscribe
from app.outbound.mail.models import TransactionalMail
from tests.delivery.asking import RESEND, SUBSCRIPTION, make_subscription, outgoing_done, queue_mail
from tests.delivery.scene import Scene, admin, open_scene
from tests.meters.asking import run
from tests.services.smtp import SmtpSink


@pytest.fixture
async def scene(migrated_url: str, smtp_sink: SmtpSink) -> AsyncIterator[Scene]:
    settings = {
        "smtp_url": smtp_sink.url,
        "mail_from": "Voltwire <events@mail.example>",
        "webhook_retry_schedule": [0.05, 0.05],
    }
    async with open_scene(migrated_url, **settings) as opened:
        yield opened


async def test_an_event_is_one_mail_to_each_subscription(scene: Scene, smtp_sink: SmtpSink) -> None:
    account = await scene.account()
    ada = await scene.subscription(account, "ada@example.com")
    await scene.subscription(account, "bob@example.com", event_types=["meter.*"])
    async with scene.worker():
        async with scene.database.transaction() as session:
            await run_script(
                session,
                customers.create(session, admin(account), name="Grace Hopper", email="grace@example.com"),
            )
        await scene.settled()

    (delivery,) = await scene.deliveries()
    assert (delivery.destination_id, delivery.status) == (ada, DeliveryStatus.SUCCEEDED.value)
    (mail,) = smtp_sink.mails
    assert (mail.sender, mail.recipients) == ("events@mail.example", ["ada@example.com"])
    assert mail.message["message-id"] == f"<{delivery.id}@mail.example>"
    assert "Grace Hopper" in mail.text
    assert "Grace Hopper" in mail.html
    address = HashedAddress.of(scene.services.keyring, account, "ada@example.com")
    token = unsubscribe_token(scene.services.keyring, ada, address)
    link = f"http://127.0.0.1:8000/email-subscriptions/unsubscribe/{token}"
    assert mail.message["list-unsubscribe"] == f"<{link}>"
    assert mail.message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert link in mail.text
    assert verified_unsubscribe(scene.services.keyring, token) == Unsubscribe(ada, address)
    (attempt,) = await scene.attempts(delivery.id)
    assert (attempt.outcome, attempt.response_status) == ("SUCCEEDED", 250)


async def test_a_mail_that_is_put_off_comes_as_the_same_mail(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse("ada@example.com", "451 4.3.0 Later", times=1)
    smtp_sink.refuse_data("452 4.3.1 Full", times=1)
    account = await scene.account()
    await scene.subscription(account, "ada@example.com")
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    assert delivery.status == DeliveryStatus.SUCCEEDED.value
    attempts = await scene.attempts(delivery.id)
    assert [(one.outcome, one.response_status) for one in attempts] == [
        ("SMTP", 451),
        ("SMTP", 452),
        ("SUCCEEDED", 250),
    ]
    (mail,) = smtp_sink.mails
    assert delivery.body is not None
    assert mail.subject == orjson.loads(delivery.body)["subject"]


async def test_a_recipient_that_does_not_exist_is_suspended(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse("gone@example.com")
    account = await scene.account()
    gone = await scene.subscription(account, "gone@example.com")
    other = await scene.subscription(account, "ada@example.com")
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
        await scene.happen(account)
        await scene.settled()
    row = await scene.row(EmailSubscription, gone)
    assert row.status == EmailSubscriptionStatus.SUSPENDED.value
    assert row.suspended_reason == "The mail server answered 550: 5.1.1 No such mailbox"
    (delivery,) = await scene.deliveries(destination_id=gone)
    assert delivery.status == DeliveryStatus.EXHAUSTED.value
    assert len(await scene.deliveries(destination_id=other, status=DeliveryStatus.SUCCEEDED.value)) == 2


async def test_another_refusal_ends_the_delivery_and_not_the_subscription(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("ada@example.com", "554 5.7.1 Not from you")
    account = await scene.account()
    subscription = await scene.subscription(account, "ada@example.com")
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.EXHAUSTED.value, 1)
    assert (await scene.row(EmailSubscription, subscription)).status == EmailSubscriptionStatus.ACTIVE.value


async def test_a_mail_that_cannot_be_written_is_given_up_and_holds_up_no_other(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    account = await scene.account()
    (event,) = await scene.happen(account)
    subscription = await scene.subscription(account, "ada@example.com")
    async with scene.database.transaction() as session:
        unknown = {"event_type": "nobody.knows"}
        await run_script(session, insert_deliveries([delivery_row(account, event, subscription) | unknown]))
    async with scene.worker() as worker:
        (fresh,) = await scene.happen(account)
        await scene.settled()
        assert worker.failures == 0
    first, second = await scene.deliveries()
    assert first.status == DeliveryStatus.EXHAUSTED.value
    attempts = await scene.attempts(first.id)
    assert [(one.outcome, one.error) for one in attempts] == [
        ("CONNECTION", "The request could not be made.")
    ] * 3
    assert (second.event_id, second.status) == (fresh.id, DeliveryStatus.SUCCEEDED.value)
    assert len(smtp_sink.mails) == 1


async def test_other_mails_are_sent_and_forgotten(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse("ada@example.com", "450 4.2.1 Busy", times=1)
    account = await scene.account()
    mail_id = await queue_mail(scene.world, account, "ada@example.com")
    async with scene.worker() as worker:
        await scene.until(lambda: outgoing_done(scene.world))
        assert worker.senders["transactional"].sent == 1
    (mail,) = smtp_sink.mails
    assert (mail.subject, mail.text) == ("Your code", "It is 123456.\n")
    assert mail.message["message-id"] == f"<{mail_id}@mail.example>"
    assert "list-unsubscribe" not in mail.message
    row = await scene.row(TransactionalMail, mail_id)
    assert (row.attempts_made, row.content_encrypted, row.due_at, row.error) == (2, None, None, None)


async def test_other_mails_that_are_refused_are_given_up(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse("gone@example.com")
    account = await scene.account()
    mail_id = await queue_mail(scene.world, account, "gone@example.com")
    async with scene.worker():
        await scene.until(lambda: outgoing_done(scene.world))
    row = await scene.row(TransactionalMail, mail_id)
    assert (row.attempts_made, row.content_encrypted) == (1, None)
    assert row.error == "The mail server answered 550: 5.1.1 No such mailbox"


async def a_minute_later(scene: Scene, subscription_id: str) -> None:
    """As far as asking for another confirmation is concerned."""
    sent_at = clock.now() - subscriptions.RESEND_AFTER
    await scene.change(EmailSubscription, subscription_id, confirm_sent_at=sent_at)


async def test_a_confirmation_that_finds_no_mailbox_suspends_and_tells_why(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("gone@example.com", times=1)
    account = await scene.world.account()
    subscription_id = await make_subscription(scene.world, account, "gone@example.com")
    # Whoever else waits for this address hears of it by a mail of their own.
    waits = {"status": EmailSubscriptionStatus.PENDING.value, "confirm_sent_at": clock.from_ms(0)}
    other = await scene.subscription(await scene.account(), "gone@example.com", **waits)
    query = f"query ($id: ID!) {{ emailSubscription(id: $id) {{ {SUBSCRIPTION} }} }}"
    async with scene.worker():
        await scene.points.wait_for("mail.recorded")
        data = await scene.world.data(query, {"id": subscription_id}, key=account.key)
        shown = data["emailSubscription"]
        assert shown["status"] == "SUSPENDED"
        assert shown["suspendedReason"] == "The mail server answered 550: 5.1.1 No such mailbox"
        assert shown["updatedAt"] >= shown["createdAt"]
        assert (await scene.row(EmailSubscription, other)).status == EmailSubscriptionStatus.PENDING.value
        # Somebody has made the mailbox.
        await a_minute_later(scene, subscription_id)
        payload = await run(scene.world, account, RESEND, emailSubscriptionId=subscription_id)
        asked = payload["emailSubscription"]
        assert (asked["status"], asked["suspendedReason"]) == ("PENDING", None)
        (mail,) = await smtp_sink.wait_for(1)
    link = next(line for line in mail.text.splitlines() if "/confirm/" in line)
    async with scene.database.transaction() as session:
        found = await link_actions.confirm(session, scene.services.keyring, link.rpartition("/")[2])
    assert found.state is link_actions.Confirmation.DONE


async def test_a_confirmation_that_was_asked_for_again_decides_instead_of_the_one_before(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("late@example.com", times=1)
    smtp_sink.hold()
    account = await scene.world.account()
    subscription_id = await make_subscription(scene.world, account, "late@example.com")
    async with scene.worker():
        await smtp_sink.attempts.wait_for(1)
        await a_minute_later(scene, subscription_id)
        payload = await run(scene.world, account, RESEND, emailSubscriptionId=subscription_id)
        assert payload["userErrors"] == []
        smtp_sink.release()
        await scene.points.wait_for("mail.recorded", 2)
    assert len(smtp_sink.mails) == 1
    row = await scene.row(EmailSubscription, subscription_id)
    assert (row.status, row.suspended_reason) == (EmailSubscriptionStatus.PENDING.value, None)


async def test_a_confirmation_that_is_refused_otherwise_leaves_the_subscription_waiting(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("ada@example.com", "554 5.7.1 Not from you")
    account = await scene.world.account()
    subscription_id = await make_subscription(scene.world, account, "ada@example.com")
    async with scene.worker():
        await scene.points.wait_for("mail.recorded")
    row = await scene.row(EmailSubscription, subscription_id)
    assert (row.status, row.suspended_reason) == (EmailSubscriptionStatus.PENDING.value, None)


async def test_a_mail_that_finds_no_mailbox_leaves_a_confirmed_subscription_alone(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("gone@example.com")
    account = await scene.account()
    subscription_id = await scene.subscription(account, "gone@example.com")
    await queue_mail(scene.world, account, "gone@example.com")
    async with scene.worker():
        await scene.points.wait_for("mail.recorded")
    row = await scene.row(EmailSubscription, subscription_id)
    assert (row.status, row.suspended_reason) == (EmailSubscriptionStatus.ACTIVE.value, None)


async def test_several_workers_send_each_other_mail_once(scene: Scene, smtp_sink: SmtpSink) -> None:
    account = await scene.account()
    for number in range(20):
        await queue_mail(scene.world, account, "ada@example.com", f"Mail {number}")
    async with scene.worker(), scene.worker(), scene.worker():
        await scene.until(lambda: outgoing_done(scene.world))
    assert sorted(mail.subject for mail in smtp_sink.mails) == sorted(f"Mail {one}" for one in range(20))


def test_only_our_own_token_unsubscribes(scene: Scene) -> None:
    keyring = scene.services.keyring
    address = HashedAddress.of(keyring, "acc_1", "ada@example.com")
    token = unsubscribe_token(keyring, "ems_1", address)
    assert verified_unsubscribe(keyring, token) == Unsubscribe("ems_1", address)
    for wrong in (
        "",
        "ems_1",
        "ems_1.",
        "ems_1.AAAA",
        token.replace("ems_1", "ems_2"),
        token.replace("acc_1", "acc_2"),
        token.replace(address.hash, "0" * len(address.hash)),
        token[:-4],
        token + "é",
    ):
        assert verified_unsubscribe(keyring, wrong) is None


def test_the_links_of_mails_of_before_still_unsubscribe(scene: Scene) -> None:
    keyring = scene.services.keyring
    signature = base64.urlsafe_b64encode(keyring.sign("unsubscribe", b"ems_1", 18)).decode()
    assert verified_unsubscribe(keyring, f"ems_1.{signature}") == Unsubscribe("ems_1", None)
