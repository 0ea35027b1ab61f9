"""Backfills through the API: which parts they have, when they begin by themselves, and what ends them at once."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.consents.expiries import Expiries
from app.consents.models import ConsentFlowType
from app.core import clock
from app.core.clock import format_utc, parse_utc
from app.feeds import backfill_plans
from app.feeds.models import MeterFeed
from tests.accounts.state import mutation, refusals, unchanged
from tests.consents.helpers import in_a_year
from tests.feeds.small_source import (
    CANCEL,
    DELETE,
    SET,
    START,
    Fed,
    fed,
    feeding,
)
from tests.meters.asking import make_consent, make_meter
from tests.support import World

RESIDENTIAL, BLANKET = ConsentFlowType.GB_RESIDENTIAL_SPECIFIC, ConsentFlowType.GB_COMMERCIAL_BLANKET
SET_CONSENT = mutation("setMeterConsent", "meter { id }")
REVOKE = mutation("revokeHostedConsent", "hostedConsent { status }")
ASK = mutation("createHostedConsent", "hostedConsent { id link }")
APPROVE = mutation("approveHostedConsent", "hostedConsent { status }")
NUMBER = "9999999999999"


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    async with feeding(migrated_url) as opened:
        yield opened


@pytest.fixture
async def small_world(small_world: World) -> AsyncIterator[World]:
    async with feeding(small_world.services.settings.database_url or "") as opened:
        yield opened


async def consented(world: World, *, numbers: list[str] | None = None) -> tuple[Fed, str, str]:
    """A feed, a meter with a valid consent, and the consent."""
    feed = await fed(world)
    customer_id, meter_id = await feed.customer_and_meter()
    return feed, meter_id, await make_consent(world, feed.account, customer_id, numbers=numbers)


async def approve(feed: Fed, customer_id: str, flow: ConsentFlowType = RESIDENTIAL) -> str:
    """Asks for a consent and approves it with its token, as the end customer does; gives its id."""
    numbers = [NUMBER] if flow is RESIDENTIAL else None
    asked = (
        await feed.run(
            ASK,
            customerId=customer_id,
            flowType=flow.name,
            expiry=in_a_year().isoformat(),
            redirectUrl="https://bright.example/",
            meterNumbers=numbers,
        )
    )["hostedConsent"]
    given = {
        "token": asked["link"].rpartition("/")[2],
        "consenteeFullName": "Ada",
        "consenteeEmail": "ada@example.com",
        "consenteeJobTitle": "Owner",
    }
    approved = await feed.world.data(APPROVE, {"input": given})
    assert approved["approveHostedConsent"]["userErrors"] == []
    consent_id: str = asked["id"]
    return consent_id


async def due(world: World, meter_id: str) -> Any:
    async with world.database.reading() as session:
        statement = select(col(MeterFeed.due_at)).where(col(MeterFeed.meter_id) == meter_id)
        return (await session.execute(statement)).scalar_one()


async def make_due(world: World) -> None:
    """As the worker does once a part is recorded."""
    async with world.database.transaction() as session:
        await session.execute(update(MeterFeed).values(due_at=clock.now(), repair_at=clock.now()))


def day(*given: int) -> datetime:
    return clock.start_of_uk_day(date(*given))


def test_thirteen_months_for_a_home_and_one_part_for_a_business() -> None:
    to = day(2026, 11, 24)
    parts = backfill_plans.plan(RESIDENTIAL, to)
    assert len(parts) == 13
    assert parts[0] == (day(2026, 10, 24), to)
    assert parts[-1] == (day(2025, 10, 24), day(2025, 11, 24))
    assert all(older[1] == newer[0] for newer, older in pairwise(parts))
    assert backfill_plans.plan(BLANKET, to) == [(day(2025, 10, 24), to)]


def test_days_are_clamped_and_months_are_those_of_the_uk() -> None:
    parts = backfill_plans.plan(RESIDENTIAL, day(2026, 3, 31))
    assert [clock.uk_date(start).isoformat() for start, _ in parts] == [
        "2026-02-28", "2026-01-31", "2025-12-31", "2025-11-30", "2025-10-31", "2025-09-30", "2025-08-31",
        "2025-07-31", "2025-06-30", "2025-05-31", "2025-04-30", "2025-03-31", "2025-02-28",
    ]  # fmt: skip
    # Midnight in British Summer Time is 23:00 in UTC.
    assert parts[5][0] == datetime(2025, 9, 29, 23, tzinfo=UTC)
    assert backfill_plans.plan(RESIDENTIAL, day(2024, 3, 29))[0][0] == day(2024, 2, 29)


def test_parts_leave_no_half_hour_out_and_take_none_twice() -> None:
    for days in range(800):
        parts = backfill_plans.plan(RESIDENTIAL, day(2024, 1, 1) + timedelta(days=days))
        assert [start < end for start, end in parts] == [True] * 13
        assert [end for _, end in parts[1:]] == [start for start, _ in parts[:-1]]


def test_a_given_start_shortens_the_oldest_part() -> None:
    to, start = day(2026, 11, 24), datetime(2026, 10, 1, 12, 30, tzinfo=UTC)
    assert backfill_plans.plan(RESIDENTIAL, to, start) == [
        (day(2026, 10, 24), to),
        (start, day(2026, 10, 24)),
    ]
    assert backfill_plans.plan(BLANKET, to, start) == [(start, to)]


def test_daily_fetches_are_spread_over_the_day() -> None:
    today = date(2026, 10, 25)
    times = [backfill_plans.daily_due(f"mtr_{at}", today) for at in range(2400)]
    start, hours = clock.start_of_uk_day(today), [0] * 25
    for at in times:
        hours[int((at - start).total_seconds() // 3600)] += 1
    assert sum(hours) == 2400
    assert min(hours) > 50
    assert times == [backfill_plans.daily_due(f"mtr_{at}", today) for at in range(2400)]


@pytest.mark.both_databases
async def test_a_backfill_begins_when_the_consent_is_approved(world: World) -> None:
    feed = await fed(world)
    customer_id, meter_id = await feed.customer_and_meter()
    assert await feed.set_feed(meter_id) == {
        "id": meter_id,
        "feed": {"id": feed.feed_id},
        "backfills": {"nodes": []},
    }
    today = backfill_plans.start_of_today()
    await approve(feed, customer_id)
    [backfill] = await feed.backfills(meter_id)
    to = parse_utc(backfill["to"])
    assert to in (today, backfill_plans.start_of_today())
    periods = backfill_plans.plan(RESIDENTIAL, to)
    assert backfill == {
        "id": backfill["id"],
        "from": format_utc(periods[-1][0]),
        "to": format_utc(to),
        "status": "WAITING",
        "readingsChanged": 0,
        "createdAt": backfill["createdAt"],
        "completedAt": None,
        "meter": {"id": meter_id},
        "feed": {"id": feed.feed_id},
        "parts": [
            {
                "number": number,
                "from": format_utc(start),
                "to": format_utc(end),
                "status": "WAITING",
                "readingsChanged": 0,
                "attempts": 0,
                "error": None,
            }
            for number, (start, end) in enumerate(periods, 1)
        ],
    }
    assert (await feed.feed())["nextRunAt"] == backfill["createdAt"]


@pytest.mark.both_databases
async def test_a_backfill_begins_when_the_feed_is_set_under_a_valid_consent(world: World) -> None:
    feed, meter_id, _ = await consented(world)
    meter = await feed.set_feed(meter_id, settings={"serial": "S1"})
    [backfill] = await feed.backfills(meter_id)
    # A blanket consent: all of it at once.
    assert len(backfill["parts"]) == 1
    assert meter["backfills"]["nodes"] == [{"id": backfill["id"], "status": "WAITING"}]
    async with unchanged(world):
        await feed.set_feed(meter_id, settings={"serial": "S1"})
    # Other settings may find what was not found before.
    await feed.set_feed(meter_id, settings={"serial": "S2"})
    assert [one["status"] for one in await feed.backfills(meter_id)] == ["WAITING", "CANCELLED"]
    removed = await feed.run(SET, meterId=meter_id, feedId=None)
    assert removed["meter"]["feed"] is None
    assert [one["status"] for one in await feed.backfills(meter_id)] == ["CANCELLED"] * 2
    async with unchanged(world):
        await feed.run(SET, meterId=meter_id)


async def test_the_meters_of_a_feed_are_paged(small_world: World) -> None:
    feed = await fed(small_world)
    customer_id, meter_id = await feed.customer_and_meter()
    others = ("9999999999998", "9999999999997")
    ids = [meter_id]
    ids += [(await make_meter(small_world, feed.account, customer_id, one))["id"] for one in others]
    for one in ids:
        await feed.set_feed(one)
    query = "query ($id: ID!, $after: String) { feed(id: $id) { meters(first: 2, after: $after) { nodes { id feed { id } } pageInfo { endCursor } } } }"  # fmt: skip  # noqa: E501
    found, after = [], None
    for _ in range(2):
        given = {"id": feed.feed_id, "after": after}
        page = (await small_world.data(query, given, key=feed.account.key))["feed"]["meters"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
    assert found == [{"id": one, "feed": {"id": feed.feed_id}} for one in ids]


async def test_a_new_meter_has_no_feed_and_so_no_backfill(small_world: World) -> None:
    feed, meter_id, _ = await consented(small_world)
    query = "query ($id: ID!) { meter(id: $id) { status feed { id } backfills { nodes { id } } } }"
    found = (await small_world.data(query, {"id": meter_id}, key=feed.account.key))["meter"]
    assert found == {"status": "ACTIVE", "feed": None, "backfills": {"nodes": []}}


async def test_meters_take_the_settings_of_their_kind_only(small_world: World) -> None:
    feed, meter_id, _ = await consented(small_world)
    other = await fed(small_world)
    mine = {"feedId": feed.feed_id}
    async with unchanged(small_world):
        for given, refused in (
            ({**mine, "settings": {"accountNumber": "A-1234"}}, ("INVALID", ["settings", "accountNumber"])),
            ({**mine, "settings": {"serial": "s 1"}}, ("INVALID", ["settings", "serial"])),
            ({**mine, "settings": []}, ("INVALID", ["settings"])),
            ({"settings": {"serial": "S1"}}, ("INVALID", ["settings"])),
            ({"feedId": other.feed_id}, ("NOT_FOUND", ["feedId"])),
            ({"feedId": meter_id}, ("NOT_FOUND", ["feedId"])),
        ):  # fmt: skip
            assert refusals(await feed.run(SET, meterId=meter_id, **given)) == [refused]
        assert refusals(await feed.run(SET, meterId=feed.feed_id)) == [("NOT_FOUND", ["meterId"])]


@pytest.mark.both_databases
async def test_a_backfill_is_started_cancelled_and_started_again(world: World) -> None:
    feed, meter_id, _ = await consented(world, numbers=[NUMBER])
    await feed.set_feed(meter_id)
    [first] = await feed.backfills(meter_id)
    async with unchanged(world):
        assert refusals(await feed.run(START, meterId=meter_id)) == [("CONFLICT", ["meterId"])]
    today = backfill_plans.start_of_today()
    payload = await feed.run(CANCEL, backfillId=first["id"])
    cancelled = payload["backfill"]
    assert (cancelled["status"], {one["status"] for one in cancelled["parts"]}) == (
        "CANCELLED",
        {"CANCELLED"},
    )
    assert cancelled["completedAt"] is not None
    # Daily fetches begin all the same.
    assert await due(world, meter_id) > today + timedelta(hours=22)
    async with unchanged(world):
        assert await feed.run(CANCEL, backfillId=first["id"]) == payload
    to = today - timedelta(days=1)
    since = backfill_plans.months_before(to, 2) + timedelta(minutes=40)
    period = {"from": format_utc(since), "to": format_utc(to)}
    started = await feed.run(START, meterId=meter_id, **period)
    backfill = started["backfill"]
    assert started["userErrors"] == []
    assert parse_utc(backfill["from"]) == since - timedelta(minutes=10)
    assert [parse_utc(one["to"]) for one in backfill["parts"]] == [
        to,
        backfill_plans.months_before(to, 1),
    ]
    assert [one["id"] for one in await feed.backfills(meter_id)] == [backfill["id"], first["id"]]
    query = "query ($id: ID!) { backfill(id: $id) { id } node(id: $id) { id __typename } }"
    assert await world.data(query, {"id": backfill["id"]}, key=feed.account.key) == {
        "backfill": {"id": backfill["id"]},
        "node": {"id": backfill["id"], "__typename": "Backfill"},
    }


@pytest.mark.usefixtures("within_half_hour")
async def test_what_cannot_be_backfilled_is_refused(small_world: World) -> None:
    feed = await fed(small_world)
    customer_id, meter_id = await feed.customer_and_meter()
    assert refusals(await feed.run(START, meterId=meter_id)) == [("CONSENT_REQUIRED", ["meterId"])]
    await make_consent(small_world, feed.account, customer_id)
    assert refusals(await feed.run(START, meterId=meter_id)) == [("CONFLICT", ["meterId"])]
    await feed.set_feed(meter_id)
    [first] = await feed.backfills(meter_id)
    await feed.run(CANCEL, backfillId=first["id"])
    today, now = backfill_plans.start_of_today(), clock.now()
    async with unchanged(small_world):
        for given, refused in (
            ({"to": format_utc(now + timedelta(days=1))}, ("OUT_OF_RANGE", ["to"])),
            ({"from": format_utc(now)}, ("OUT_OF_RANGE", ["from"])),
            (
                {"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"},
                ("OUT_OF_RANGE", ["from"]),
            ),
            ({"from": format_utc(today - timedelta(days=3700))}, ("OUT_OF_RANGE", ["from"])),
            ({"from": "1900-01-01T00:00:00Z"}, ("OUT_OF_RANGE", ["from"])),
            ({"to": "1900-01-01T00:00:00Z", "from": "1900-01-01T00:00:00Z"}, ("OUT_OF_RANGE", ["from"])),
        ):
            assert refusals(await feed.run(START, meterId=meter_id, **given)) == [refused]
        assert refusals(await feed.run(START, meterId=first["id"])) == [("NOT_FOUND", ["meterId"])]
        assert refusals(await feed.run(CANCEL, backfillId=meter_id)) == [("NOT_FOUND", ["backfillId"])]
    # Now is not the future, but today is not complete yet.
    started = await feed.run(START, meterId=meter_id, to=format_utc(now))
    assert parse_utc(started["backfill"]["to"]) in (today, backfill_plans.start_of_today())


@pytest.mark.both_databases
@pytest.mark.parametrize("way", ["revoked", "removed", "expired", "feed removed", "feed deleted"])
async def test_what_ends_the_consent_or_the_feed_ends_what_is_fetched(world: World, way: str) -> None:
    feed, meter_id, consent_id = await consented(world)
    await feed.set_feed(meter_id)
    await make_due(world)
    if way == "revoked":
        assert (await feed.run(REVOKE, hostedConsentId=consent_id))["userErrors"] == []
    elif way == "removed":
        assert (await feed.run(SET_CONSENT, meterId=meter_id))["userErrors"] == []
    elif way == "expired":
        later = clock.now() + timedelta(days=31)
        assert await Expiries(world.database, lambda: later).step()
    elif way == "feed removed":
        assert (await feed.run(SET, meterId=meter_id))["userErrors"] == []
    else:
        assert (await feed.run(DELETE, feedId=feed.feed_id))["userErrors"] == []
    [backfill] = await feed.backfills(meter_id)
    assert (backfill["status"], [one["status"] for one in backfill["parts"]]) == (
        "CANCELLED",
        ["CANCELLED"],
    )
    if way == "feed deleted":
        assert backfill["feed"] is None
    elif way != "feed removed":
        assert await due(world, meter_id) is None
        assert (await feed.feed())["nextRunAt"] is None


async def test_a_second_valid_consent_keeps_what_is_fetched(small_world: World) -> None:
    feed, meter_id, first = await consented(small_world)
    query = "query ($id: ID!) { meter(id: $id) { customer { id } } }"
    found = await small_world.data(query, {"id": meter_id}, key=feed.account.key)
    await make_consent(small_world, feed.account, found["meter"]["customer"]["id"])
    await feed.set_feed(meter_id)
    await feed.run(REVOKE, hostedConsentId=first)
    assert [one["status"] for one in await feed.backfills(meter_id)] == ["WAITING"]


async def test_a_consent_that_is_given_again_begins_again(small_world: World) -> None:
    feed, meter_id, consent_id = await consented(small_world)
    await feed.set_feed(meter_id)
    await feed.run(SET_CONSENT, meterId=meter_id)
    await feed.run(SET_CONSENT, meterId=meter_id, hostedConsentId=consent_id)
    assert [one["status"] for one in await feed.backfills(meter_id)] == ["WAITING", "CANCELLED"]
    # The same consent once more is none that became valid.
    await feed.run(SET_CONSENT, meterId=meter_id, hostedConsentId=consent_id)
    assert len(await feed.backfills(meter_id)) == 2


@pytest.mark.both_databases
@pytest.mark.parametrize("way", ["deleteMeter", "deleteCustomer"])
async def test_a_deleted_meter_leaves_nothing_to_fetch(world: World, way: str) -> None:
    feed = await fed(world)
    customer_id, meter_id = await feed.customer_and_meter()
    await make_consent(world, feed.account, customer_id)
    await feed.set_feed(meter_id)
    [backfill] = await feed.backfills(meter_id)
    given = {"meterId": meter_id} if way == "deleteMeter" else {"customerId": customer_id}
    assert (await feed.run(mutation(way, "deletedId"), **given))["userErrors"] == []
    query = (
        "query ($id: ID!, $feed: ID!) "
        "{ backfill(id: $id) { id } feed(id: $feed) { nextRunAt meters { nodes { id } } } }"
    )
    found = await world.data(query, {"id": backfill["id"], "feed": feed.feed_id}, key=feed.account.key)
    assert found == {"backfill": None, "feed": {"nextRunAt": None, "meters": {"nodes": []}}}
