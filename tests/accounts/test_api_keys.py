from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.auth.api_keys import ApiKey
from app.core import clock
from app.core.clock import format_utc, parse_utc
from app.core.errors import Unauthenticated
from tests.accounts.state import events, mutation, refusals, state, unchanged
from tests.support import TestAccount, World

KEY = "id name prefix scopes createdAt lastUsedAt expiresAt revokedAt"
CREATE = mutation("createApiKey", f"apiKey {{ {KEY} }} secret")
ROTATE = mutation("rotateApiKey", f"apiKey {{ {KEY} }} secret")
REVOKE = mutation("revokeApiKey", f"apiKey {{ {KEY} }}")
LIST = f"{{ apiKeys {{ {KEY} }} }}"


async def run(world: World, account: TestAccount, document: str, **values: Any) -> dict[str, Any]:
    data = await world.data(document, {"input": values}, key=account.key)
    [payload] = data.values()
    return payload  # type: ignore[no-any-return]


async def keys(world: World, account: TestAccount) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await world.data(LIST, key=account.key))["apiKeys"]
    return listed


async def works(world: World, secret: str) -> bool:
    try:
        await world.authenticator.authenticate(secret)
    except Unauthenticated:
        return False
    return True


async def test_a_created_key_works_and_shows_its_secret_once(world: World) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE, name=" Backend ")
    key, secret = payload["apiKey"], payload["secret"]
    assert payload["userErrors"] == []
    assert key == {
        "id": key["id"],
        "name": "Backend",
        "prefix": secret[:14],
        "scopes": ["READ", "WRITE"],
        "createdAt": key["createdAt"],
        "lastUsedAt": None,
        "expiresAt": None,
        "revokedAt": None,
    }
    assert secret.startswith("vw_live_")
    assert await works(world, secret)
    assert [one["id"] for one in await keys(world, account)][-1] == key["id"]
    assert secret not in repr(await state(world))
    assert len(await events(world, account.id)) == 1


async def test_scopes_and_expiry_are_as_given(world: World) -> None:
    account = await world.account()
    until = format_utc(clock.now() + timedelta(days=1))
    key = (await run(world, account, CREATE, name="K", scopes=["ADMIN", "READ", "READ"], expiresAt=until))[
        "apiKey"
    ]
    assert (key["scopes"], key["expiresAt"]) == (["READ", "ADMIN"], until)


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"name": ""}, ("REQUIRED", ["name"])),
        ({"name": "K" * 201}, ("TOO_LONG", ["name"])),
        ({"name": "K", "scopes": []}, ("REQUIRED", ["scopes"])),
        ({"name": "K", "expiresAt": "2020-01-01T00:00:00.000Z"}, ("INVALID", ["expiresAt"])),
    ],
)
async def test_a_refused_key_leaves_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    async with unchanged(world):
        assert refusals(await run(world, account, CREATE, **values)) == [refused]


async def test_the_same_request_again_gives_the_same_secret(world: World) -> None:
    account = await world.account()
    first = await run(world, account, CREATE, name="Backend", idempotencyKey="once")
    async with unchanged(world):
        assert await run(world, account, CREATE, name="Backend", idempotencyKey="once") == first
        other = await run(world, account, CREATE, name="Other", idempotencyKey="once")
        assert refusals(other) == [("IDEMPOTENCY_KEY_REUSED", ["idempotencyKey"])]
    assert first["secret"] not in repr(await state(world))


async def test_a_rotated_key_has_a_new_secret_and_is_an_event(world: World) -> None:
    account = await world.account()
    key = (await keys(world, account))[0]
    before = clock.now()
    payload = await run(world, account, ROTATE, apiKeyId=key["id"])
    rotated, secret = payload["apiKey"], payload["secret"]
    assert rotated == {**key, "prefix": secret[:14], "lastUsedAt": rotated["lastUsedAt"]}
    assert secret != account.key
    assert await works(world, secret)
    assert await works(world, account.key)
    event = (await events(world, account.id))[-1]
    assert (event.sequence, event.type, event.subject_id) == (2, "api_keys.rotated", key["id"])
    assert event.data == {
        "apiKeyId": key["id"],
        "prefix": secret[:14],
        "previousPrefix": account.key[:14],
        "overlapUntil": event.data["overlapUntil"],
    }
    overlap = parse_utc(event.data["overlapUntil"]) - before
    assert timedelta(days=1) <= overlap < timedelta(days=1, minutes=1)


async def test_a_rotation_without_overlap_ends_the_old_secret(world: World) -> None:
    account = await world.account()
    key = (await keys(world, account))[0]
    secret = (await run(world, account, ROTATE, apiKeyId=key["id"], overlapSeconds=0))["secret"]
    assert not await works(world, account.key)
    assert await works(world, secret)
    assert (await events(world, account.id))[-1].data["overlapUntil"] is None


async def test_of_three_secrets_the_two_newest_work(world: World) -> None:
    account = await world.account()
    key = await run(world, account, CREATE, name="K")
    first = key["secret"]
    second = (await run(world, account, ROTATE, apiKeyId=key["apiKey"]["id"]))["secret"]
    third = (await run(world, account, ROTATE, apiKeyId=key["apiKey"]["id"]))["secret"]
    assert [await works(world, one) for one in (first, second, third)] == [False, True, True]


@pytest.mark.parametrize("seconds", [-1, 30 * 86_400 + 1])
async def test_an_overlap_out_of_range_changes_nothing(world: World, seconds: int) -> None:
    account = await world.account()
    key = (await keys(world, account))[0]
    async with unchanged(world):
        payload = await run(world, account, ROTATE, apiKeyId=key["id"], overlapSeconds=seconds)
        assert refusals(payload) == [("OUT_OF_RANGE", ["overlapSeconds"])]


async def test_the_longest_overlap_is_thirty_days(world: World) -> None:
    account = await world.account()
    key = (await keys(world, account))[0]
    payload = await run(world, account, ROTATE, apiKeyId=key["id"], overlapSeconds=30 * 86_400)
    assert payload["userErrors"] == []


async def test_a_revoked_key_stops_and_stays_revoked(world: World) -> None:
    account = await world.account()
    made = await run(world, account, CREATE, name="K")
    revoked = (await run(world, account, REVOKE, apiKeyId=made["apiKey"]["id"]))["apiKey"]
    assert revoked == {**made["apiKey"], "revokedAt": revoked["revokedAt"]}
    assert revoked["revokedAt"] is not None
    assert not await works(world, made["secret"])
    async with unchanged(world):
        again = await run(world, account, REVOKE, apiKeyId=revoked["id"])
        assert again == {"apiKey": revoked, "userErrors": []}
        rotated = await run(world, account, ROTATE, apiKeyId=revoked["id"])
        assert refusals(rotated) == [("CONFLICT", ["apiKeyId"])]
    assert [one["revokedAt"] is not None for one in await keys(world, account)] == [False, True]
    assert len(await events(world, account.id)) == 1


async def test_an_expired_key_cannot_be_rotated(world: World) -> None:
    account = await world.account()
    made = await run(world, account, CREATE, name="K")
    async with world.database.transaction() as session:
        await session.execute(
            update(ApiKey).where(col(ApiKey.id) == made["apiKey"]["id"]).values(expires_at=clock.now())
        )
    async with unchanged(world):
        rotated = await run(world, account, ROTATE, apiKeyId=made["apiKey"]["id"])
        assert refusals(rotated) == [("CONFLICT", ["apiKeyId"])]


async def test_the_last_live_admin_key_stays(world: World) -> None:
    account = await world.account()
    key = (await keys(world, account))[0]
    await run(world, account, CREATE, name="No admin")
    over = await run(world, account, CREATE, name="Admin, but over", scopes=["ADMIN"])
    await run(world, account, REVOKE, apiKeyId=over["apiKey"]["id"])
    async with unchanged(world):
        assert refusals(await run(world, account, REVOKE, apiKeyId=key["id"])) == [("CONFLICT", ["apiKeyId"])]
    await run(world, account, CREATE, name="Next", scopes=["ADMIN"])
    assert (await run(world, account, REVOKE, apiKeyId=key["id"]))["userErrors"] == []
    assert not await works(world, account.key)


async def test_a_key_of_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    theirs = (await keys(world, other))[0]["id"]
    async with unchanged(world):
        for document in (ROTATE, REVOKE):
            assert refusals(await run(world, account, document, apiKeyId=theirs)) == [
                ("NOT_FOUND", ["apiKeyId"])
            ]
        assert await world.data(
            "query ($id: ID!) { node(id: $id) { id } }", {"id": theirs}, key=account.key
        ) == {"node": None}
    assert theirs not in [one["id"] for one in await keys(world, account)]


async def test_keys_are_changed_with_admin_only(world: World) -> None:
    account = await world.account()
    less = (await run(world, account, CREATE, name="Less"))["secret"]
    key = (await keys(world, account))[0]["id"]
    async with unchanged(world):
        for document, values in (
            (CREATE, {"name": "More", "scopes": ["ADMIN"]}),
            (ROTATE, {"apiKeyId": key}),
            (REVOKE, {"apiKeyId": key}),
        ):
            response = await world.ask(document, {"input": values}, key=less)
            assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]
