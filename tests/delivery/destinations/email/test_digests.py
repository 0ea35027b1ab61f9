"""Digests: one mail for what happened in an hour or a day, every delivery in it recorded."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.email.digests import MAILS_AT_ONCE
from app.delivery.destinations.email.models import Digest, EmailSubscription
from app.delivery.destinations.email.periods import next_digest
from app.delivery.destinations.kinds import KINDS
from app.delivery.queue.deliveries import send_again
from app.delivery.queue.models import Delivery, DeliveryStatus, Lane
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.postgres import Postgres
from tests.services.smtp import SmtpSink

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def scene(migrated_url: str, smtp_sink: SmtpSink) -> AsyncIterator[Scene]:
    settings = {
        "smtp_url": smtp_sink.url,
        "mail_from": "Voltwire <events@mail.example>",
        "webhook_retry_schedule": [0.05, 0.05],
    }
    async with open_scene(migrated_url, **settings) as opened:
        yield opened


async def waiting(scene: Scene, names: list[str], **values: object) -> tuple[str, str]:
    """An account's hourly subscription for which events of these customers wait."""
    account = await scene.account()
    subscription = await scene.subscription(account, "ada@example.com", **{"digest": "HOURLY"} | values)
    async with scene.worker():
        for name in names:
            await scene.happen(account, name=name)
        await scene.until(lambda: dispatched(scene, len(names)))
    return account, subscription


async def dispatched(scene: Scene, count: int) -> bool:
    return len(await scene.deliveries()) == count


async def make_due(scene: Scene) -> None:
    async with scene.database.transaction() as session:
        await session.execute(
            update(Delivery).where(col(Delivery.due_at).is_not(None)).values(due_at=clock.now())
        )


@pytest.mark.parametrize(
    ("digest", "now", "due"),
    [
        (Digest.HOURLY, "2026-11-24T22:29:55.123", "2026-11-24T23:00"),
        (Digest.HOURLY, "2026-11-24T23:00", "2026-11-25T00:00"),
        (Digest.DAILY, "2026-11-24T22:29:55", "2026-11-25T07:00"),
        (Digest.DAILY, "2026-11-25T06:59:59", "2026-11-25T07:00"),
        (Digest.DAILY, "2026-11-25T07:00", "2026-11-26T07:00"),
        # Summer time begins in the night between: seven o'clock comes an hour earlier.
        (Digest.DAILY, "2026-03-28T12:00", "2026-03-29T06:00"),
        (Digest.DAILY, "2026-10-24T12:00", "2026-10-25T07:00"),
    ],
)
def test_digests_are_due_on_the_hour_or_in_the_morning(digest: Digest, now: str, due: str) -> None:
    at, expected = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (now, due))
    assert next_digest(digest.value, at) == expected
    assert next_digest(Digest.IMMEDIATE.value, at) is None


async def test_several_events_are_one_mail(scene: Scene, smtp_sink: SmtpSink) -> None:
    _, subscription = await waiting(scene, ["Ada", "Grace", "Katherine"])
    before = await scene.deliveries()
    assert len(smtp_sink.mails) == 0
    assert {one.lane for one in before} == {Lane.DIGEST}
    assert {(one.due_at.minute, one.due_at.second) for one in before if one.due_at} == {(0, 0)}
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    (mail,) = smtp_sink.mails
    assert mail.recipients == ["ada@example.com"]
    assert mail.message["message-id"] == f"<{before[0].id}@mail.example>"
    assert mail.message["subject"].endswith(", and 2 more events")
    assert mail.message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert "3 events of Bright Energy" in mail.text
    for delivery in await scene.deliveries():
        assert f"Event {delivery.event_id} (number " in mail.text
        assert f"Event {delivery.event_id} (number " in mail.html
        assert "/?event=" not in mail.text + mail.html
        assert (delivery.status, delivery.attempts_made) == (DeliveryStatus.SUCCEEDED.value, 1)
        assert (delivery.digest_id, delivery.destination_id) == (before[0].id, subscription)
        (attempt,) = await scene.attempts(delivery.id)
        assert (attempt.outcome, attempt.response_status) == ("SUCCEEDED", 250)


async def test_a_retry_is_the_same_mail_and_what_came_later_another(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("ada@example.com", "451 4.3.0 Later", times=1)
    account, _ = await waiting(scene, ["Ada", "Grace"])
    await make_due(scene)
    async with scene.worker():
        await scene.points.wait_for("digest.recorded")
        await scene.happen(account, name="Katherine")
        await scene.until(lambda: dispatched(scene, 3))
        await make_due(scene)
        await scene.settled()
    first, second, third = await scene.deliveries()
    assert [len(await scene.attempts(one.id)) for one in (first, second, third)] == [2, 2, 1]
    together, alone = smtp_sink.mails
    assert together.message["message-id"] == f"<{first.id}@mail.example>"
    assert "2 events of Bright Energy" in together.text
    assert alone.message["message-id"] == f"<{third.id}@mail.example>"
    assert "1 event of Bright Energy" in alone.text


async def test_a_mail_that_is_refused_for_good_ends_all_in_it(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse("ada@example.com", "550 5.1.1 No such user", times=1)
    _, subscription = await waiting(scene, ["Ada", "Grace"])
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    assert (await scene.row(EmailSubscription, subscription)).status == "SUSPENDED"
    statuses = [one.status for one in await scene.deliveries()]
    assert statuses == [DeliveryStatus.EXHAUSTED.value] * 2


async def test_one_that_is_sent_again_comes_as_a_mail_of_its_own(scene: Scene, smtp_sink: SmtpSink) -> None:
    account, _ = await waiting(scene, ["Ada", "Grace"])
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
        second = (await scene.deliveries())[1]
        async with scene.database.transaction() as session:
            await send_again(session, admin(account), KINDS, second.id)
        await scene.settled()
    again = smtp_sink.mails[1]
    assert len(smtp_sink.mails) == 2
    assert again.message["message-id"] == f"<{second.id}@mail.example>"
    assert f"Event {second.event_id}" in again.text


async def test_who_unsubscribes_meanwhile_gets_none(scene: Scene, smtp_sink: SmtpSink) -> None:
    _, subscription = await waiting(scene, ["Ada", "Grace"], digest="DAILY")
    await scene.change(EmailSubscription, subscription, status="UNSUBSCRIBED")
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    assert len(smtp_sink.mails) == 0
    assert {one.status for one in await scene.deliveries()} == {DeliveryStatus.CANCELLED.value}


async def break_wording(scene: Scene, **values: object) -> None:
    """As if nobody knew any more how to word these deliveries' event."""
    await word(scene, "nobody.knows", **values)


async def word(scene: Scene, event_type: str, **values: object) -> None:
    async with scene.database.transaction() as session:
        await session.execute(update(Delivery).filter_by(**values).values(event_type=event_type))


async def endings(scene: Scene, delivery: Delivery) -> tuple[str, list[tuple[str, str | None]]]:
    """Its status and its attempts' outcomes."""
    attempts = await scene.attempts(delivery.id)
    return delivery.status, [(one.outcome, one.error) for one in attempts]


NOT_MADE = ("CONNECTION", "The request could not be made.")
GIVEN_UP = (DeliveryStatus.EXHAUSTED.value, [NOT_MADE] * 3)
DELIVERED = (DeliveryStatus.SUCCEEDED.value, [("SUCCEEDED", None)])


async def test_mails_that_cannot_be_written_are_given_up_and_hold_up_no_others(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    broken, account = await scene.account(), await scene.account()
    for number in range(MAILS_AT_ONCE + 1):
        await scene.subscription(broken, f"broken{number}@example.com", digest="HOURLY")
    subscription = await scene.subscription(account, "ada@example.com", digest="HOURLY")
    async with scene.worker() as worker:
        await scene.happen(broken)
        await scene.happen(account)
        await scene.until(lambda: dispatched(scene, MAILS_AT_ONCE + 2))
        await break_wording(scene, account_id=broken)
        await make_due(scene)
        await scene.settled()
        assert worker.failures == 0
    (delivery,) = await scene.deliveries(destination_id=subscription)
    assert await endings(scene, delivery) == DELIVERED
    given_up = await scene.deliveries(account_id=broken)
    assert [await endings(scene, one) for one in given_up] == [GIVEN_UP] * (MAILS_AT_ONCE + 1)
    assert len(smtp_sink.mails) == 1


async def test_an_event_that_cannot_be_written_keeps_no_other_from_its_mail(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    await waiting(scene, ["Ada", "Grace", "Katherine"])
    await break_wording(scene, id=(await scene.deliveries())[0].id)
    await make_due(scene)
    async with scene.worker() as worker:
        await scene.settled()
        assert worker.failures == 0
    broken, second, third = await scene.deliveries()
    assert await endings(scene, broken) == GIVEN_UP
    assert [await endings(scene, one) for one in (second, third)] == [DELIVERED] * 2
    (mail,) = smtp_sink.mails
    assert mail.message["message-id"] == f"<{second.id}@mail.example>"
    assert "2 events of Bright Energy" in mail.text
    assert broken.event_id not in mail.text


async def test_a_mail_that_was_tried_goes_on_without_what_cannot_be_written_any_more(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("ada@example.com", "451 4.3.0 Later", times=1)
    await waiting(scene, ["Ada", "Grace"])
    first, second = await scene.deliveries()
    # The mail has the id of the first, which then is in a digest of its own.
    for one in (first, second):
        await scene.change(Delivery, one.id, digest_id=first.id)
    await break_wording(scene, id=first.id)
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    first, second = await scene.deliveries()
    assert await endings(scene, first) == GIVEN_UP
    assert second.status == DeliveryStatus.SUCCEEDED.value
    assert (first.digest_id, second.digest_id) == (first.id, second.id)
    (mail,) = smtp_sink.mails
    assert mail.message["message-id"] == f"<{second.id}@mail.example>"


async def test_a_mail_that_can_be_written_again_comes_whole_with_its_next_attempt(
    migrated_url: str, smtp_sink: SmtpSink
) -> None:
    settings = {
        "smtp_url": smtp_sink.url,
        "mail_from": "Voltwire <events@mail.example>",
        "webhook_retry_schedule": [3600],
    }
    async with open_scene(migrated_url, **settings) as scene:
        await waiting(scene, ["Ada", "Grace"])
        (known,) = {one.event_type for one in await scene.deliveries()}
        await break_wording(scene)
        await make_due(scene)
        async with scene.worker():
            await scene.points.wait_for("digest.recorded")
            put_off = await scene.deliveries()
            failed = (DeliveryStatus.FAILED.value, [NOT_MADE])
            assert [await endings(scene, one) for one in put_off] == [failed] * 2
            assert all(one.due_at is not None and one.due_at > clock.now() for one in put_off)
            await word(scene, known)
            await make_due(scene)
        # Another worker, since nothing tells this one that an hour has passed.
        async with scene.worker():
            await scene.settled()
        first, second = await scene.deliveries()
        recovered = (DeliveryStatus.SUCCEEDED.value, [NOT_MADE, ("SUCCEEDED", None)])
        assert [await endings(scene, one) for one in (first, second)] == [recovered] * 2
    (mail,) = smtp_sink.mails
    assert mail.message["message-id"] == f"<{first.id}@mail.example>"
    assert "2 events of Bright Energy" in mail.text


async def test_a_mail_that_cannot_be_sent_is_given_up(scene: Scene, smtp_sink: SmtpSink) -> None:
    _, subscription = await waiting(scene, ["Ada"])
    await scene.change(EmailSubscription, subscription, email="ada@example.com\nBcc: eve@example.com")
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    (delivery,) = await scene.deliveries()
    outcomes = [one.outcome for one in await scene.attempts(delivery.id)]
    assert (delivery.status, outcomes) == (DeliveryStatus.EXHAUSTED.value, ["CONNECTION"] * 3)
    assert len(smtp_sink.mails) == 0


async def test_a_mail_that_is_not_wholly_free_is_not_sent_in_part(scene: Scene, smtp_sink: SmtpSink) -> None:
    await waiting(scene, ["Ada", "Grace"])
    first, second = await scene.deliveries()
    # As a sender that died has left them, whose second lease ends a moment later.
    now = clock.now()
    for one, until in ((first, now), (second, now + timedelta(seconds=1))):
        await scene.change(Delivery, one.id, digest_id=first.id, leased_until=until)
    await make_due(scene)
    async with scene.worker():
        await scene.settled()
    (mail,) = smtp_sink.mails
    assert "2 events of Bright Energy" in mail.text
    assert [len(await scene.attempts(one.id)) for one in (first, second)] == [1, 1]


async def test_a_database_that_is_away_makes_no_second_mail(postgres: Postgres, smtp_sink: SmtpSink) -> None:
    url = await postgres.create_database()
    settings = {"smtp_url": smtp_sink.url, "mail_from": "Voltwire <events@mail.example>"}
    async with open_scene(url, **settings) as scene:
        await waiting(scene, ["Ada"])
        await make_due(scene)
        # It goes between the claim and the mail.
        scene.points.on["digest.claimed"] = postgres.kill
        async with scene.worker():
            await smtp_sink.wait_for(1)
            await asyncio.to_thread(postgres.start)
            # The test's own connections have ended, too.
            await scene.database.engine.dispose()
            await scene.settled()
        (delivery,) = await scene.deliveries()
        assert (delivery.status, delivery.attempts_made, delivery.fence) == ("SUCCEEDED", 1, 1)
    assert len(smtp_sink.mails) == 1
    await postgres.drop_database(url)


async def test_a_database_that_goes_while_a_mail_is_written_makes_no_attempt(
    postgres: Postgres, smtp_sink: SmtpSink
) -> None:
    url = await postgres.create_database()
    settings = {"smtp_url": smtp_sink.url, "mail_from": "Voltwire <events@mail.example>"}
    async with open_scene(url, **settings) as scene:
        await waiting(scene, ["Ada", "Grace"])
        await make_due(scene)

        def kill_once() -> None:
            del scene.points.on["digest.picked"]
            postgres.kill()

        scene.points.on["digest.picked"] = kill_once
        async with scene.worker():
            await scene.points.wait_for("digest.picked")
            await asyncio.to_thread(postgres.start)
            await scene.settled()
        for delivery in await scene.deliveries():
            assert await endings(scene, delivery) == DELIVERED
            assert delivery.fence == 1
    assert len(smtp_sink.mails) == 1
    await postgres.drop_database(url)
