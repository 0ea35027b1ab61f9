import pytest
from sqlalchemy import select
from sqlmodel import col

from app.accounts import actions
from app.accounts.models import Account, User
from app.auth.actor import Scope
from app.auth.api_keys import ApiKey
from app.core.clock import format_utc
from app.core.crypto import digest
from app.core.errors import ErrorCode, Refusal
from tests.accounts.state import events, state, unchanged
from tests.support import World


async def test_an_account_begins_with_a_user_a_key_and_event_1(world: World) -> None:
    async with world.database.transaction() as session:
        new = await actions.create_account(session, name=" Bright Energy ", email="Ada@Example.com")
    rows = await state(world)
    assert {name: len(found) for name, found in rows.items() if found} == {
        "accounts": 1,
        "users": 1,
        "api_keys": 1,
        "streams": 1,
        "dispatch": 1,
        "events": 1,
        # Of the database, not of the account: since when it raises what time raises.
        "raised_since": 2,
    }
    assert (new.account.name, new.account.logo_url) == ("Bright Energy", None)
    assert (new.user.email, new.user.name, new.user.role) == ("Ada@example.com", "Ada", "ADMIN")
    assert (new.key.scopes, new.key.expires_at) == (["READ", "WRITE", "ADMIN"], None)
    assert (new.key.secret_hash, new.key.prefix) == (digest(new.secret), new.secret[:14])
    [event] = await events(world, new.account.id)
    assert (event.sequence, event.type, event.subject_id, event.customer_id) == (
        1,
        "user.created",
        new.user.id,
        None,
    )
    assert event.data == {
        "id": new.user.id,
        "email": "Ada@example.com",
        "name": "Ada",
        "role": "ADMIN",
        "createdAt": format_utc(new.user.created_at),
        "updatedAt": format_utc(new.user.updated_at),
    }


@pytest.mark.parametrize(
    ("name", "email", "code", "field"),
    [
        ("", "ada@example.com", ErrorCode.REQUIRED, ["name"]),
        ("B" * 201, "ada@example.com", ErrorCode.TOO_LONG, ["name"]),
        ("Bright", "", ErrorCode.REQUIRED, ["email"]),
        ("Bright", "ada", ErrorCode.INVALID, ["email"]),
    ],
)
async def test_a_bad_name_or_address_makes_nothing(
    world: World, name: str, email: str, code: ErrorCode, field: list[str]
) -> None:
    async with unchanged(world):
        with pytest.raises(Refusal) as raised:
            async with world.database.transaction() as session:
                await actions.create_account(session, name=name, email=email)
    assert (raised.value.code, raised.value.field) == (code, field)


async def test_no_secret_is_stored(world: World) -> None:
    account = await world.account()
    assert account.key not in repr(await state(world))


async def test_accounts_may_share_an_address(world: World) -> None:
    for name in ("Bright", "Dark"):
        async with world.database.transaction() as session:
            await actions.create_account(session, name=name, email="ada@example.com")
    async with world.database.reading() as session:
        assert [*(await session.execute(select(col(Account.name)).order_by(col(Account.id)))).scalars()] == [
            "Bright",
            "Dark",
        ]
        assert len([*(await session.execute(select(User))).scalars()]) == 2
        keys = [*(await session.execute(select(ApiKey))).scalars()]
    assert [Scope(one) for one in keys[0].scopes] == list(Scope)
