"""Transactions that mail to one address, or change its subscription, never wait for each other in a circle."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app.accounts import actions as accounts
from app.accounts.confirmation import notice_recipients
from app.accounts.models import User, UserRole
from app.auth.actor import Actor, Scope
from app.delivery.destinations.email import link_actions, subscriptions
from app.delivery.destinations.email.link_actions import Confirmation
from app.delivery.destinations.email.models import EmailSubscription
from app.delivery.destinations.email.provider import suspend_unconfirmed
from app.events import log
from app.outbound.mail.sender import MailSender
from app.outbound.mail.transactional import TransactionalSender
from tests.delivery.asking import make_subscription, subscription_row
from tests.delivery.destinations.email.test_pages import subscribed
from tests.delivery.destinations.email.test_subscriptions import a_minute_later
from tests.outbound.mail.mail_servers import scripted
from tests.outbound.mail.mailers import mailer_to
from tests.services.patience import PATIENCE
from tests.support import World

# SQLite has one writer at a time.
pytestmark = [
    pytest.mark.both_databases,
    pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True),
]

GRACE = "grace@example.com"
_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def admin(account_id: str) -> Actor:
    return Actor(account_id, frozenset(Scope))


async def users_never_asked(world: World, account_id: str, *emails: str) -> list[str]:
    """Administrators from before addresses were confirmed."""
    users = [User(account_id=account_id, email=one, name=one, role=UserRole.ADMIN.value) for one in emails]
    async with world.database.transaction() as session:
        session.add_all(users)
    return [user.id for user in users]


async def begun(world: World, work: Awaitable[Any]) -> asyncio.Future[Any]:
    """The work, once it waits for a lock."""
    task = asyncio.ensure_future(work)
    async with world.database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        while not (await connection.execute(_WAITING)).scalar_one():
            assert not task.done()
            await asyncio.sleep(0.002)
    return task


async def test_a_user_and_a_subscription_of_one_address_at_once(world: World) -> None:
    account = await world.account()
    actor = admin(account.id)

    async def subscribe() -> None:
        async with world.database.transaction() as session:
            await subscriptions.create(session, actor, world.services.mail_links, email=GRACE)

    async with world.database.transaction() as session:
        await accounts.create_user(session, actor, world.services.mail_links, email=GRACE, name="Grace")
        waiting = await begun(world, subscribe())
    await waiting


async def test_a_confirmation_while_the_address_is_asked_again(world: World) -> None:
    account, subscription_id, link, _ = await subscribed(world)
    await a_minute_later(world)

    async def confirm() -> Confirmation:
        async with world.database.transaction() as session:
            token = link.rpartition("/")[2]
            return (await link_actions.confirm(session, world.services.keyring, token)).state

    async with world.database.transaction() as session:
        await log.lock_position(session, account.id)
        waiting = await begun(world, confirm())
        await subscriptions.resend_confirmation(
            session, admin(account.id), world.services.mail_links, subscription_id
        )
    # The newer link is the one that counts.
    assert await waiting is Confirmation.UNKNOWN
    assert (await subscription_row(world, subscription_id)).status == "PENDING"


async def test_a_notice_while_a_user_gets_an_address_of_the_same_mailbox(world: World) -> None:
    account = await world.account()
    _, grace = await users_never_asked(world, account.id, "ada@example.com", GRACE)
    actor = admin(account.id)

    async def notice() -> list[str]:
        async with world.database.transaction() as session:
            return await notice_recipients(session, world.services.mail_links, account.id)

    async with world.database.transaction() as session:
        await accounts.update_user(session, actor, world.services.mail_links, grace, {"name": "Grace H."})
        waiting = await begun(world, notice())
        changes = {"email": "ada+grace@example.com"}
        await accounts.update_user(session, actor, world.services.mail_links, grace, changes)
    assert await waiting == []


async def test_a_refused_confirmation_while_its_subscription_is_deleted(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account, email=GRACE)
    actor = admin(account.id)
    refusing = scripted(RCPT="550 5.1.1 No such user")
    async with refusing as server, mailer_to(server.port) as mailer:
        transactional = TransactionalSender(
            world.database,
            world.services.keyring,
            MailSender(mailer, "Voltwire <events@voltwire.example>"),
            [],
            suspend_unconfirmed,
        )
        async with world.database.transaction() as session:
            await session.get_one(EmailSubscription, subscription_id, with_for_update=True)
            waiting = await begun(world, transactional.run())
            await subscriptions.delete(session, actor, world.services.mail_links, subscription_id)
        with capture_logs() as logged:
            transactional.stop(PATIENCE)
            await waiting
    assert [one["event"] for one in logged] == ["mail_attempt"]
    assert transactional.stats.fates == {"EXHAUSTED": 1}
