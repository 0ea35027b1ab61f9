"""A mail server that hangs at one recipient: all other mails arrive meanwhile, of whatever kind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.email import digests, provider
from app.delivery.queue.models import Delivery, Lane
from app.outbound.lease_times import RECORDING_SECONDS
from app.outbound.mail import sender, smtp, transactional
from app.outbound.mail.models import TransactionalMail
from tests.delivery.asking import outgoing_done, queue_mail
from tests.delivery.scene import Scene, open_scene
from tests.outbound.mail.mail_servers import Inbox, good_server

pytestmark = pytest.mark.both_databases

STUCK = "stuck@example.com"
LONGEST_ATTEMPT = timedelta(seconds=smtp.LONGEST_WAIT + smtp.DEFAULT_TIMEOUT + RECORDING_SECONDS)


@asynccontextmanager
async def stuck_scene(migrated_url: str) -> AsyncIterator[tuple[Scene, Inbox]]:
    """Mails to STUCK hang until they are let go."""
    async with good_server() as (port, inbox):
        inbox.stuck.add(STUCK)
        settings = {"smtp_url": f"smtp://127.0.0.1:{port}", "mail_from": "Voltwire <events@mail.example>"}
        async with open_scene(migrated_url, **settings) as scene:
            yield scene, inbox


@asynccontextmanager
async def stuck_worker(migrated_url: str) -> AsyncIterator[tuple[Scene, Inbox]]:
    """With a worker. At the end they are let go, and then all must have come at the first attempt."""
    async with stuck_scene(migrated_url) as (scene, inbox), scene.worker():
        yield scene, inbox
        inbox.let_go.set()
        await scene.settled()
        await scene.until(lambda: outgoing_done(scene.world))
        for delivery in await scene.deliveries():
            assert (delivery.status, delivery.attempts_made) == ("SUCCEEDED", 1)


async def came(inbox: Inbox, *recipients: str) -> None:
    for recipient in recipients:
        await inbox.envelopes.wait_for(lambda one, wanted=recipient: wanted in one.rcpt_tos)


async def make_digests_due(scene: Scene, count: int) -> None:
    """Make digests due, once `count` deliveries wait for one."""

    async def wait() -> bool:
        return len(await scene.deliveries(lane=Lane.DIGEST)) == count

    await scene.until(wait)
    async with scene.database.transaction() as session:
        waiting = update(Delivery).where(col(Delivery.lane) == Lane.DIGEST, col(Delivery.due_at).is_not(None))
        await session.execute(waiting.values(due_at=clock.now()))


async def test_an_event_mail_that_hangs(migrated_url: str) -> None:
    async with stuck_worker(migrated_url) as (scene, inbox):
        account = await scene.account()
        stuck = await scene.subscription(account, STUCK)
        await scene.happen(account, 10)
        await inbox.hung.wait_for(sender.MOST_TO_ONE)

        await scene.subscription(account, "ada@example.com")
        await scene.subscription(account, "grace@example.com", digest="HOURLY")
        await queue_mail(scene.world, account, "katherine@example.com")
        await scene.happen(account)
        await make_digests_due(scene, 1)
        await came(inbox, "ada@example.com", "grace@example.com", "katherine@example.com")
        assert len(inbox.hung) == sender.MOST_TO_ONE
        for one in await scene.deliveries(destination_id=stuck):
            assert one.due_at is not None
            assert one.leased_until is None or one.leased_until - one.due_at >= LONGEST_ATTEMPT


async def test_a_digest_that_hangs(migrated_url: str) -> None:
    async with stuck_worker(migrated_url) as (scene, inbox):
        account = await scene.account()
        for recipient in (STUCK, "grace@example.com"):
            await scene.subscription(account, recipient, digest="HOURLY")
        await scene.happen(account)
        await make_digests_due(scene, 2)
        await inbox.hung.wait_for(1)

        other = await scene.account()
        await scene.subscription(other, "ada@example.com")
        await queue_mail(scene.world, account, "katherine@example.com")
        await scene.happen(other)
        await came(inbox, "ada@example.com", "grace@example.com", "katherine@example.com")
        assert len(inbox.hung) == 1


async def test_another_mail_that_hangs(migrated_url: str) -> None:
    async with stuck_worker(migrated_url) as (scene, inbox):
        account = await scene.account()
        stuck = [
            await queue_mail(scene.world, account, STUCK) for _ in range(transactional.MAILS_AT_ONCE + 1)
        ]
        await inbox.hung.wait_for(sender.MOST_TO_ONE)

        await scene.subscription(account, "ada@example.com")
        await scene.subscription(account, "grace@example.com", digest="HOURLY")
        # More than there are places: each that becomes free is taken by the next.
        others = [f"katherine{number}@example.com" for number in range(2 * transactional.MAILS_AT_ONCE)]
        for recipient in others:
            await queue_mail(scene.world, account, recipient)
        await scene.happen(account)
        await make_digests_due(scene, 1)
        await came(inbox, "ada@example.com", "grace@example.com", *others)
        assert len(inbox.hung) == sender.MOST_TO_ONE
        leased = [await scene.row(TransactionalMail, one) for one in stuck]
        leases = [one.leased_until - one.due_at for one in leased if one.leased_until is not None]
        assert len(leases) == sender.MOST_TO_ONE
        assert min(leases) >= LONGEST_ATTEMPT
    assert len(inbox.hung) == len(stuck)


async def test_an_account_all_of_whose_mails_hang(migrated_url: str) -> None:
    async with stuck_worker(migrated_url) as (scene, inbox):
        account, other = await scene.account(), await scene.account()
        inbox.stuck |= {f"stuck{number}@example.com" for number in range(transactional.MAILS_AT_ONCE)}
        for recipient in sorted(inbox.stuck):
            await queue_mail(scene.world, account, recipient)
        await inbox.hung.wait_for(transactional.MOST_OF_ACCOUNT)
        others = [f"katherine{number}@example.com" for number in range(2 * transactional.MAILS_AT_ONCE)]
        for recipient in others:
            await queue_mail(scene.world, other, recipient)
        await came(inbox, *others)
        assert len(inbox.hung) == transactional.MOST_OF_ACCOUNT


async def test_another_mail_that_hangs_when_the_worker_stops_is_given_back(migrated_url: str) -> None:
    async with stuck_scene(migrated_url) as (scene, inbox):
        account = await scene.account()
        mail_id = await queue_mail(scene.world, account, STUCK)
        async with scene.worker(drain_seconds=0):
            await inbox.hung.wait_for(1)
        mail = await scene.row(TransactionalMail, mail_id)
        assert (mail.attempts_made, mail.leased_until) == (0, None)
        assert mail.due_at is not None
        inbox.let_go.set()
        async with scene.worker():
            await came(inbox, STUCK)
            await scene.until(lambda: outgoing_done(scene.world))
        assert (await scene.row(TransactionalMail, mail_id)).attempts_made == 1


def test_there_is_a_connection_for_every_mail() -> None:
    at_once = provider.MOST_IN_FLIGHT + digests.MAILS_AT_ONCE + transactional.MAILS_AT_ONCE
    assert at_once <= smtp.CONNECTIONS


async def test_a_mail_that_is_deleted_on_its_way_was_taken_over_by_nobody(migrated_url: str) -> None:
    async with stuck_scene(migrated_url) as (scene, inbox), scene.worker() as worker:
        mail_id = await queue_mail(scene.world, await scene.account(), STUCK)
        await inbox.hung.wait_for(1)
        async with scene.database.transaction() as session:
            await session.delete(await session.get_one(TransactionalMail, mail_id))
        inbox.let_go.set()

        async def recorded() -> bool:
            return worker.senders["transactional"].stats.fates.total() == 1

        await scene.until(recorded)
        assert worker.senders["transactional"].stats.leases_lost == 0
