"""Deliveries in the API: lists, filters, attempts, statistics, test events, retries."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.email import link_actions
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.models import Delivery, DeliveryStatus, Lane
from app.events.catalogue import event_class, event_names
from app.events.models import EventRecord
from app.outbound.mail.link_tokens import Unsubscribe
from tests.accounts.state import mutation, reads, refusals, unchanged
from tests.delivery.asking import (
    DELIVERY,
    REPLAY,
    RETRY,
    TEST_EVENT,
    UPDATE_ENDPOINT,
    activate,
    deliveries_of,
    dispatch,
    end_delivery,
    make_endpoint,
    make_events,
    make_subscription,
    now,
    some_deliveries,
)
from tests.meters.asking import run
from tests.support import TestAccount, World

PAGE = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
LIST = f"""query ($filter: DeliveryFilter, $first: Int, $after: String, $last: Int, $before: String) {{
    deliveries(filter: $filter, first: $first, after: $after, last: $last, before: $before) {{
        nodes {{ id }} {PAGE}
    }}
}}"""
NOT_THERE = "dlv_01jdf3w8q2k7c9v5m1x0a4b6d8"


async def listed(world: World, account: TestAccount, **variables: Any) -> list[str]:
    data = await world.data(LIST, variables, key=account.key)
    return [node["id"] for node in data["deliveries"]["nodes"]]


async def test_a_delivery_shows_its_event_destination_and_attempts(world: World) -> None:
    account = await world.account()
    endpoint_id, [delivery] = await some_deliveries(world, account, "Ada")
    await end_delivery(world, delivery.id, DeliveryStatus.EXHAUSTED, attempts=2)
    query = f"""query ($id: ID!) {{ delivery(id: $id) {{ {DELIVERY}
        attempts {{ number at durationMs outcome responseStatus responseBody error }} }} }}"""
    found = (await world.data(query, {"id": delivery.id}, key=account.key))["delivery"]
    attempt = {
        "at": found["attempts"][0]["at"],
        "durationMs": 12,
        "outcome": "HTTP_STATUS",
        "responseStatus": 500,
        "responseBody": "no",
        "error": "The receiver answered 500.",
    }
    assert found == {
        "id": delivery.id,
        "status": "EXHAUSTED",
        "nextAttemptAt": None,
        "createdAt": clock.format_utc(delivery.created_at),
        "event": {"id": delivery.event_id},
        "endpoint": {"id": endpoint_id},
        "emailSubscription": None,
        "attempts": [{"number": 1, **attempt}, {"number": 2, **attempt}],
    }


async def test_the_event_is_null_once_it_is_past_retention(world: World) -> None:
    account = await world.account()
    _, [delivery] = await some_deliveries(world, account, "Ada")
    async with world.database.transaction() as session:
        await session.execute(delete(EventRecord))
    query = "query ($id: ID!) { delivery(id: $id) { status event { id } } }"
    data = await world.data(query, {"id": delivery.id}, key=account.key)
    assert data == {"delivery": {"status": "PENDING", "event": None}}


async def test_deliveries_come_newest_first_in_pages_both_ways(world: World) -> None:
    account = await world.account()
    _, rows = await some_deliveries(world, account, "Ada", "Bob", "Cleo", "Dora", "Eve")
    newest = [one.id for one in reversed(rows)]
    assert await listed(world, account) == newest
    page = (await world.data(LIST, {"first": 2}, key=account.key))["deliveries"]
    assert [node["id"] for node in page["nodes"]] == newest[:2]
    assert (page["pageInfo"]["hasNextPage"], page["pageInfo"]["hasPreviousPage"]) == (True, False)
    end = page["pageInfo"]["endCursor"]
    assert await listed(world, account, first=2, after=end) == newest[2:4]
    assert await listed(world, account, last=2) == newest[3:]
    assert await listed(world, account, last=1, before=end) == newest[:1]


async def test_filters_narrow_by_all_that_is_given(world: World) -> None:
    account = await world.account()
    endpoint_id, subscription_id = (
        await make_endpoint(world, account),
        await make_subscription(world, account),
    )
    await activate(world, subscription_id)
    await make_events(world, account, "Ada", "Bob")
    await dispatch(world)
    first, second = await deliveries_of(world, endpoint_id)
    mails = [one.id for one in await deliveries_of(world, subscription_id)]  # the account's user is one more
    await end_delivery(world, first.id, DeliveryStatus.SUCCEEDED)
    before, after = first.created_at, second.created_at + timedelta(milliseconds=1)

    async def found(**filter: Any) -> set[str]:
        return set(await listed(world, account, filter=filter))

    everything = {first.id, second.id, *mails}
    assert await found() == everything
    assert await found(webhookEndpointId=endpoint_id) == {first.id, second.id}
    assert await found(emailSubscriptionId=subscription_id) == set(mails)
    assert await found(webhookEndpointId=subscription_id) == set()
    assert await found(webhookEndpointId=endpoint_id, emailSubscriptionId=subscription_id) == set()
    assert await found(eventId=first.event_id, webhookEndpointId=endpoint_id) == {first.id}
    assert await found(statuses=["SUCCEEDED", "CANCELLED"]) == {first.id}
    assert await found(statuses=[]) == set()
    users = {
        one.id for one in await deliveries_of(world, subscription_id) if one.event_type == "user.created"
    }
    assert len(users) == 1
    assert await found(eventTypes=["USER_CREATED"]) == users
    assert await found(eventTypes=["METER_CREATED", "CUSTOMER_CREATED"]) == everything - users
    assert await found(eventTypes=["METER_CREATED"]) == await found(eventTypes=[]) == set()
    assert await found(createdFrom=clock.format_utc(before), createdTo=clock.format_utc(after)) == everything
    assert await found(createdTo=clock.format_utc(before)) == set()
    assert await found(createdFrom=clock.format_utc(after)) == set()


async def test_another_account_sees_none_of_them(world: World) -> None:
    account, other = await world.account(), await world.account()
    endpoint_id, [delivery] = await some_deliveries(world, account, "Ada")
    replay = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, failedSince=now())
    replay_id = replay["replay"]["id"]
    query = """query ($delivery: ID!, $replay: ID!, $endpoint: ID!) {
        delivery(id: $delivery) { id } replay(id: $replay) { id } webhookEndpoint(id: $endpoint) { id }
        a: node(id: $delivery) { id } b: node(id: $replay) { id }
        deliveries(filter: {webhookEndpointId: $endpoint}) { nodes { id } }
    }"""
    ids = {"delivery": delivery.id, "replay": replay_id, "endpoint": endpoint_id}
    assert await world.data(query, ids, key=other.key) == {
        "delivery": None,
        "replay": None,
        "webhookEndpoint": None,
        "a": None,
        "b": None,
        "deliveries": {"nodes": []},
    }
    async with unchanged(world):
        assert refusals(await run(world, other, RETRY, deliveryId=delivery.id)) == [
            ("NOT_FOUND", ["deliveryId"])
        ]
        refused = await run(world, other, REPLAY, webhookEndpointId=endpoint_id, failedSince=now())
        assert refusals(refused) == [("NOT_FOUND", ["webhookEndpointId"])]


async def test_endpoints_show_their_deliveries_and_statistics_in_a_fixed_number_of_statements(
    world: World,
) -> None:
    account = await world.account()
    busy, idle = await make_endpoint(world, account), await make_endpoint(world, account)
    await make_events(world, account, "Ada", "Bob", "Cleo", "Dora")
    await dispatch(world)
    rows = await deliveries_of(world, busy)
    for row, status in zip(
        rows, (DeliveryStatus.SUCCEEDED, DeliveryStatus.FAILED, DeliveryStatus.EXHAUSTED), strict=False
    ):
        await end_delivery(world, row.id, status)
    succeeded_at = clock.now()
    async with world.database.transaction() as session:
        await session.execute(
            update(WebhookEndpoint)
            .where(col(WebhookEndpoint.id) == busy)
            .values(last_success_at=succeeded_at)
        )
        await session.execute(delete(Delivery).where(col(Delivery.destination_id) == idle))
    query = """{ webhookEndpoints { nodes {
        id stats { succeeded failing exhausted oldestDueAt lastSuccessAt }
        deliveries(first: 2) {
            nodes { id event { name } attempts { number } endpoint { url } } pageInfo { hasNextPage }
        }
    } } }"""
    with reads(world.database) as statements:
        data = await world.data(query, key=account.key)
    first, second = data["webhookEndpoints"]["nodes"]
    oldest = min(row.due_at for row in await deliveries_of(world, busy) if row.due_at is not None)
    assert first["stats"] == {
        "succeeded": 1,
        "failing": 1,
        "exhausted": 1,
        "oldestDueAt": clock.format_utc(oldest),
        "lastSuccessAt": clock.format_utc(succeeded_at),
    }
    assert [node["id"] for node in first["deliveries"]["nodes"]] == [rows[3].id, rows[2].id]
    assert [len(node["attempts"]) for node in first["deliveries"]["nodes"]] == [0, 1]
    assert first["deliveries"]["pageInfo"] == {"hasNextPage": True}
    assert second == {
        "id": idle,
        "stats": {
            "succeeded": 0,
            "failing": 0,
            "exhausted": 0,
            "oldestDueAt": None,
            "lastSuccessAt": None,
        },
        "deliveries": {"nodes": [], "pageInfo": {"hasNextPage": False}},
    }
    # Endpoints, deliveries with their events and endpoints, attempts, statistics; who asks is read anew only after a
    # while.
    assert len([one for one in statements if "FROM api_keys" not in one]) == 4


@pytest.mark.parametrize("kind", event_names())
async def test_a_test_event_is_the_catalogues_example_outside_the_log(world: World, kind: str) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account, eventTypes=["user.created"])
    payload = await run(
        world, account, TEST_EVENT, webhookEndpointId=endpoint_id, type=event_class(kind).constant()
    )
    [row] = await deliveries_of(world, endpoint_id)
    assert payload["delivery"] == {
        "id": row.id,
        "status": "PENDING",
        "nextAttemptAt": clock.format_utc(row.due_at) if row.due_at else None,
        "createdAt": clock.format_utc(row.created_at),
        "event": None,
        "endpoint": {"id": endpoint_id},
        "emailSubscription": None,
    }
    assert row.event_id.startswith("evt_test_")
    assert (row.event_type, row.event_sequence) == (kind, None)
    assert row.test_event == event_class(kind).example
    data = await world.data("{ events { nodes { name } } }", key=account.key)
    assert data == {"events": {"nodes": [{"name": "user.created"}]}}


async def test_a_disabled_endpoint_takes_no_test_retry_or_replay(world: World) -> None:
    account = await world.account()
    endpoint_id, [delivery] = await some_deliveries(world, account, "Ada")
    await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="DISABLED")
    async with unchanged(world):
        refused = await run(world, account, TEST_EVENT, webhookEndpointId=endpoint_id, type="USER_CREATED")
        assert refusals(refused) == [("CONFLICT", ["webhookEndpointId"])]
        refused = await run(world, account, RETRY, deliveryId=delivery.id)
        assert refusals(refused) == [("CONFLICT", ["deliveryId"])]
        refused = await run(world, account, REPLAY, webhookEndpointId=endpoint_id, failedSince=now())
        assert refusals(refused) == [("CONFLICT", ["webhookEndpointId"])]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "EXHAUSTED", "CANCELLED"])
async def test_a_retried_delivery_is_due_at_once_and_begins_its_schedule_anew(
    world: World, status: str
) -> None:
    account = await world.account()
    _, [delivery] = await some_deliveries(world, account, "Ada")
    await end_delivery(world, delivery.id, DeliveryStatus(status), attempts=3)
    before = clock.now()
    payload = await run(world, account, RETRY, deliveryId=delivery.id)
    assert payload["userErrors"] == []
    assert payload["delivery"]["status"] == "PENDING"
    [row] = await deliveries_of(world, delivery.destination_id)
    assert row.due_at is not None
    assert row.due_at >= before - timedelta(seconds=5)
    assert payload["delivery"]["nextAttemptAt"] == clock.format_utc(row.due_at)
    assert (row.attempts_made, row.schedule_start, row.lane) == (3, 3, Lane.RETRY)
    assert (row.finished_at, row.leased_until, row.body) == (None, None, b"{}")


async def test_a_delivery_that_waits_or_is_under_way_is_not_retried(world: World) -> None:
    account = await world.account()
    _, [waiting, tried] = await some_deliveries(world, account, "Ada", "Bob")
    await end_delivery(world, tried.id, DeliveryStatus.FAILED)
    async with world.database.transaction() as session:
        await session.execute(
            update(Delivery)
            .where(col(Delivery.id) == tried.id)
            .values(leased_until=clock.now() + timedelta(minutes=1))
        )
    async with unchanged(world):
        for delivery in (waiting, tried):
            refused = await run(world, account, RETRY, deliveryId=delivery.id)
            assert refusals(refused) == [("CONFLICT", ["deliveryId"])]
        refused = await run(world, account, RETRY, deliveryId=NOT_THERE)
        assert refusals(refused) == [("NOT_FOUND", ["deliveryId"])]


async def test_without_its_event_or_destination_a_delivery_is_not_retried(world: World) -> None:
    account = await world.account()
    endpoint_id, [first, second] = await some_deliveries(world, account, "Ada", "Bob")
    for delivery in (first, second):
        await end_delivery(world, delivery.id, DeliveryStatus.EXHAUSTED)
    async with world.database.transaction() as session:
        await session.execute(delete(EventRecord).where(col(EventRecord.id) == first.event_id))
    async with unchanged(world):
        assert refusals(await run(world, account, RETRY, deliveryId=first.id)) == [
            ("CONFLICT", ["deliveryId"])
        ]
    await run(
        world,
        account,
        mutation("deleteWebhookEndpoint", "deletedId"),
        webhookEndpointId=endpoint_id,
    )
    async with unchanged(world):
        assert refusals(await run(world, account, RETRY, deliveryId=second.id)) == [
            ("CONFLICT", ["deliveryId"])
        ]


async def test_a_mail_is_retried_while_its_subscription_is_active(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    await activate(world, subscription_id)
    await dispatch(world)
    [delivery] = await deliveries_of(world, subscription_id)
    await end_delivery(world, delivery.id, DeliveryStatus.EXHAUSTED)
    assert (await run(world, account, RETRY, deliveryId=delivery.id))["delivery"]["status"] == "PENDING"
    await end_delivery(world, delivery.id, DeliveryStatus.CANCELLED, attempts=0)
    async with world.database.transaction() as session:
        keyring, link = world.services.keyring, Unsubscribe(subscription_id, None)
        await link_actions.unsubscribe(session, keyring, link)
    async with unchanged(world):
        refused = await run(world, account, RETRY, deliveryId=delivery.id)
        assert refusals(refused) == [("CONFLICT", ["deliveryId"])]


async def test_a_retry_with_the_same_key_answers_the_same(world: World) -> None:
    account = await world.account()
    _, [delivery] = await some_deliveries(world, account, "Ada")
    await end_delivery(world, delivery.id, DeliveryStatus.EXHAUSTED)
    first = await run(world, account, RETRY, deliveryId=delivery.id, idempotencyKey="once")
    async with unchanged(world):
        assert await run(world, account, RETRY, deliveryId=delivery.id, idempotencyKey="once") == first


async def test_an_endpoint_with_the_same_key_is_made_once_and_its_secret_shown_again(world: World) -> None:
    account = await world.account()
    document = mutation("createWebhookEndpoint", "webhookEndpoint { id } secret")
    values = {"url": "https://hooks.example.com/", "idempotencyKey": "once"}
    first = await run(world, account, document, **values)
    async with unchanged(world):
        assert await run(world, account, document, **values) == first


async def test_a_reading_key_changes_nothing(world: World) -> None:
    account = await world.account()
    endpoint_id, [delivery] = await some_deliveries(world, account, "Ada")
    made = await run(world, account, mutation("createApiKey", "secret"), name="Dashboard", scopes=["READ"])
    reader = TestAccount(account.id, account.user_id, made["secret"])
    async with unchanged(world):
        for document, values in (
            (TEST_EVENT, {"webhookEndpointId": endpoint_id, "type": "USER_CREATED"}),
            (RETRY, {"deliveryId": delivery.id}),
            (UPDATE_ENDPOINT, {"webhookEndpointId": endpoint_id, "status": "DISABLED"}),
            (REPLAY, {"webhookEndpointId": endpoint_id, "failedSince": now()}),
        ):
            response = await world.ask(document, {"input": values}, key=reader.key)
            assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]
    assert await listed(world, reader) == [delivery.id]
