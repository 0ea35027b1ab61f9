"""Bounds of what a feed asks, answers and mails, whatever its source and its people do."""

from collections.abc import AsyncIterator
from datetime import timedelta

import orjson
import pytest
from sqlalchemy import update

from app.core import clock
from app.core.errors import Refusal
from app.feeds.attention import report
from app.feeds.check_limits import ACCOUNT_AT_ONCE, Checks
from app.outbound.mail.models import TransactionalMail
from tests.consents.helpers import mails
from tests.feeds.feeding import confirmed
from tests.feeds.small_source import CHECK, UPDATE, fed, feeding
from tests.services.receiver import Answer, Receiver
from tests.support import World


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    async with feeding(migrated_url) as opened:
        yield opened


async def test_what_a_source_says_of_a_meter_is_a_short_line(world: World, receiver: Receiver) -> None:
    said = orjson.dumps({"9999999999999": "At\0home\n" * 50_000})
    receiver.on("/meters", Answer(200, body=said))
    feed = await fed(world, receiver)
    first = await feed.run(CHECK, feedId=feed.feed_id, idempotencyKey="once")
    assert await feed.run(CHECK, feedId=feed.feed_id, idempotencyKey="once") == first
    [found] = first["discoveredMeters"]
    assert found["description"].startswith("At home At home ")
    assert len(found["description"]) == 500


def test_no_account_tries_credentials_without_end() -> None:
    """New credentials, or a new feed, may be checked at once; a loop over passwords must end nevertheless."""
    checks, made = Checks(), 0

    def check_on() -> None:
        nonlocal made
        while made < 2 * ACCOUNT_AT_ONCE:
            with checks.one_of("acc_of_a_guesser"):
                made += 1

    with pytest.raises(Refusal, match="checked often just now"):
        check_on()
    assert made >= ACCOUNT_AT_ONCE
    with checks.one_of("acc_of_another"):
        pass


async def test_a_feed_that_is_set_going_again_and_again_mails_a_few_times_a_day(small_world: World) -> None:
    feed = await fed(small_world)
    await confirmed(small_world)

    async def fail() -> None:
        async with small_world.database.transaction() as session:
            assert await report(session, small_world.services.mail_links, feed.feed_id, "The key is wrong.")
        await feed.run(UPDATE, feedId=feed.feed_id, status="ACTIVE")

    for _ in range(5):
        await fail()
    assert len(await mails(small_world)) == 3
    async with small_world.database.transaction() as session:
        await session.execute(
            update(TransactionalMail).values(created_at=clock.now() - timedelta(days=1, minutes=1))
        )
    await fail()
    assert len(await mails(small_world)) == 4
