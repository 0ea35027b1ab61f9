"""Replays: the events that they send again, their progress and their refusals."""

from datetime import timedelta
from typing import Any

import pytest

from app.core import clock
from app.delivery.destinations.kinds import KINDS
from app.delivery.metadata import METADATA
from app.delivery.queue import replays
from app.delivery.queue.models import DeliveryStatus, Lane, Replay
from app.delivery.queue.replay_worker import ReplayWorker
from tests.accounts.state import refusals, unchanged
from tests.delivery.asking import (
    REPLAY,
    UPDATE_ENDPOINT,
    deliveries_of,
    end_delivery,
    make_endpoint,
    make_events,
    now,
    some_deliveries,
)
from tests.meters.asking import run
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases


async def cursor_after(world: World, account: TestAccount, sequence: int) -> str:
    data = await world.data("{ events(first: 100) { nodes { sequence cursor } } }", key=account.key)
    return next(node["cursor"] for node in data["events"]["nodes"] if node["sequence"] == sequence)  # type: ignore[no-any-return]


async def replay_now(world: World, account: TestAccount, replay_id: str) -> dict[str, Any]:
    query = "query ($id: ID!) { replay(id: $id) { status total done } node(id: $id) { id } }"
    data = await world.data(query, {"id": replay_id}, key=account.key)
    assert data["node"] == {"id": replay_id}
    return data["replay"]  # type: ignore[no-any-return]


async def make_deliveries(world: World) -> None:
    await ReplayWorker(world.database, KINDS, METADATA, lambda *_: None).run()


async def test_a_replay_sends_the_range_again_to_an_endpoint_made_later(world: World) -> None:
    account = await world.account()
    await make_events(world, account, "Ada", "Bob", "Cleo")
    endpoint_id = await make_endpoint(world, account, eventTypes=["customer.*"])
    after, through = [await cursor_after(world, account, sequence) for sequence in (1, 3)]
    payload = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, after=after, through=through)
    replay = payload["replay"]
    assert payload["userErrors"] == []
    assert (replay["status"], replay["total"], replay["done"]) == ("RUNNING", 2, 0)
    await make_deliveries(world)
    rows = await deliveries_of(world, endpoint_id)
    assert [(one.event_sequence, one.replay_id, one.lane) for one in rows] == [
        (2, replay["id"], Lane.REPLAY),
        (3, replay["id"], Lane.REPLAY),
    ]
    assert await replay_now(world, account, replay["id"]) == {"status": "RUNNING", "total": 2, "done": 0}
    await end_delivery(world, rows[0].id, DeliveryStatus.SUCCEEDED)
    assert await replay_now(world, account, replay["id"]) == {"status": "RUNNING", "total": 2, "done": 1}
    await end_delivery(world, rows[1].id, DeliveryStatus.EXHAUSTED)
    assert await replay_now(world, account, replay["id"]) == {"status": "DONE", "total": 2, "done": 2}


async def test_without_through_a_replay_ends_where_the_log_ends(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Ada")
    oldest = (await world.data("{ eventStream { oldestCursor } }", key=account.key))["eventStream"]
    payload = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, after=oldest["oldestCursor"])
    await make_events(world, account, "Later")
    await make_deliveries(world)
    replayed = [one for one in await deliveries_of(world, endpoint_id) if one.replay_id]
    assert [one.event_sequence for one in replayed] == [1, 2]
    assert payload["replay"]["total"] == 2


async def test_a_replay_of_failures_takes_what_failed_and_never_arrived(world: World) -> None:
    account = await world.account()
    endpoint_id, rows = await some_deliveries(world, account, "Ada", "Bob", "Cleo", "Dora")
    statuses = (DeliveryStatus.SUCCEEDED, DeliveryStatus.EXHAUSTED, DeliveryStatus.CANCELLED)
    for row, status in zip(rows, statuses, strict=False):
        await end_delivery(world, row.id, status)
    payload = await run(
        world,
        account,
        REPLAY,
        webhookEndpointId=endpoint_id,
        failedSince=clock.format_utc(clock.now() - timedelta(hours=1)),
    )
    assert payload["replay"]["total"] == 2
    await make_deliveries(world)
    replayed = [one for one in await deliveries_of(world, endpoint_id) if one.replay_id]
    assert [one.event_id for one in replayed] == [rows[1].event_id, rows[2].event_id]
    for one in replayed:
        await end_delivery(world, one.id, DeliveryStatus.EXHAUSTED)
    assert await replay_now(world, account, payload["replay"]["id"]) == {
        "status": "DONE",
        "total": 2,
        "done": 2,
    }


async def test_disabling_the_endpoint_ends_its_replays(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Ada")
    after = await cursor_after(world, account, 1)
    payload = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, after=after)
    await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="DISABLED")
    assert await replay_now(world, account, payload["replay"]["id"]) == {
        "status": "CANCELLED",
        "total": 0,
        "done": 0,
    }


async def test_a_replay_says_which_events_in_one_way(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Ada", "Bob")
    one, two = await cursor_after(world, account, 1), await cursor_after(world, account, 2)
    at = clock.now()
    for values, expected in (
        ({}, ("REQUIRED", ["failedSince"])),
        ({"through": two}, ("REQUIRED", ["after"])),
        ({"after": one, "failedSince": now()}, ("INVALID", ["failedSince"])),
        ({"through": two, "failedSince": now()}, ("INVALID", ["through"])),
        ({"after": two, "through": one}, ("INVALID", ["through"])),
        ({"failedSince": clock.format_utc(at + timedelta(hours=1))}, ("OUT_OF_RANGE", ["failedSince"])),
        ({"failedSince": clock.format_utc(at - timedelta(days=91))}, ("OUT_OF_RANGE", ["failedSince"])),
    ):
        async with unchanged(world):
            payload = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, **values)
            assert refusals(payload) == [expected]


async def test_a_cursor_that_is_not_this_accounts_is_bad_input(world: World) -> None:
    account, other = await world.account(), await world.account()
    endpoint_id = await make_endpoint(world, account)
    mine, theirs = await cursor_after(world, account, 1), await cursor_after(world, other, 1)
    for values, field in (
        ({"after": theirs}, "after"),
        ({"after": "made-up"}, "after"),
        ({"after": mine, "through": theirs}, "through"),
    ):
        async with unchanged(world):
            given = {"input": {"webhookEndpointId": endpoint_id, **values}}
            response = await world.ask(REPLAY, given, key=account.key)
            [error] = response["errors"]
            assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": [field]}


async def test_an_endpoint_has_five_running_replays_at_most(world: World) -> None:
    account = await world.account()
    endpoint_id, other_id = await make_endpoint(world, account), await make_endpoint(world, account)
    async with world.database.transaction() as session:
        session.add_all(
            Replay(account_id=account.id, destination_id=endpoint_id, position=0, through=1)
            for _ in range(replays.MAX_RUNNING)
        )
    after = await cursor_after(world, account, 1)
    async with unchanged(world):
        refused = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, after=after)
        assert refusals(refused) == [("LIMIT_REACHED", ["webhookEndpointId"])]
    assert (await run(world, account, REPLAY, webhookEndpointId=other_id, after=after))["userErrors"] == []
