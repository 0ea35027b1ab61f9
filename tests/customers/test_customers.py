import asyncio
from typing import Any

import pytest

from app.accounts import actions as accounts
from app.auth.actor import Scope
from tests.accounts.state import events, mutation, reads, refusals, state, unchanged
from tests.meters.asking import CREATE as CREATE_METER
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter, run
from tests.support import World

CUSTOMER = "id name email address logoUrl metadata createdAt updatedAt"
CREATE = mutation("createCustomer", f"customer {{ {CUSTOMER} }}")
UPDATE = mutation("updateCustomer", f"customer {{ {CUSTOMER} }}")
DELETE = mutation("deleteCustomer", "deletedId")
LIST = "query ($filter: CustomerFilter) { customers(first: 100, filter: $filter) { nodes { email } } }"


async def test_a_created_customer_is_there_and_is_an_event(world: World) -> None:
    account = await world.account()
    payload = await run(
        world,
        account,
        CREATE,
        name=" Ada Lovelace ",
        email="Ada@Example.com",
        address="12 St James's Square",
        logoUrl="https://example.com/ada.png",
        metadata={"segment": "home"},
    )
    customer = payload["customer"]
    assert payload == {
        "customer": {
            "id": customer["id"],
            "name": "Ada Lovelace",
            "email": "Ada@example.com",
            "address": "12 St James's Square",
            "logoUrl": "https://example.com/ada.png",
            "metadata": {"segment": "home"},
            "createdAt": customer["createdAt"],
            "updatedAt": customer["createdAt"],
        },
        "userErrors": [],
    }
    event = (await events(world, account.id))[-1]
    assert (event.sequence, event.type, event.subject_id, event.customer_id) == (
        2,
        "customer.created",
        customer["id"],
        customer["id"],
    )
    assert event.data == customer
    query = f"query ($id: ID!) {{ customer(id: $id) {{ {CUSTOMER} }} node(id: $id) {{ id }} }}"
    assert await world.data(query, {"id": customer["id"]}, key=account.key) == {
        "customer": customer,
        "node": {"id": customer["id"]},
    }


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"name": ""}, ("REQUIRED", ["name"])),
        ({"name": "N" * 201}, ("TOO_LONG", ["name"])),
        ({"email": ""}, ("REQUIRED", ["email"])),
        ({"email": "no address"}, ("INVALID", ["email"])),
        ({"email": "ADA@EXAMPLE.COM"}, ("TAKEN", ["email"])),
        ({"email": "e" * 255 + "@example.com"}, ("TOO_LONG", ["email"])),
        ({"address": "A" * 2001}, ("TOO_LONG", ["address"])),
        ({"logoUrl": "ftp://example.com/a.png"}, ("INVALID", ["logoUrl"])),
    ],
)
async def test_a_refused_customer_leaves_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    await make_customer(world, account)
    async with unchanged(world):
        given = {"name": "Grace", "email": "grace@example.com", **values}
        assert refusals(await run(world, account, CREATE, **given)) == [refused]


@pytest.mark.both_databases
async def test_an_address_is_unique_in_its_account_only(world: World) -> None:
    account, other = await world.account(), await world.account()
    await make_customer(world, account)
    await make_customer(world, other)
    payloads = await asyncio.gather(
        *(run(world, account, CREATE, name="Twin", email=one) for one in ("t@example.com", "T@example.com"))
    )
    assert sorted(len(one["userErrors"]) for one in payloads) == [0, 1]


async def test_an_update_changes_what_was_given(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account, address="Here", metadata={"a": "1"})
    await asyncio.sleep(0.002)
    changed = (await run(world, account, UPDATE, customerId=customer_id, name="Countess"))["customer"]
    assert (changed["name"], changed["address"], changed["metadata"]) == ("Countess", "Here", {"a": "1"})
    assert changed["updatedAt"] > changed["createdAt"]
    cleared = await run(world, account, UPDATE, customerId=customer_id, address=None, metadata={"b": "2"})
    assert (cleared["customer"]["address"], cleared["customer"]["metadata"]) == (None, {"b": "2"})
    # The customer's own address in another spelling is not taken.
    again = await run(world, account, UPDATE, customerId=customer_id, email="ADA@example.com")
    assert again["customer"]["email"] == "ADA@example.com"
    assert len(await events(world, account.id)) == 2


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"name": None}, ("REQUIRED", ["name"])),
        ({"email": None}, ("REQUIRED", ["email"])),
        ({"email": "B@example.com"}, ("TAKEN", ["email"])),
        ({"logoUrl": "javascript:alert(1)"}, ("INVALID", ["logoUrl"])),
        ({"customerId": "cus_00000000000000000000000000"}, ("NOT_FOUND", ["customerId"])),
    ],
)
async def test_a_refused_update_changes_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    await make_customer(world, account, "b@example.com")
    async with unchanged(world):
        given = {"customerId": customer_id, "address": "Here", **values}
        assert refusals(await run(world, account, UPDATE, **given)) == [refused]


async def test_filters_take_what_they_say(world: World) -> None:
    account = await world.account()
    await make_customer(world, account, "a@example.com", metadata={"site": "x"})
    await make_customer(world, account, "b@example.com", metadata={"site": "x", "tier": "1"})
    await make_customer(world, account, "c@example.com")
    for filters, expected in (
        (None, "abc"),
        ({}, "abc"),
        ({"emails": ["A@EXAMPLE.com", "c@example.com"]}, "ac"),
        ({"emails": []}, ""),
        ({"emails": None, "metadata": None}, "abc"),
        ({"metadata": {"site": "x"}}, "ab"),
        ({"metadata": {"site": "x", "tier": "1"}}, "b"),
        ({"metadata": {"site": "y"}}, ""),
        ({"metadata": {}}, "abc"),
        ({"emails": ["a@example.com"], "metadata": {"tier": "1"}}, ""),
    ):
        nodes = (await world.data(LIST, {"filter": filters}, key=account.key))["customers"]["nodes"]
        assert (filters, "".join(one["email"][0] for one in nodes)) == (filters, expected)


async def test_customers_with_their_meters_and_consents_are_three_statements(world: World) -> None:
    account = await world.account()
    for at in range(5):
        customer_id = await make_customer(world, account, f"c{at}@example.com")
        await make_consent(world, account, customer_id)
        for number in NUMBERS[: at + 1]:
            await make_meter(world, account, customer_id, number)
    query = (
        "{ customers { nodes { meters(first: 3) { nodes { number } pageInfo { hasNextPage } } "
        "hostedConsents(first: 1) { nodes { id } } } } }"
    )
    with reads(world.database) as statements:
        nodes = (await world.data(query, key=account.key))["customers"]["nodes"]
    assert [len(one["meters"]["nodes"]) for one in nodes] == [1, 2, 3, 3, 3]
    assert [one["meters"]["pageInfo"]["hasNextPage"] for one in nodes] == [False] * 3 + [True] * 2
    assert [len(one["hostedConsents"]["nodes"]) for one in nodes] == [1] * 5
    assert len([one for one in statements if "FROM api_keys" not in one]) == 3


async def test_a_customer_of_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    theirs = await make_customer(world, other)
    async with unchanged(world):
        for document in (UPDATE, DELETE):
            payload = await run(world, account, document, customerId=theirs)
            assert refusals(payload) == [("NOT_FOUND", ["customerId"])]
        query = (
            "query ($id: ID!) { customer(id: $id) { id } node(id: $id) { id } customers { nodes { id } } }"
        )
        assert await world.data(query, {"id": theirs}, key=account.key) == {
            "customer": None,
            "node": None,
            "customers": {"nodes": []},
        }


async def test_a_deleted_customer_leaves_ids_and_nothing_personal(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(
        world, account, address="12 St James's Square", metadata={"note": "private"}
    )
    other = await make_customer(world, account, "b@example.com")
    consent = await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id, NUMBERS[0], description="Cellar of Ada")
    kept = await make_meter(world, account, other, NUMBERS[1])
    assert await run(world, account, DELETE, customerId=customer_id) == {
        "deletedId": customer_id,
        "userErrors": [],
    }
    rows = await state(world)
    assert [one["id"] for one in rows["customers"]] == [other]
    assert [one["id"] for one in rows["meters"]] == [kept["id"]]
    assert (rows["hosted_consents"], rows["consent_meters"]) == ([], [])
    text = repr(rows)
    for personal in ("ada@example.com", "St James", "private", "Cellar", NUMBERS[0], consent):
        assert personal not in text
    assert (meter["id"] in text, customer_id in text) == (True, True)
    log = await events(world, account.id)
    assert [one.sequence for one in log] == [1, 2, 3, 4, 5]
    assert (log[1].data["name"], log[1].data["id"]) == ("[deleted]", customer_id)
    assert (log[3].data["number"], log[3].data["customer"]["email"]) == ("[deleted]", "[deleted]")
    assert (log[4].data["number"], log[4].data["customer"]["email"]) == (NUMBERS[1], "b@example.com")
    query = "{ events { nodes { ... on CustomerCreatedEvent { customer { id } } } } }"
    nodes = (await world.data(query, key=account.key))["events"]["nodes"]
    assert [one["customer"] for one in nodes if one] == [None, {"id": other}]


@pytest.mark.both_databases
async def test_what_is_made_while_its_customer_is_deleted_leaves_nothing_personal_either(
    world: World,
) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    inputs = [{"customerId": customer_id, "number": one} for one in NUMBERS]
    answers = await asyncio.gather(
        *(world.ask(CREATE_METER, {"input": one}, key=account.key) for one in inputs),
        world.ask(DELETE, {"input": {"customerId": customer_id}}, key=account.key),
    )
    # The payload of a new meter may be read when its customer is already deleted.
    errors = [error for answer in answers for error in answer.get("errors", [])]
    assert {one["extensions"]["code"] for one in errors} <= {"BAD_USER_INPUT"}
    rows = await state(world)
    assert (rows["customers"], rows["meters"]) == ([], [])
    assert "ada@example.com" not in repr(rows)
    log = await events(world, account.id)
    assert [one.sequence for one in log] == [*range(1, len(log) + 1)]


async def test_customers_are_changed_with_write_only(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        _key, reads_only = await accounts.create_api_key(session, admin, name="Reads", scopes=[Scope.READ])
        _key, writes = await accounts.create_api_key(session, admin, name="Writes", scopes=[Scope.WRITE])
        token, _until = await accounts.create_stream_token(
            session, admin, world.services.keyring, customer_id=customer_id
        )
    async with unchanged(world):
        for credential in (reads_only, token):
            for document, values in (
                (CREATE, {"name": "Grace", "email": "grace@example.com"}),
                (UPDATE, {"customerId": customer_id, "name": "Mine"}),
                (DELETE, {"customerId": customer_id}),
            ):
                response = await world.ask(document, {"input": values}, key=credential)
                assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]
    asked = {"input": {"customerId": customer_id, "name": "Countess"}}
    assert (await world.data(UPDATE, asked, key=writes))["updateCustomer"]["customer"]["name"] == "Countess"
