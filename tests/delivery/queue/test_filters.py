"""Filters and other options of destinations: refusals, shown values and matching events."""

from typing import Any

import orjson
import pytest

from app.core.ids import new_id
from app.delivery.destinations.kinds import KINDS
from app.delivery.metadata import METADATA
from app.delivery.queue.models import Replay
from app.delivery.queue.replay_worker import ReplayWorker
from tests.accounts.state import mutation, unchanged
from tests.delivery.asking import (
    URL,
    activate,
    deliveries_of,
    dispatch,
    endpoint_row,
    make_endpoint,
    make_subscription,
)
from tests.meters.asking import run
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases

FILTER = "filter { customerIds meterIds metadata }"
OPTIONS = f"id {FILTER} headers ordered rateLimit publicKey failingSince"
CREATE = mutation("createWebhookEndpoint", f"webhookEndpoint {{ {OPTIONS} }} secret")
UPDATE = mutation("updateWebhookEndpoint", f"webhookEndpoint {{ {OPTIONS} }}")
SUBSCRIBE = mutation("createEmailSubscription", f"emailSubscription {{ id digest {FILTER} }}")
CHANGE = mutation("updateEmailSubscription", f"emailSubscription {{ id digest {FILTER} }}")
CUSTOMER = mutation("createCustomer", "customer { id }")
METER = mutation("createMeter", "meter { id }")
RELABEL = mutation("updateMeter", "meter { id }")
TOTAL = "query ($id: ID!) { replay(id: $id) { total } }"


async def customer(world: World, account: TestAccount, name: str, **values: Any) -> str:
    email = f"{name.lower()}@example.com"
    made = await run(world, account, CUSTOMER, name=name, email=email, **values)
    identifier: str = made["customer"]["id"]
    return identifier


async def meter(world: World, account: TestAccount, customer_id: str, number: str, **values: Any) -> str:
    made = await run(world, account, METER, customerId=customer_id, number=number, **values)
    assert made["userErrors"] == []
    identifier: str = made["meter"]["id"]
    return identifier


async def subjects(world: World, destination_id: str) -> list[str]:
    """The types of a destination's events, in their order."""
    return [one.event_type for one in await deliveries_of(world, destination_id)]


async def test_options_are_kept_and_shown_with_masked_headers(world: World) -> None:
    account = await world.account()
    ada = await customer(world, account, "Ada")
    made = await run(
        world,
        account,
        CREATE,
        url=URL,
        filter={"customerIds": [ada], "metadata": {"site": "north"}},
        headers={"Authorization": "Bearer 0123456789abcdef", "x-tenant": "7"},
        ordered=True,
        rateLimit=5,
    )
    assert made["userErrors"] == []
    endpoint = made["webhookEndpoint"]
    assert endpoint["publicKey"].startswith("whpk_")
    assert endpoint["failingSince"] is None
    assert endpoint["filter"] == {"customerIds": [ada], "meterIds": None, "metadata": {"site": "north"}}
    assert endpoint["headers"] == {"authorization": "••••cdef", "x-tenant": "••••"}
    assert (endpoint["ordered"], endpoint["rateLimit"]) == (True, 5)
    row = await endpoint_row(world, endpoint["id"])
    assert orjson.loads(world.services.keyring.decrypt(row.headers_encrypted or "")) == {
        "authorization": "Bearer 0123456789abcdef",
        "x-tenant": "7",
    }
    kept = await run(world, account, UPDATE, webhookEndpointId=endpoint["id"], description="x")
    assert kept["webhookEndpoint"] == endpoint
    cleared = await run(
        world,
        account,
        UPDATE,
        webhookEndpointId=endpoint["id"],
        filter=None,
        headers=None,
        ordered=None,
        rateLimit=None,
    )
    bare = {"filter": None, "headers": None, "ordered": False, "rateLimit": None}
    assert cleared["webhookEndpoint"] == endpoint | bare


async def test_a_rotation_changes_the_public_key(world: World) -> None:
    account = await world.account()
    endpoint_id = await make_endpoint(world, account)
    before = await endpoint_row(world, endpoint_id)
    rotate = mutation("rotateWebhookSecret", "webhookEndpoint { publicKey }")
    payload = await run(world, account, rotate, webhookEndpointId=endpoint_id)
    after = await endpoint_row(world, endpoint_id)
    assert payload["webhookEndpoint"]["publicKey"] == after.public_key != before.public_key
    assert after.previous_signing_key_encrypted == before.signing_key_encrypted
    await run(world, account, rotate, webhookEndpointId=endpoint_id, overlapSeconds=0)
    assert (await endpoint_row(world, endpoint_id)).previous_signing_key_encrypted is None


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"rateLimit": 0}, "OUT_OF_RANGE", ["rateLimit"]),
        ({"rateLimit": 1001}, "OUT_OF_RANGE", ["rateLimit"]),
        ({"filter": {"customerIds": []}}, "REQUIRED", ["filter", "customerIds"]),
        ({"filter": {"meterIds": ["mtr_1"] * 1001}}, "TOO_LONG", ["filter", "meterIds"]),
        ({"headers": ["x"]}, "INVALID", ["headers"]),
        ({"headers": {"Host": "x"}}, "INVALID", ["headers", "Host"]),
        ({"headers": {"content-length": "1"}}, "INVALID", ["headers", "content-length"]),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "INVALID", ["headers", "Transfer-Encoding"]),
        ({"headers": {"Webhook-Id": "x"}}, "INVALID", ["headers", "Webhook-Id"]),
        ({"headers": {"voltwire-attempt": "x"}}, "INVALID", ["headers", "voltwire-attempt"]),
        ({"headers": {"Proxy-Authorization": "x"}}, "INVALID", ["headers", "Proxy-Authorization"]),
        ({"headers": {"a b": "x"}}, "INVALID", ["headers", "a b"]),
        ({"headers": {"": "x"}}, "INVALID", ["headers", ""]),
        ({"headers": {"x": "a\r\nhost: b"}}, "INVALID", ["headers", "x"]),
        ({"headers": {"x": "naïve"}}, "INVALID", ["headers", "x"]),
        ({"headers": {"x": "••••cdef"}}, "INVALID", ["headers", "x"]),
        ({"headers": {"x": " "}}, "REQUIRED", ["headers", "x"]),
        ({"headers": {"x": 7}}, "REQUIRED", ["headers", "x"]),
        ({"headers": {"x": "y" * 2001}}, "TOO_LONG", ["headers", "x"]),
        ({"headers": {"x": "1", "X": "2"}}, "INVALID", ["headers"]),
        ({"headers": {f"x-{n}": "1" for n in range(21)}}, "TOO_LONG", ["headers"]),
    ],
)
async def test_options_that_are_refused(
    world: World, options: dict[str, Any], code: str, field: list[str]
) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE, url=URL, **options)
    assert payload["webhookEndpoint"] is None
    assert [(one["code"], one["field"]) for one in payload["userErrors"]] == [(code, field)]


async def test_filters_take_what_they_name(world: World) -> None:
    account = await world.account()
    ada = await customer(world, account, "Ada", metadata={"site": "north", "tier": "1"})
    by_customer = await make_endpoint(world, account, filter={"customerIds": [ada]})
    by_metadata = await make_endpoint(world, account, filter={"metadata": {"site": "north"}})
    by_both = await make_endpoint(world, account, filter={"metadata": {"site": "north", "tier": "2"}})
    by_mail = await make_subscription(world, account, filter={"metadata": {"tier": "2"}})
    await activate(world, by_mail)
    other = await customer(world, account, "Bob", metadata={"site": "south"})
    first = await meter(world, account, ada, "2499999999991")
    by_meter = await make_endpoint(world, account, filter={"meterIds": [first]})
    await meter(world, account, other, "1312345678907", metadata={"tier": "2", "site": "north"})
    await run(world, account, RELABEL, meterId=first, description="x")
    await dispatch(world)
    assert await subjects(world, by_customer) == ["meter.created"]
    # The metadata of the customer, or of the meter.
    assert await subjects(world, by_metadata) == ["meter.created", "meter.created"]
    assert await subjects(world, by_both) == ["meter.created"]
    assert await subjects(world, by_meter) == []
    assert await subjects(world, by_mail) == ["meter.created"]


async def test_a_replay_takes_what_the_filter_takes_and_counts_it(world: World) -> None:
    account = await world.account()
    ada = await customer(world, account, "Ada", metadata={"site": 'no"rth'})
    bob = await customer(world, account, "Bob")
    first = await meter(world, account, ada, "2499999999991")
    await meter(world, account, bob, "1312345678907")
    for wanted, expected in (
        ({"metadata": {"site": 'no"rth'}}, ["customer.created", "meter.created"]),
        ({"meterIds": [first]}, ["meter.created"]),
        ({"customerIds": [bob], "metadata": {"site": 'no"rth'}}, []),
        (None, ["user.created", "customer.created", "customer.created", "meter.created", "meter.created"]),
    ):
        endpoint_id = await make_endpoint(world, account, filter=wanted)
        async with world.database.transaction() as session:
            replay = Replay(account_id=account.id, destination_id=endpoint_id, position=0, through=5)
            session.add(replay)
        for _ in range(2):
            shown = await world.data(TOTAL, {"id": replay.id}, key=account.key)
            assert shown == {"replay": {"total": len(expected)}}
            await ReplayWorker(world.database, KINDS, METADATA, lambda *_: None).run()
        assert await subjects(world, endpoint_id) == expected


async def test_a_subscription_has_a_filter_and_a_digest(world: World) -> None:
    account = await world.account()
    made = await run(world, account, SUBSCRIBE, email="ada@example.com")
    subscription = made["emailSubscription"]
    assert (subscription["digest"], subscription["filter"]) == ("IMMEDIATE", None)
    ada = await customer(world, account, "Ada")
    changed = await run(
        world,
        account,
        CHANGE,
        emailSubscriptionId=subscription["id"],
        digest="DAILY",
        filter={"customerIds": [ada]},
    )
    assert changed["emailSubscription"]["digest"] == "DAILY"
    assert changed["emailSubscription"]["filter"]["customerIds"] == [ada]
    back = await run(world, account, CHANGE, emailSubscriptionId=subscription["id"], digest=None, filter=None)
    assert (back["emailSubscription"]["digest"], back["emailSubscription"]["filter"]) == ("IMMEDIATE", None)


async def test_a_filter_names_customers_and_meters_that_exist(world: World) -> None:
    mine, other = await world.account(), await world.account()
    ada, theirs = await customer(world, mine, "Ada"), await customer(world, other, "Eve")
    number = await meter(world, mine, ada, "9999999999999")
    wrong = {"customerIds": [ada, theirs, number, "cus_1"], "meterIds": [number, ada, new_id("mtr")]}
    for create, values in ((CREATE, {"url": URL}), (SUBSCRIBE, {"email": "ada@example.com"})):
        async with unchanged(world):
            refused = await run(world, mine, create, filter=wrong, **values)
        assert refused["userErrors"] == [
            {"code": "NOT_FOUND", "field": ["filter", name, index], "message": message}
            for name, index, message in (
                ("customerIds", "1", "There is no such customer; check the id."),
                ("customerIds", "2", "There is no such customer; check the id."),
                ("customerIds", "3", "There is no such customer; check the id."),
                ("meterIds", "1", "There is no such meter; check the id."),
                ("meterIds", "2", "There is no such meter; check the id."),
            )
        ]
        made = await run(world, mine, create, filter={"customerIds": [ada], "meterIds": [number]}, **values)
        assert made["userErrors"] == []
    both = await run(world, mine, CREATE, url="http://127.0.0.1", filter={"customerIds": [theirs]})
    assert {one["code"] for one in both["userErrors"]} == {"URL_NOT_ALLOWED", "NOT_FOUND"}


async def test_a_filter_keeps_a_customer_that_was_deleted(world: World) -> None:
    account = await world.account()
    ada, bob = await customer(world, account, "Ada"), await customer(world, account, "Bob")
    endpoint_id = await make_endpoint(world, account, filter={"customerIds": [ada]})
    subscription = await run(world, account, SUBSCRIBE, email="g@example.com", filter={"customerIds": [ada]})
    await run(world, account, mutation("deleteCustomer", "deletedId"), customerId=ada)
    for change, given in (
        (UPDATE, {"webhookEndpointId": endpoint_id}),
        (CHANGE, {"emailSubscriptionId": subscription["emailSubscription"]["id"]}),
    ):
        changed = await run(world, account, change, filter={"customerIds": [ada, bob]}, **given)
        assert changed["userErrors"] == []
        await run(world, account, change, filter={"customerIds": [bob]}, **given)
        refused = await run(world, account, change, filter={"customerIds": [bob, ada]}, **given)
        assert [one["field"] for one in refused["userErrors"]] == [["filter", "customerIds", "1"]]
