"""Credentials of feeds stand nowhere but encrypted: no table, log line, answer, event or mail holds one."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import structlog
from sqlalchemy import update

from app.accounts.models import User
from app.core import clock
from app.feeds.exchange import HIDDEN
from tests.accounts.state import state
from tests.consents.helpers import mails
from tests.feeds.small_source import CHECK, CREATE, FEED, KEY, SET, UPDATE, fed, feeding
from tests.meters.asking import make_consent
from tests.services.receiver import Answer, Receiver
from tests.support import World

PASSWORD = "correct horse battery £9"
OTHER = "sk_live_another_7b2e_nobody_may_see"
SECRETS = (KEY, OTHER, PASSWORD)


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    async with feeding(migrated_url) as opened:
        yield opened


def echoing(status: int) -> Any:
    """A source that repeats the key that it was sent, in an error that is longer than what is quoted of it."""

    def answer(request: Any) -> Answer:
        key = request.headers["x-key"]
        words = f"The key {key} is not known, nor is {key}, {'nor ' * 30}{key}."
        return Answer(status, body=orjson.dumps({"detail": words}))

    return answer


@pytest.mark.both_databases
async def test_no_credential_is_anywhere(world: World, receiver: Receiver) -> None:
    answers: list[Any] = []
    with structlog.testing.capture_logs() as lines:
        feed = await fed(world, receiver)
        async with world.database.transaction() as session:
            await session.execute(update(User).values(email_confirmed_at=clock.now()))
        customer_id, meter_id = await feed.customer_and_meter()
        await make_consent(world, feed.account, customer_id)
        guarded = {
            "kind": "GLOWMARKT",
            "name": "Flats",
            "settings": {"site": "north"},
            "credentials": {"username": "ada", "password": PASSWORD},
            "idempotencyKey": "flats",
        }
        answers += [await feed.run(CREATE, **guarded) for _ in range(2)]
        # Refused inputs hold one as well.
        answers += [
            await feed.run(CREATE, **{**guarded, "credentials": {KEY: OTHER}, "idempotencyKey": "other"}),
            await feed.run(CREATE, **{**guarded, "kind": "PERSE", "idempotencyKey": "perse"}),
            await feed.run(UPDATE, feedId=meter_id, credentials={"apiKey": OTHER}),
            await world.ask(CREATE, {"input": {"kind": "OCTOPUS", "credentials": {"apiKey": OTHER}}}),
            await world.ask(
                f'mutation {{ updateFeed(input: {{feedId: "{feed.feed_id}", credentials: {{apiKey: "{OTHER}"}}}}) '
                "{ feed { id credentials } } }",
                key=feed.account.key,
            ),
        ]
        answers.append(await feed.run(SET, meterId=meter_id, feedId=feed.feed_id))
        for status in (500, 404, 429, 401):
            receiver.on("/meters", echoing(status))
            answers.append(await feed.run(CHECK, feedId=feed.feed_id, idempotencyKey=f"check {status}"))
        literal = f'credentials: {{apiKey: "{OTHER}"}}, idempotencyKey: "literal"'
        answers.append(
            await world.ask(
                f'mutation {{ updateFeed(input: {{feedId: "{feed.feed_id}", {literal}}}) {{ feed {{ {FEED} }} }} }}',
                key=feed.account.key,
            )
        )
        answers.append(await feed.run(CHECK, feedId=feed.feed_id))
        query = f"{{ feeds {{ nodes {{ {FEED} }} }} events(first: 100) {{ nodes {{ data }} }} }}"
        answers.append(await world.data(query, key=feed.account.key))
    rows, post = await state(world), await mails(world)
    assert len(rows["feeds"]) == 2
    assert len(post) == 2
    # The source's words are told, but for the keys in them.
    errors = [error for one in answers for error in one.get("userErrors", ())]
    told = [error["message"] for error in errors if error["field"] == ["feedId"]]
    told = [one for one in told if one.startswith("The source")]
    assert len(told) == 5
    assert all(f"The key {HIDDEN} is not known" in one for one in told)
    for place in (answers, rows, lines, post):
        for secret in SECRETS:
            # A key that was cut is no better.
            assert secret[:16] not in repr(place)
