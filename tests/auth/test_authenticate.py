"""Authentication by API keys, and the end of credentials."""

import asyncio
import gc
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.accounts import actions
from app.auth import stream_tokens
from app.auth.actor import Actor, Scope
from app.auth.api_keys import ApiKey
from app.auth.authenticate import KEYS_AT_ONCE, Authenticator, Credential
from app.auth.stream_tokens import StreamToken
from app.core import clock
from app.core.crypto import random_token
from app.core.errors import Unauthenticated
from app.customers.models import EXISTING_CUSTOMERS
from app.db.database import Database
from tests.accounts.state import reads
from tests.auth.credentials import HOUR, change, key_of, refused, still_valid
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases


async def test_a_live_key_authenticates_as_its_account(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    found = await world.authenticator.authenticate(account.key)
    assert found.actor == Actor(account.id, frozenset(Scope), api_key_id=key.id)
    assert (found.api_key_id, found.expires_at) == (key.id, None)
    assert account.key not in repr(found)
    assert (await world.authenticator.authenticate(account.key)).actor == found.actor
    assert await still_valid(world.authenticator, found)


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "vw_live_",
        "vw_live_short",
        "vw_live_" + "é" * 43,
        "vw_live_\ud800" + "A" * 42,
        "vw_live_" + "A" * 44,
        "vw_consent_" + "A" * 43,
        "vw_stream_",
        "vw_stream_A." + "A" * 43,
        "Bearer x",
        pytest.param(random_token("vw_live_"), id="unknown"),
    ],
)
async def test_an_invalid_key_is_refused_in_the_same_words(world: World, credential: str) -> None:
    assert await refused(world.authenticator, credential)


async def test_an_unknown_key_costs_one_read_and_a_malformed_one_none(world: World) -> None:
    unknown = random_token("vw_live_")
    with reads(world.database) as statements:
        assert await refused(world.authenticator, "vw_live_no")
        assert await refused(world.authenticator, "vw_stream_A." + "A" * 43)
        assert len(statements) == 0
        assert await refused(world.authenticator, unknown)
        assert len(statements) == 1


async def test_a_thousand_requests_at_once_share_one_read(world: World) -> None:
    account = await world.account()
    patient = Authenticator(world.database, world.services.keyring, EXISTING_CUSTOMERS, remembered_for=600)
    with reads(world.database) as statements:
        actors = await asyncio.gather(*(patient.authenticate(account.key) for _ in range(1000)))
        await patient.authenticate(account.key)
    await patient.close()
    assert len(set(actors)) == 1
    assert len(statements) == 1


async def test_a_cancelled_caller_does_not_cancel_the_read_of_others(world: World) -> None:
    account = await world.account()
    first = asyncio.create_task(world.authenticator.authenticate(account.key))
    second = asyncio.create_task(world.authenticator.authenticate(account.key))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).actor.account_id == account.id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_wrong_keys_leave_nothing_behind(world: World) -> None:
    authenticator = Authenticator(
        world.database, world.services.keyring, EXISTING_CUSTOMERS, remembered_for=0
    )
    before = tasks_in_memory()
    for _ in range(200):
        assert await refused(authenticator, random_token("vw_live_"))
    # The latest stays cached until the next one comes.
    assert tasks_in_memory() - before <= 1


def tasks_in_memory() -> int:
    """Includes finished tasks that something still refers to."""
    gc.collect()
    return sum(isinstance(one, asyncio.Task) for one in gc.get_objects())


async def test_an_expired_key_is_refused(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    soon = clock.now() + HOUR
    await change(world, key.id, expires_at=soon)
    found = await world.authenticator.authenticate(account.key)
    assert found.expires_at == soon
    await change(world, key.id, expires_at=clock.now())
    world.authenticator.forget()
    assert await refused(world.authenticator, account.key)
    assert not await still_valid(world.authenticator, found)


async def test_revoking_stops_a_key_at_once_here_and_soon_elsewhere(world: World) -> None:
    account = await world.account()
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        key, secret = await actions.create_api_key(session, admin, name="Second")
    elsewhere = Authenticator(
        Database(world.services.settings.database), world.services.keyring, EXISTING_CUSTOMERS
    )
    here = await world.authenticator.authenticate(secret)
    there = await elsewhere.authenticate(secret)
    async with world.database.transaction() as session:
        await actions.revoke_api_key(session, admin, key.id)
    assert await refused(world.authenticator, secret)
    assert not await still_valid(world.authenticator, here)
    # Another process is not told: it learns of the revocation at its next read, which happens at every check of open
    # streams, and several times a second for a busy client.
    assert not await still_valid(elsewhere, there)

    async def accepted() -> bool:
        try:
            return await elsewhere.authenticate(secret) is not None
        except Unauthenticated:
            return False

    while await accepted():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)
    await elsewhere.close()
    await elsewhere._database.dispose()


async def test_after_a_rotation_both_secrets_work_until_the_overlap_ends(world: World) -> None:
    account = await world.account()
    before = await world.authenticator.authenticate(account.key)
    async with world.database.transaction() as session:
        key, secret = await actions.rotate_api_key(session, before.actor, before.api_key_id, 600)
    old, new = (
        await world.authenticator.authenticate(account.key),
        await world.authenticator.authenticate(secret),
    )
    assert old.actor == new.actor == before.actor
    assert (old.expires_at, new.expires_at) == (key.previous_until, None)
    assert await still_valid(world.authenticator, before)
    await change(world, key.id, previous_until=clock.now())
    world.authenticator.forget()
    assert await refused(world.authenticator, account.key)
    assert not await still_valid(world.authenticator, before)
    assert await still_valid(world.authenticator, new)


async def test_a_rotation_without_overlap_ends_the_old_secret_at_once(world: World) -> None:
    account = await world.account()
    before = await world.authenticator.authenticate(account.key)
    async with world.database.transaction() as session:
        _key, secret = await actions.rotate_api_key(session, before.actor, before.api_key_id, 0)
    assert await refused(world.authenticator, account.key)
    assert not await still_valid(world.authenticator, before)
    assert (await world.authenticator.authenticate(secret)).actor == before.actor


async def test_last_use_is_noted_once_a_minute(world: World) -> None:
    account = await world.account()
    assert (await key_of(world, account)).last_used_at is None
    before = clock.now()
    await world.authenticator.authenticate(account.key)
    await world.authenticator.close()
    noted = (await key_of(world, account)).last_used_at
    assert noted is not None
    assert before <= noted <= clock.now()
    world.authenticator.forget()
    await world.authenticator.authenticate(account.key)
    await world.authenticator.close()
    assert (await key_of(world, account)).last_used_at == noted


async def test_last_use_is_noted_again_after_a_minute(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    earlier = clock.now() - timedelta(seconds=61)
    await change(world, key.id, last_used_at=earlier)
    await world.authenticator.authenticate(account.key)
    await world.authenticator.close()
    noted = (await key_of(world, account)).last_used_at
    assert noted is not None
    assert noted > earlier


async def test_a_key_works_even_where_its_use_cannot_be_noted(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    # Another transaction locks the row, so the note has to wait; the request does not.
    async with world.database.transaction() as session:
        await session.execute(update(ApiKey).where(col(ApiKey.id) == key.id).values(name="Locked"))
        assert (await world.authenticator.authenticate(account.key)).actor.account_id == account.id
    await world.authenticator.close()
    assert (await key_of(world, account)).last_used_at is not None


async def made_keys(world: World, account: TestAccount, count: int) -> list[Credential]:
    """Accepted credentials of `count` keys."""
    keys = [ApiKey.issue(account.id, f"Key {n}", [Scope.READ])[0] for n in range(count)]
    async with world.database.transaction() as session:
        session.add_all(keys)
    actors = [Actor(account.id, frozenset({Scope.READ}), api_key_id=key.id) for key in keys]
    return [Credential(actor, key.id, None, key.secret_hash) for key, actor in zip(keys, actors, strict=True)]


def as_token(made: Credential, until: datetime, secret_hash: str | None = None) -> Credential:
    """A stream token of this key, made with this secret."""
    mark = secret_hash and stream_tokens.mark_of(secret_hash)
    token = StreamToken(made.actor.account_id, made.api_key_id, None, until, mark)
    return replace(made, secret_hash=None, expires_at=until, token=token)


async def test_many_credentials_are_checked_by_one_statement(world: World) -> None:
    account = await world.account()
    few, many = await made_keys(world, account, 3), await made_keys(world, account, 300)
    # Many browsers hold tokens of one key.
    tokens = [as_token(few[0], clock.now() + n * HOUR) for n in range(1, 300)]
    for credentials in (few, many, few + many + tokens):
        with reads(world.database) as statements:
            assert await world.authenticator.ended(credentials) == []
        assert len(statements) == 1
    with reads(world.database) as statements:
        assert await world.authenticator.ended([]) == []
    assert statements == []


async def test_more_keys_than_one_statement_takes_are_read_by_a_few(world: World) -> None:
    account = await world.account()
    held = await world.authenticator.authenticate(account.key)
    gone = [replace(held, api_key_id=f"key_gone{n}") for n in range(2 * KEYS_AT_ONCE)]
    with reads(world.database) as statements:
        assert await world.authenticator.ended([*gone, held]) == gone
    assert len(statements) == 3


async def test_the_credentials_of_ended_keys_end_among_many(world: World) -> None:
    account = await world.account()
    made = await made_keys(world, account, 20)
    revoked, expired, rotated, overlapping, overlapped = made[3:8]
    now = clock.now()
    token, late = as_token(revoked, now + HOUR), as_token(made[0], now)
    # A token without a mark, and one with the mark of a replaced secret.
    lasting, marked = as_token(rotated, now + HOUR), as_token(rotated, now + HOUR, rotated.secret_hash)
    await change(world, revoked.api_key_id, revoked_at=now)
    await change(world, expired.api_key_id, expires_at=now)
    for old, until in ((rotated, None), (overlapping, now + HOUR), (overlapped, now)):
        hashes = {"secret_hash": f"new {old.api_key_id}", "previous_hash": until and old.secret_hash}
        await change(world, old.api_key_id, previous_until=until, **hashes)
    ended = await world.authenticator.ended([*made, token, late, lasting, marked])
    assert ended == [revoked, expired, rotated, overlapped, token, late, marked]
