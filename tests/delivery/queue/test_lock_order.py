"""Transactions that mail to one address, or change its subscription, never wait for each other in a circle."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import text

from app.accounts import actions as accounts
from app.auth.actor import Actor, Scope
from app.delivery.destinations.email import links, subscriptions
from app.delivery.destinations.email.links import Confirmation
from app.events import log
from app.outbound.mail.rendering import Post
from tests.delivery.asking import subscription_row
from tests.delivery.destinations.email.test_pages import subscribed
from tests.delivery.destinations.email.test_subscriptions import a_minute_later
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


def post(world: World) -> Post:
    return Post(world.services.keyring, world.services.public_url)


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
            await subscriptions.create(session, actor, post(world), email=GRACE)

    async with world.database.transaction() as session:
        await accounts.create_user(session, actor, post(world), email=GRACE, name="Grace")
        waiting = await begun(world, subscribe())
    await waiting


async def test_a_confirmation_while_the_address_is_asked_again(world: World) -> None:
    account, subscription_id, link, _ = await subscribed(world)
    await a_minute_later(world)

    async def confirm() -> Confirmation:
        async with world.database.transaction() as session:
            token = link.rpartition("/")[2]
            return (await links.confirm(session, world.services.keyring, token)).state

    async with world.database.transaction() as session:
        await log.lock_position(session, account.id)
        waiting = await begun(world, confirm())
        await subscriptions.resend_confirmation(session, admin(account.id), post(world), subscription_id)
    # The newer link is the one that counts.
    assert await waiting is Confirmation.UNKNOWN
    assert (await subscription_row(world, subscription_id)).status == "PENDING"
