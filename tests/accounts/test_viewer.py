from datetime import timedelta
from typing import Any

import pytest

from app.core import clock
from app.core.clock import format_utc, parse_utc
from tests.accounts.state import events, mutation, refusals, unchanged
from tests.support import TestAccount, World

VIEWER = "{ viewer { account { id name logoUrl } user { id } apiKey { name scopes } customer { id name } scopes } }"
TOKEN = mutation("createStreamToken", "token expiresAt")
ACCOUNT = mutation("updateAccount", "account { id name logoUrl }")
CUSTOMER = mutation("createCustomer", "customer { id }")


async def token_of(world: World, key: str, **values: Any) -> dict[str, Any]:
    payload: dict[str, Any] = (await world.data(TOKEN, {"input": values}, key=key))["createStreamToken"]
    return payload


async def customer_of(world: World, account: TestAccount, email: str = "ada@example.com") -> str:
    data = await world.data(CUSTOMER, {"input": {"name": "Ada", "email": email}}, key=account.key)
    customer_id: str = data["createCustomer"]["customer"]["id"]
    return customer_id


async def test_a_key_is_its_account(world: World) -> None:
    account = await world.account("Bright Energy")
    assert (await world.data(VIEWER, key=account.key))["viewer"] == {
        "account": {"id": account.id, "name": "Bright Energy", "logoUrl": None},
        "user": None,
        "apiKey": {"name": "First key", "scopes": ["READ", "WRITE", "ADMIN"]},
        "customer": None,
        "scopes": ["READ", "WRITE", "ADMIN"],
    }


async def test_a_stream_token_only_reads(world: World) -> None:
    account = await world.account()
    before = clock.now()
    made = await token_of(world, account.key)
    assert made["userErrors"] == []
    life = parse_utc(made["expiresAt"]) - before
    assert timedelta(hours=1) <= life < timedelta(hours=1, minutes=1)
    viewer = (await world.data(VIEWER, key=made["token"]))["viewer"]
    assert (viewer["account"]["id"], viewer["customer"], viewer["scopes"]) == (account.id, None, ["READ"])
    assert viewer["apiKey"]["name"] == "First key"
    async with unchanged(world):
        for document, values in ((TOKEN, {}), (ACCOUNT, {"name": "Mine"})):
            response = await world.ask(document, {"input": values}, key=made["token"])
            assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]


async def test_a_bound_stream_token_sees_its_customer_and_no_one_of_the_account(world: World) -> None:
    account = await world.account("Bright Energy")
    mine, other = await customer_of(world, account), await customer_of(world, account, "b@example.com")
    token = (await token_of(world, account.key, customerId=mine, expiresInSeconds=60))["token"]
    assert (await world.data(VIEWER, key=token))["viewer"] == {
        "account": {"id": account.id, "name": "Bright Energy", "logoUrl": None},
        "user": None,
        "apiKey": None,
        "customer": {"id": mine, "name": "Ada"},
        "scopes": ["READ"],
    }
    query = (
        "query ($user: ID!, $other: ID!) { users { nodes { id } } apiKeys { id } user(id: $user) { id } "
        "node(id: $user) { id } customer(id: $other) { id } customers { nodes { id } } "
        "events { nodes { name sequence } } }"
    )
    assert await world.data(query, {"user": account.user_id, "other": other}, key=token) == {
        "users": {"nodes": []},
        "apiKeys": [],
        "user": None,
        "node": None,
        "customer": None,
        "customers": {"nodes": [{"id": mine}]},
        "events": {"nodes": [{"name": "customer.created", "sequence": None}]},
    }


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
async def test_a_life_out_of_range_is_refused(world: World, seconds: int) -> None:
    account = await world.account()
    payload = await token_of(world, account.key, expiresInSeconds=seconds)
    assert refusals(payload) == [("OUT_OF_RANGE", ["expiresInSeconds"])]


@pytest.mark.parametrize("seconds", [1, 86_400])
async def test_a_life_of_one_second_to_one_day_is_given(world: World, seconds: int) -> None:
    account = await world.account()
    before = clock.now()
    life = parse_utc((await token_of(world, account.key, expiresInSeconds=seconds))["expiresAt"]) - before
    assert timedelta(seconds=seconds) <= life < timedelta(seconds=seconds + 60)


async def test_a_token_for_someone_elses_customer_is_refused(world: World) -> None:
    account, other = await world.account(), await world.account()
    theirs = await customer_of(world, other)
    gone = await customer_of(world, account)
    await world.data(
        mutation("deleteCustomer", "deletedId"), {"input": {"customerId": gone}}, key=account.key
    )
    for customer_id in (theirs, gone, "nonsense"):
        payload = await token_of(world, account.key, customerId=customer_id)
        assert refusals(payload) == [("NOT_FOUND", ["customerId"])]


async def test_a_token_lives_no_longer_than_its_key(world: World) -> None:
    account = await world.account()
    until = format_utc(clock.now() + timedelta(minutes=10))
    data = await world.data(
        mutation("createApiKey", "secret"), {"input": {"name": "Short", "expiresAt": until}}, key=account.key
    )
    assert (await token_of(world, data["createApiKey"]["secret"]))["expiresAt"] == until


async def test_a_reading_key_makes_no_tokens(world: World) -> None:
    account = await world.account()
    data = await world.data(
        mutation("createApiKey", "secret"), {"input": {"name": "Reads", "scopes": ["READ"]}}, key=account.key
    )
    response = await world.ask(TOKEN, {"input": {}}, key=data["createApiKey"]["secret"])
    assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]


async def test_an_account_is_updated(world: World) -> None:
    account = await world.account("Bright Energy")

    async def update(**values: Any) -> dict[str, Any]:
        payload: dict[str, Any] = (await world.data(ACCOUNT, {"input": values}, key=account.key))[
            "updateAccount"
        ]
        return payload

    logo = "https://example.com/logo.png"
    assert (await update(name=" Brighter ", logoUrl=logo))["account"] == {
        "id": account.id,
        "name": "Brighter",
        "logoUrl": logo,
    }
    assert (await update())["account"]["logoUrl"] == logo
    assert (await update(logoUrl=None))["account"] == {"id": account.id, "name": "Brighter", "logoUrl": None}
    async with unchanged(world):
        assert refusals(await update(name=None)) == [("REQUIRED", ["name"])]
        assert refusals(await update(name="")) == [("REQUIRED", ["name"])]
        assert refusals(await update(name="Other", logoUrl="http://example.com/logo.png")) == [
            ("INVALID", ["logoUrl"])
        ]
    assert len(await events(world, account.id)) == 1


async def test_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    query = "query ($id: ID!) { node(id: $id) { id } }"
    assert await world.data(query, {"id": account.id}, key=account.key) == {"node": {"id": account.id}}
    assert await world.data(query, {"id": other.id}, key=account.key) == {"node": None}
