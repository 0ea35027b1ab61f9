"""Requests that come at the same time: a consent and a feed, their ends, two backfills, many checks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.consents.models import ConsentStatus
from app.feeds.check_limits import OF_ACCOUNT
from app.feeds.models import MeterFeed
from tests.accounts.state import mutation
from tests.consents.helpers import in_a_year
from tests.feeds.small_source import CHECK, CREATE, DELETE, KEY, SET, START, Fed, fed, feeding, listing
from tests.meters.asking import NUMBERS, make_consent
from tests.services.receiver import Answer, Receiver
from tests.support import World

APPROVE = mutation("approveHostedConsent", "hostedConsent { status }")
ASK = mutation("createHostedConsent", "hostedConsent { id link }")
REVOKE = mutation("revokeHostedConsent", "hostedConsent { status }")


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    async with feeding(migrated_url) as opened:
        yield opened


async def approval(feed: Fed, customer_id: str) -> dict[str, str]:
    """The input that approves a blanket consent of a customer."""
    given = {
        "customerId": customer_id,
        "flowType": "GB_COMMERCIAL_BLANKET",
        "expiry": in_a_year().isoformat(),
    }
    asked = await feed.run(ASK, **given, redirectUrl="https://bright.example/")
    token = asked["hostedConsent"]["link"].rpartition("/")[2]
    who = {"consenteeFullName": "A", "consenteeEmail": "a@example.com", "consenteeJobTitle": "Owner"}
    return {"token": token, **who}


async def statuses(feed: Fed, meter_id: str) -> list[str]:
    return [one["status"] for one in await feed.backfills(meter_id)]


@pytest.mark.both_databases
async def test_a_consent_and_a_feed_that_come_at_once_begin_one_backfill(world: World) -> None:
    feed = await fed(world)
    meters = [await feed.customer_and_meter(number) for number in NUMBERS]
    approvals = [await approval(feed, customer_id) for customer_id, _ in meters]
    answers = await asyncio.gather(
        *(world.data(APPROVE, {"input": given}) for given in approvals),
        *(feed.set_feed(meter_id) for _, meter_id in meters),
    )
    assert [one["approveHostedConsent"]["userErrors"] for one in answers[: len(meters)]] == [[]] * len(meters)
    for _, meter_id in meters:
        assert await statuses(feed, meter_id) == ["WAITING"]


@pytest.mark.both_databases
async def test_a_feed_that_is_set_as_the_consent_is_revoked_fetches_nothing(world: World) -> None:
    feed = await fed(world)
    meters = [await feed.customer_and_meter(number) for number in NUMBERS]
    consents = [
        await make_consent(world, feed.account, customer_id, ConsentStatus.APPROVED)
        for customer_id, _ in meters
    ]
    answers = await asyncio.gather(
        *(feed.run(REVOKE, hostedConsentId=one) for one in consents),
        *(feed.run(SET, meterId=meter_id, feedId=feed.feed_id) for _, meter_id in meters),
    )
    assert [one["userErrors"] for one in answers] == [[]] * len(answers)
    for _, meter_id in meters:
        assert set(await statuses(feed, meter_id)) <= {"CANCELLED"}


@pytest.mark.both_databases
async def test_of_two_backfills_that_are_started_at_once_one_is(world: World) -> None:
    feed = await fed(world)
    customer_id, meter_id = await feed.customer_and_meter()
    await feed.set_feed(meter_id)
    await make_consent(world, feed.account, customer_id)
    answers = await asyncio.gather(*(feed.run(START, meterId=meter_id) for _ in range(4)))
    codes = [error["code"] for one in answers for error in one["userErrors"]]
    assert codes == ["CONFLICT"] * 3
    assert await statuses(feed, meter_id) == ["WAITING"]


@pytest.mark.both_databases
async def test_a_feed_that_is_deleted_as_it_is_set_leaves_no_meter_with_it(world: World) -> None:
    feed = await fed(world)
    meters = [await feed.customer_and_meter(number) for number in NUMBERS]
    for customer_id, _ in meters:
        await make_consent(world, feed.account, customer_id)
    answers = await asyncio.gather(
        *(feed.run(SET, meterId=meter_id, feedId=feed.feed_id) for _, meter_id in meters),
        feed.run(DELETE, feedId=feed.feed_id),
    )
    assert {error["code"] for one in answers for error in one["userErrors"]} <= {"NOT_FOUND"}
    async with world.database.reading() as session:
        assert (await session.execute(select(col(MeterFeed.meter_id)))).all() == []
    for _, meter_id in meters:
        assert set(await statuses(feed, meter_id)) <= {"CANCELLED"}


async def test_an_account_has_few_checks_under_way(world: World, receiver: Receiver) -> None:
    receiver.on("/meters", Answer(200, body=b"[]", hold=True))
    feed = await fed(world, receiver)
    given = {"kind": "OCTOPUS", "settings": {"baseUrl": receiver.url("")}, "credentials": {"apiKey": KEY}}
    others = [(await feed.run(CREATE, **given, name="More"))["feed"]["id"] for _ in range(OF_ACCOUNT)]
    first = [asyncio.create_task(feed.run(CHECK, feedId=one)) for one in others]
    await receiver.wait_for(OF_ACCOUNT)
    refused = await feed.run(CHECK, feedId=feed.feed_id)
    assert [one["code"] for one in refused["userErrors"]] == ["LIMIT_REACHED"]
    # Another account's checks are its own.
    elsewhere = await fed(world, receiver)
    other = asyncio.create_task(elsewhere.run(CHECK, feedId=elsewhere.feed_id))
    await receiver.wait_for(OF_ACCOUNT + 1)
    receiver.release()
    assert [one["userErrors"] for one in await asyncio.gather(*first, other)] == [[]] * (OF_ACCOUNT + 1)
    listing(receiver)
    assert (await feed.run(CHECK, feedId=feed.feed_id))["userErrors"] == []
