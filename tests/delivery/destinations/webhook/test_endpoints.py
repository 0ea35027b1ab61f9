import asyncio
from datetime import timedelta

import pytest

from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.destinations.webhook.signing import decode_secret
from app.delivery.queue.models import DeliveryStatus
from tests.accounts.state import refusals, unchanged
from tests.delivery.asking import (
    CREATE_ENDPOINT,
    DELETE_ENDPOINT,
    ENDPOINT,
    ROTATE,
    TEST_EVENT,
    UPDATE_ENDPOINT,
    URL,
    deliveries_of,
    dispatch,
    end_delivery,
    endpoint_row,
    make_endpoint,
    make_events,
)
from tests.meters.asking import run
from tests.support import World

NOT_THERE = "whe_01jdf3w8q2k7c9v5m1x0a4b6d8"


async def test_a_created_endpoint_is_there_and_its_secret_is_shown_once(world: World) -> None:
    account = await world.account()
    payload = await run(
        world, account, CREATE_ENDPOINT, url=f" {URL} ", description=" For the CRM ", eventTypes=None
    )
    endpoint, secret = payload["webhookEndpoint"], payload["secret"]
    assert payload["userErrors"] == []
    assert endpoint == {
        "id": endpoint["id"],
        "url": URL,
        "description": "For the CRM",
        "eventTypes": None,
        "status": "ENABLED",
        "disabledReason": None,
        "disabledAt": None,
        "createdAt": endpoint["createdAt"],
        "updatedAt": endpoint["updatedAt"],
    }
    assert len(decode_secret(secret)) == 32
    row = await endpoint_row(world, endpoint["id"])
    assert secret not in row.secret_encrypted
    assert world.services.keyring.decrypt(row.secret_encrypted) == secret
    query = f"query ($id: ID!) {{ webhookEndpoint(id: $id) {{ {ENDPOINT} }} node(id: $id) {{ id }} }}"
    data = await world.data(query, {"id": endpoint["id"]}, key=account.key)
    assert data == {"webhookEndpoint": endpoint, "node": {"id": endpoint["id"]}}


async def test_it_gets_the_events_from_its_making_on(world: World) -> None:
    account = await world.account()
    await make_events(world, account, "Ada", "Bob")
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Cleo")
    await dispatch(world)
    assert (await endpoint_row(world, endpoint_id)).first_sequence == 3  # the account's user is event 1
    assert [one.event_sequence for one in await deliveries_of(world, endpoint_id)] == [4]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://hooks.example.com/", "https:// or http://"),
        ("hooks.example.com", "https:// or http://"),
        ("", "https:// or http://"),
        ("https://user:secret@hooks.example.com/", "no user name or password"),
        ("http://127.0.0.1:9000/", "public addresses only"),
        ("http://localhost/", "public addresses only"),
        ("http://169.254.169.254/latest/meta-data", "public addresses only"),
        ("http://[::ffff:10.0.0.1]/", "public addresses only"),
        ("http://2130706433/", "usual form"),
        ("https://hooks.example.com/#part", "no fragment"),
        (f"https://hooks.example.com/{'x' * 2048}", "at most 2048 characters"),
    ],
)
async def test_a_url_that_may_not_be_called_is_refused(world: World, url: str, says: str) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with unchanged(world):
        created = await run(world, account, CREATE_ENDPOINT, url=url)
        changed = await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, url=url)
    for payload in (created, changed):
        assert refusals(payload) == [("URL_NOT_ALLOWED", ["url"])]
        assert says in payload["userErrors"][0]["message"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], [("REQUIRED", ["eventTypes"])]),
        (["METER_CREATED"], [("INVALID", ["eventTypes", "0"])]),
        (
            ["meter.*", "meter.deleted", "x.*", ""],
            [("INVALID", ["eventTypes", str(index)]) for index in (1, 2, 3)],
        ),
        (["meter*"], [("INVALID", ["eventTypes", "0"])]),
    ],
)
async def test_event_types_that_match_nothing_are_refused(
    world: World, patterns: list[str], expected: list[tuple[str, list[str]]]
) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with unchanged(world):
        assert refusals(await run(world, account, CREATE_ENDPOINT, url=URL, eventTypes=patterns)) == expected
        changed = await run(
            world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, eventTypes=patterns
        )
        assert refusals(changed) == expected


async def test_the_enum_spelling_is_answered_with_the_dotted_name(world: World) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE_ENDPOINT, url=URL, eventTypes=["METER_DATA_RECEIVED"])
    assert payload["userErrors"][0]["message"] == (
        'Write "meter_data.received": destinations name event types with a dot.'
    )


async def test_wildcards_and_names_are_kept_once_and_narrow_what_comes(world: World) -> None:
    account = await world.account()
    payload = await run(
        world, account, CREATE_ENDPOINT, url=URL, eventTypes=["meter.*", "user.created", "meter.*"]
    )
    endpoint = payload["webhookEndpoint"]
    assert endpoint["eventTypes"] == ["meter.*", "user.created"]
    await make_events(world, account, "Ada")
    await dispatch(world)
    assert await deliveries_of(world, endpoint["id"]) == []


async def test_a_description_may_be_long_but_not_longer(world: World) -> None:
    account = await world.account()
    await make_endpoint(world, account, description="x" * 2000)
    async with unchanged(world):
        payload = await run(world, account, CREATE_ENDPOINT, url=URL, description="x" * 2001)
    assert refusals(payload) == [("TOO_LONG", ["description"])]


@pytest.mark.both_databases
async def test_an_account_has_a_hundred_endpoints_at_most(world: World) -> None:
    account, other = await world.account(), await world.account()
    async with world.database.transaction() as session:
        session.add_all(
            WebhookEndpoint(
                account_id=account.id,
                url=URL,
                first_sequence=0,
                secret_encrypted="x",
                signing_key_encrypted="x",
                public_key="x",
            )
            for _ in range(endpoints.MAX_ENDPOINTS - 1)
        )
    both = await asyncio.gather(
        run(world, account, CREATE_ENDPOINT, url=URL), run(world, account, CREATE_ENDPOINT, url=URL)
    )
    assert sorted(one["webhookEndpoint"] is None for one in both) == [False, True]
    refused = next(one for one in both if one["webhookEndpoint"] is None)
    assert refusals(refused) == [("LIMIT_REACHED", [])]
    await make_endpoint(world, other)


async def test_an_update_changes_what_is_given_only(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account, description="Old", eventTypes=["meter.*"])
    before = await endpoint_row(world, endpoint_id)
    payload = await run(
        world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, url="https://new.example.com"
    )
    changed = payload["webhookEndpoint"]
    assert (changed["url"], changed["description"], changed["eventTypes"]) == (
        "https://new.example.com",
        "Old",
        ["meter.*"],
    )
    payload = await run(
        world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, description=None, eventTypes=None
    )
    assert payload["webhookEndpoint"]["description"] is None
    assert payload["webhookEndpoint"]["eventTypes"] is None
    after = await endpoint_row(world, endpoint_id)
    assert after.updated_at >= before.updated_at
    assert after.secret_encrypted == before.secret_encrypted


async def test_url_and_status_cannot_be_cleared(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with unchanged(world):
        for field in ("url", "status"):
            payload = await run(
                world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, **{field: None}
            )
            assert refusals(payload) == [("REQUIRED", [field])]


async def test_a_disabled_endpoint_gets_nothing_and_what_waited_is_cancelled(world: World) -> None:
    account = await world.account()
    endpoint_id, other_id = await make_endpoint(world, account), await make_endpoint(world, account)
    await make_events(world, account, "Ada", "Bob", "Cleo")
    await dispatch(world)
    first, second, third = await deliveries_of(world, endpoint_id)
    await end_delivery(world, first.id, DeliveryStatus.SUCCEEDED)
    await end_delivery(world, second.id, DeliveryStatus.FAILED)
    payload = await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="DISABLED")
    disabled = payload["webhookEndpoint"]
    assert disabled["status"] == "DISABLED"
    assert disabled["disabledReason"] == "Disabled by the account."
    assert disabled["disabledAt"] is not None
    await make_events(world, account, "Dora")
    await dispatch(world)
    rows = await deliveries_of(world, endpoint_id)
    assert [one.id for one in rows] == [first.id, second.id, third.id]
    assert [one.status for one in rows] == ["SUCCEEDED", "CANCELLED", "CANCELLED"]
    assert all(one.due_at is None and one.finished_at is not None for one in rows)
    others = await deliveries_of(world, other_id)
    assert [one.status for one in others] == ["PENDING"] * 4


async def test_disabling_twice_keeps_the_first_reason(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with world.database.transaction() as session:
        endpoint = await session.get_one(WebhookEndpoint, endpoint_id)
        await endpoints.disable(session, endpoint, "The receiver answered 410.")
    payload = await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="DISABLED")
    assert payload["webhookEndpoint"]["disabledReason"] == "The receiver answered 410."


async def test_an_endpoint_enabled_again_gets_the_events_from_then_on(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="DISABLED")
    await make_events(world, account, "Missed")
    payload = await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="ENABLED")
    enabled = payload["webhookEndpoint"]
    assert (enabled["status"], enabled["disabledReason"], enabled["disabledAt"]) == ("ENABLED", None, None)
    await make_events(world, account, "Seen")
    await dispatch(world)
    assert [one.event_sequence for one in await deliveries_of(world, endpoint_id)] == [3]


async def test_enabling_an_enabled_endpoint_skips_nothing(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Ada")
    await run(world, account, UPDATE_ENDPOINT, webhookEndpointId=endpoint_id, status="ENABLED")
    await dispatch(world)
    assert [one.event_sequence for one in await deliveries_of(world, endpoint_id)] == [2]


async def test_a_deleted_endpoint_leaves_its_deliveries_to_be_looked_at(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await make_events(world, account, "Ada")
    await dispatch(world)
    payload = await run(world, account, DELETE_ENDPOINT, webhookEndpointId=endpoint_id)
    assert payload == {"deletedId": endpoint_id, "userErrors": []}
    query = """query ($id: ID!) {
        webhookEndpoint(id: $id) { id }
        deliveries(filter: {webhookEndpointId: $id}) { nodes { status nextAttemptAt endpoint { id } event { name } } }
    }"""
    assert await world.data(query, {"id": endpoint_id}, key=account.key) == {
        "webhookEndpoint": None,
        "deliveries": {
            "nodes": [
                {
                    "status": "CANCELLED",
                    "nextAttemptAt": None,
                    "endpoint": None,
                    "event": {"name": "customer.created"},
                }
            ]
        },
    }


async def test_a_rotated_secret_overlaps_with_the_old_one_for_a_day(world: World) -> None:
    account, keyring = await world.account(), world.services.keyring
    payload = await run(world, account, CREATE_ENDPOINT, url=URL)
    endpoint_id, old = payload["webhookEndpoint"]["id"], payload["secret"]
    rotated = await run(world, account, ROTATE, webhookEndpointId=endpoint_id)
    row = await endpoint_row(world, endpoint_id)
    assert rotated["secret"] != old
    assert keyring.decrypt(row.secret_encrypted) == rotated["secret"]
    assert keyring.decrypt(row.previous_secret_encrypted or "") == old
    assert row.previous_secret_until == row.updated_at + timedelta(days=1)


async def test_without_an_overlap_the_old_secret_is_gone(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    await run(world, account, ROTATE, webhookEndpointId=endpoint_id)
    await run(world, account, ROTATE, webhookEndpointId=endpoint_id, overlapSeconds=0)
    row = await endpoint_row(world, endpoint_id)
    assert row.previous_secret_encrypted is None
    assert row.previous_secret_until is None


@pytest.mark.parametrize("seconds", [-1, 30 * 86_400 + 1])
async def test_an_overlap_out_of_range_is_refused(world: World, seconds: int) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with unchanged(world):
        payload = await run(world, account, ROTATE, webhookEndpointId=endpoint_id, overlapSeconds=seconds)
    assert refusals(payload) == [("OUT_OF_RANGE", ["overlapSeconds"])]


async def test_another_accounts_endpoint_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    endpoint_id = await make_endpoint(world, account)
    async with unchanged(world):
        for document, values in (
            (UPDATE_ENDPOINT, {"description": "mine now"}),
            (DELETE_ENDPOINT, {}),
            (ROTATE, {}),
            (TEST_EVENT, {"type": "METER_CREATED"}),
        ):
            theirs = await run(world, other, document, webhookEndpointId=endpoint_id, **values)
            unknown = await run(world, other, document, webhookEndpointId=NOT_THERE, **values)
            assert theirs == unknown
            assert refusals(theirs) == [("NOT_FOUND", ["webhookEndpointId"])]
    query = "query ($id: ID!) { webhookEndpoint(id: $id) { id } webhookEndpoints { nodes { id } } }"
    assert await world.data(query, {"id": endpoint_id}, key=other.key) == {
        "webhookEndpoint": None,
        "webhookEndpoints": {"nodes": []},
    }
