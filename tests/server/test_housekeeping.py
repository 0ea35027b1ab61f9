"""Housekeeping deletes expired rows, and none that are still needed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.core import clock
from app.db.idempotency import IdempotentMutation
from app.delivery.queue.models import Delivery, DeliveryAttempt, DeliveryStatus
from app.events.models import EventRecord, Stream
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.models import TransactionalMail
from app.server.housekeeping import EVENTS_AT_ONCE, Housekeeping
from tests.delivery.scene import Scene, open_scene
from tests.services.receiver import Receiver

pytestmark = pytest.mark.both_databases

OLD = timedelta(days=91)


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url) as opened:
        yield opened


async def keep_house(scene: Scene) -> None:
    await Housekeeping(scene.database, 90, MailFiles(scene.services.settings.mail_folder)).run()


async def age(scene: Scene, account_id: str, through: int) -> None:
    """Makes the account's events up to this sequence old."""
    async with scene.database.transaction() as session:
        await session.execute(
            update(EventRecord)
            .where(col(EventRecord.account_id) == account_id, col(EventRecord.sequence) <= through)
            .values(occurred_at=clock.now() - OLD)
        )


async def kept(scene: Scene, account_id: str) -> list[int]:
    statement = select(col(EventRecord.sequence)).where(col(EventRecord.account_id) == account_id)
    async with scene.database.reading() as session:
        return sorted((await session.execute(statement)).scalars())


async def count(scene: Scene, model: Any) -> int:
    async with scene.database.reading() as session:
        return len((await session.execute(select(model))).all())


async def test_old_events_are_deleted_with_their_finished_deliveries(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account, 4)
        await scene.settled()
    await age(scene, account, 3)
    await keep_house(scene)
    assert await kept(scene, account) == [4, 5]
    assert (await scene.row(Stream, account)).first_sequence == 4
    assert [one.event_sequence for one in await scene.deliveries()] == [4, 5]
    assert await count(scene, DeliveryAttempt) == 2


async def test_events_that_are_not_dispatched_stay(scene: Scene) -> None:
    account = await scene.account()
    await scene.happen(account, 3)
    await age(scene, account, 4)
    await keep_house(scene)
    assert await kept(scene, account) == [1, 2, 3, 4]


async def test_an_unfinished_delivery_keeps_its_event_and_all_after_it(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account, 4)
        await scene.settled()
    third = (await scene.deliveries())[1]
    await scene.change(Delivery, third.id, status=DeliveryStatus.FAILED.value, due_at=clock.now())
    await age(scene, account, 5)
    await keep_house(scene)
    assert await kept(scene, account) == [3, 4, 5]
    await scene.change(Delivery, third.id, status=DeliveryStatus.EXHAUSTED.value, due_at=None)
    await keep_house(scene)
    assert await kept(scene, account) == []
    assert (await scene.row(Stream, account)).first_sequence == 6
    assert await scene.deliveries() == []


async def test_many_old_events_are_deleted_in_batches(scene: Scene) -> None:
    account, other = await scene.account(), await scene.account()
    await scene.happen(account, EVENTS_AT_ONCE + 50)
    async with scene.worker():
        await scene.settled()
    await age(scene, account, EVENTS_AT_ONCE + 40)
    before = scene.points.counts["housekeeping.before_commit"]
    await keep_house(scene)
    assert await kept(scene, account) == list(range(EVENTS_AT_ONCE + 41, EVENTS_AT_ONCE + 52))
    assert scene.points.counts["housekeeping.before_commit"] - before == 3
    assert await kept(scene, other) == [1]


async def test_old_records_of_mutations_and_mails_are_deleted(scene: Scene) -> None:
    account = await scene.account()
    now = clock.now()
    ages = {"new": timedelta(hours=23), "old": timedelta(hours=25)}
    async with scene.database.transaction() as session:
        for key, passed in ages.items():
            session.add(
                IdempotentMutation(
                    account_id=account,
                    mutation="createMeter",
                    key=key,
                    input_hash="x",
                    created_at=now - passed,
                )
            )
        for recipient, days in (("new", 6), ("old", 8), ("waiting", 8)):
            session.add(
                TransactionalMail(
                    account_id=account,
                    recipient=recipient,
                    content_encrypted=None,
                    created_at=now - timedelta(days=days),
                )
            )
        for event_id, days in (("evt_test_new", 89), ("evt_test_old", 91)):
            session.add(
                Delivery(
                    account_id=account,
                    event_id=event_id,
                    event_type="meter.created",
                    test_event={},
                    destination_id="whe_1",
                    status=DeliveryStatus.SUCCEEDED.value,
                    created_at=now - timedelta(days=days),
                )
            )
        await session.flush()
        await session.execute(update(Delivery).values(due_at=None))
        sent = col(TransactionalMail.recipient) != "waiting"
        await session.execute(update(TransactionalMail).where(sent).values(due_at=None))
    await keep_house(scene)
    async with scene.database.reading() as session:
        assert (await session.execute(select(IdempotentMutation.key))).scalars().all() == ["new"]
        recipients = (await session.execute(select(TransactionalMail.recipient))).scalars().all()
    assert sorted(recipients) == ["new", "waiting"]
    assert [one.event_id for one in await scene.deliveries()] == ["evt_test_new"]
