import asyncio
from typing import Any

import pytest

from app.accounts import actions
from app.accounts.models import UserRole
from app.auth.actor import Actor, Scope
from app.core.errors import ErrorCode, Refusal
from tests.accounts.state import events, mutation, refusals, unchanged
from tests.support import TestAccount, World

USER = "id email name role createdAt updatedAt"
CREATE = mutation("createUser", f"user {{ {USER} }}")
UPDATE = mutation("updateUser", f"user {{ {USER} }}")
DELETE = mutation("deleteUser", "deletedId")


async def run(world: World, account: TestAccount, document: str, **values: Any) -> dict[str, Any]:
    data = await world.data(document, {"input": values}, key=account.key)
    [payload] = data.values()
    return payload  # type: ignore[no-any-return]


async def test_a_created_user_is_there_and_is_an_event(world: World) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE, email="Grace@Example.com", name="Grace Hopper")
    user = payload["user"]
    assert payload["userErrors"] == []
    assert user == {**user, "email": "Grace@example.com", "name": "Grace Hopper", "role": "MEMBER"}
    assert user["createdAt"] == user["updatedAt"]
    created = (await events(world, account.id))[-1]
    assert (created.sequence, created.type, created.subject_id) == (2, "user.created", user["id"])
    assert created.data == user
    assert await world.data(
        "query ($id: ID!) { user(id: $id) { " + USER + " } }", {"id": user["id"]}, key=account.key
    ) == {"user": user}


async def test_users_are_listed_in_pages(world: World) -> None:
    account, other = await world.account(), await world.account()
    for number in range(3):
        await run(world, account, CREATE, email=f"u{number}@example.com", name=f"U{number}", role="ADMIN")
    query = (
        "query ($after: String) { users(first: 2, after: $after) "
        "{ nodes { name role } pageInfo { hasNextPage endCursor } } }"
    )
    first = (await world.data(query, key=account.key))["users"]
    second = (await world.data(query, {"after": first["pageInfo"]["endCursor"]}, key=account.key))["users"]
    assert [one["name"] for one in first["nodes"] + second["nodes"]] == ["owner1", "U0", "U1", "U2"]
    assert {one["role"] for one in first["nodes"] + second["nodes"]} == {"ADMIN"}
    assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)
    theirs = (await world.data(query, key=other.key))["users"]["nodes"]
    assert [one["name"] for one in theirs] == ["owner2"]


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"email": "OWNER1@EXAMPLE.com", "name": "Twin"}, ("TAKEN", ["email"])),
        ({"email": "not an address", "name": "N"}, ("INVALID", ["email"])),
        ({"email": "", "name": "N"}, ("REQUIRED", ["email"])),
        ({"email": "n@example.com", "name": " "}, ("REQUIRED", ["name"])),
        ({"email": "n@example.com", "name": "N" * 201}, ("TOO_LONG", ["name"])),
    ],
)
async def test_a_refused_user_leaves_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    async with unchanged(world):
        assert refusals(await run(world, account, CREATE, **values)) == [refused]


@pytest.mark.both_databases
async def test_two_users_made_at_once_with_one_address(world: World) -> None:
    account = await world.account()
    payloads = await asyncio.gather(
        *(
            run(world, account, CREATE, email=address, name="Twin")
            for address in ("t@example.com", "T@example.com")
        )
    )
    assert sorted(len(one["userErrors"]) for one in payloads) == [0, 1]
    assert [one.type for one in await events(world, account.id)] == ["user.created", "user.created"]


async def test_an_update_changes_what_was_given(world: World) -> None:
    account = await world.account()
    user = (await run(world, account, CREATE, email="g@example.com", name="Grace"))["user"]
    await asyncio.sleep(0.002)
    changed = (await run(world, account, UPDATE, userId=user["id"], name="Rear Admiral", role="ADMIN"))[
        "user"
    ]
    assert changed == {**user, "name": "Rear Admiral", "role": "ADMIN", "updatedAt": changed["updatedAt"]}
    assert changed["updatedAt"] > user["updatedAt"]
    changed = (await run(world, account, UPDATE, userId=user["id"], email="G@Example.com"))["user"]
    assert changed["email"] == "G@example.com"
    assert len(await events(world, account.id)) == 2


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"email": "owner1@example.com"}, ("TAKEN", ["email"])),
        ({"email": None}, ("REQUIRED", ["email"])),
        ({"name": None}, ("REQUIRED", ["name"])),
        ({"role": None}, ("REQUIRED", ["role"])),
    ],
)
async def test_a_refused_update_changes_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    user = (await run(world, account, CREATE, email="g@example.com", name="Grace"))["user"]
    async with unchanged(world):
        payload = await run(world, account, UPDATE, **{"userId": user["id"], "name": "Other", **values})
        assert refusals(payload) == [refused]


async def test_a_user_of_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    async with unchanged(world):
        for user_id in (other.user_id, "usr_00000000000000000000000000", "nonsense"):
            assert refusals(await run(world, account, UPDATE, userId=user_id, name="Mine")) == [
                ("NOT_FOUND", ["userId"])
            ]
            assert refusals(await run(world, account, DELETE, userId=user_id)) == [("NOT_FOUND", ["userId"])]
            query = "query ($id: ID!) { user(id: $id) { id } node(id: $id) { id } }"
            assert await world.data(query, {"id": user_id}, key=account.key) == {"user": None, "node": None}


async def test_a_deleted_user_is_gone_and_its_event_stays(world: World) -> None:
    account = await world.account()
    user = (await run(world, account, CREATE, email="g@example.com", name="Grace"))["user"]
    assert await run(world, account, DELETE, userId=user["id"]) == {"deletedId": user["id"], "userErrors": []}
    query = "{ events(first: 10) { nodes { data ... on UserCreatedEvent { user { id } } } } }"
    [first, second] = (await world.data(query, key=account.key))["events"]["nodes"]
    assert first["user"] == {"id": account.user_id}
    assert (second["user"], second["data"]["id"]) == (None, user["id"])
    again = await run(world, account, CREATE, email="g@example.com", name="Grace")
    assert again["userErrors"] == []


async def test_the_last_admin_stays(world: World) -> None:
    account = await world.account()
    await run(world, account, CREATE, email="m@example.com", name="Member")
    async with unchanged(world):
        assert refusals(await run(world, account, DELETE, userId=account.user_id)) == [
            ("CONFLICT", ["userId"])
        ]
        demoted = await run(world, account, UPDATE, userId=account.user_id, role="MEMBER")
        assert refusals(demoted) == [("CONFLICT", ["role"])]


@pytest.mark.both_databases
async def test_of_two_admins_leaving_at_once_one_stays(world: World) -> None:
    account = await world.account()
    second = (await run(world, account, CREATE, email="b@example.com", name="B", role="ADMIN"))["user"]
    payloads = await asyncio.gather(
        run(world, account, DELETE, userId=account.user_id), run(world, account, DELETE, userId=second["id"])
    )
    assert sorted(len(one["userErrors"]) for one in payloads) == [0, 1]


@pytest.mark.parametrize("scopes", [[Scope.READ], [Scope.READ, Scope.WRITE]])
async def test_users_are_changed_with_admin_only(world: World, scopes: list[Scope]) -> None:
    account = await world.account()
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        _key, secret = await actions.create_api_key(session, admin, name="Less", scopes=scopes)
    async with unchanged(world):
        for document, values in (
            (CREATE, {"email": "g@example.com", "name": "Grace"}),
            (UPDATE, {"userId": account.user_id, "name": "Mine"}),
            (DELETE, {"userId": account.user_id}),
        ):
            response = await world.ask(document, {"input": values}, key=secret)
            assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]
    listed = await world.data("{ users { nodes { id } } }", key=secret)
    assert listed == {"users": {"nodes": [{"id": account.user_id}]}}


async def test_rules_hold_below_the_api_as_well(world: World) -> None:
    account = await world.account()
    admin = Actor(account.id, frozenset(Scope))
    links = world.services.mail_links
    with pytest.raises(Refusal) as raised:
        async with world.database.transaction() as session:
            await actions.update_user(session, admin, links, account.user_id, {"role": UserRole.MEMBER})
    assert raised.value.code is ErrorCode.CONFLICT
