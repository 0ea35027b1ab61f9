"""Bounds of what a feed's check asks and answers, whatever its source and its people do."""

from collections.abc import AsyncIterator

import orjson
import pytest

from app.core.errors import Refusal
from app.feeds.check_limits import ACCOUNT_AT_ONCE, Checks
from tests.feeds.small_source import CHECK, fed, feeding
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
