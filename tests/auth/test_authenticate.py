import asyncio
import gc
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.accounts import actions
from app.accounts.models import ApiKey, KeyState
from app.auth import stream_tokens
from app.auth.actor import Actor, Scope
from app.auth.authenticate import KEYS_AT_ONCE, REFUSED, Authenticator, Credential
from app.auth.stream_tokens import StreamToken
from app.core import clock
from app.core.crypto import random_token
from app.core.errors import Forbidden, Unauthenticated
from app.db.database import Database
from tests.accounts.state import reads
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases

HOUR = timedelta(hours=1)


async def key_of(world: World, account: TestAccount) -> ApiKey:
    async with world.database.reading() as session:
        statement = select(ApiKey).where(col(ApiKey.account_id) == account.id)
        return (await session.execute(statement)).scalar_one()


async def change(world: World, key_id: str, **values: Any) -> None:
    """As another process would: nobody here is told."""
    async with world.database.transaction() as session:
        await session.execute(update(ApiKey).where(col(ApiKey.id) == key_id).values(**values))


async def refused(authenticator: Authenticator, credential: str) -> bool:
    """Whether it is, which is always told in the same words."""
    with pytest.raises(Unauthenticated) as raised:
        await authenticator.check(credential)
    return raised.value.message == REFUSED


async def still_valid(authenticator: Authenticator, credential: Credential) -> bool:
    return not await authenticator.ended([credential])


async def test_a_live_key_is_its_account(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    found = await world.authenticator.check(account.key)
    assert found.actor == Actor(account.id, frozenset(Scope), api_key_id=key.id)
    assert (found.api_key_id, found.expires_at) == (key.id, None)
    assert account.key not in repr(found)
    assert await world.authenticator.authenticate(account.key) == found.actor
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
async def test_what_is_no_key_is_refused_in_the_same_words(world: World, credential: str) -> None:
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
    patient = Authenticator(world.database, world.services.keyring, remembered_for=600)
    with reads(world.database) as statements:
        actors = await asyncio.gather(*(patient.authenticate(account.key) for _ in range(1000)))
        await patient.authenticate(account.key)
    await patient.close()
    assert len(set(actors)) == 1
    assert len(statements) == 1


async def test_a_caller_that_goes_away_does_not_take_the_answer_from_the_others(world: World) -> None:
    account = await world.account()
    first = asyncio.create_task(world.authenticator.authenticate(account.key))
    second = asyncio.create_task(world.authenticator.authenticate(account.key))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).account_id == account.id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_wrong_keys_leave_nothing_behind(world: World) -> None:
    authenticator = Authenticator(world.database, world.services.keyring, remembered_for=0)
    before = tasks_in_memory()
    for _ in range(200):
        assert await refused(authenticator, random_token("vw_live_"))
    # The latest is remembered until the next one comes.
    assert tasks_in_memory() - before <= 1


def tasks_in_memory() -> int:
    """Also those that have ended, as long as somebody keeps them."""
    gc.collect()
    return sum(isinstance(one, asyncio.Task) for one in gc.get_objects())


async def test_an_expired_key_is_refused(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    soon = clock.now() + HOUR
    await change(world, key.id, expires_at=soon)
    found = await world.authenticator.check(account.key)
    assert found.expires_at == soon
    await change(world, key.id, expires_at=clock.now())
    world.authenticator.forget()
    assert await refused(world.authenticator, account.key)
    assert not await still_valid(world.authenticator, found)


async def test_revoking_stops_a_key_at_once_here_and_soon_elsewhere(world: World) -> None:
    account = await world.account()
    admin = await world.authenticator.authenticate(account.key)
    async with world.database.transaction() as session:
        key, secret = await actions.create_api_key(session, admin, name="Second")
    elsewhere = Authenticator(Database(world.services.settings.database), world.services.keyring)
    here = await world.authenticator.check(secret)
    there = await elsewhere.check(secret)
    async with world.database.transaction() as session:
        await actions.revoke_api_key(session, admin, key.id)
    assert await refused(world.authenticator, secret)
    assert not await still_valid(world.authenticator, here)
    # Another process is not told: it finds out when it reads anew, which it does for open streams whenever it looks
    # at them, and for who comes several times a second.
    assert not await still_valid(elsewhere, there)

    async def accepted() -> bool:
        try:
            return await elsewhere.check(secret) is not None
        except Unauthenticated:
            return False

    while await accepted():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)
    await elsewhere.close()
    await elsewhere._database.dispose()


async def test_after_a_rotation_both_secrets_work_until_the_overlap_ends(world: World) -> None:
    account = await world.account()
    before = await world.authenticator.check(account.key)
    async with world.database.transaction() as session:
        key, secret = await actions.rotate_api_key(session, before.actor, before.api_key_id, 600)
    old, new = await world.authenticator.check(account.key), await world.authenticator.check(secret)
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
    before = await world.authenticator.check(account.key)
    async with world.database.transaction() as session:
        _key, secret = await actions.rotate_api_key(session, before.actor, before.api_key_id, 0)
    assert await refused(world.authenticator, account.key)
    assert not await still_valid(world.authenticator, before)
    assert (await world.authenticator.check(secret)).actor == before.actor


def token_of(world: World, account: TestAccount, key: ApiKey, until: datetime, **values: Any) -> str:
    token = StreamToken(
        **{"account_id": account.id, "api_key_id": key.id, "customer_id": None, **values}, expires_at=until
    )
    return stream_tokens.make(world.services.keyring, token)


async def test_a_stream_token_only_reads_and_may_be_bound(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    until = clock.now() + HOUR
    found = await world.authenticator.check(token_of(world, account, key, until, customer_id="cus_1"))
    assert found.actor == Actor(
        account.id, frozenset({Scope.READ}), api_key_id=key.id, customer_id="cus_1", is_stream_token=True
    )
    assert found.expires_at == until
    assert await still_valid(world.authenticator, found)
    assert not found.actor.may(Scope.WRITE)


async def test_a_stream_token_ends_no_later_than_its_key(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    soon = clock.now() + HOUR
    await change(world, key.id, expires_at=soon)
    found = await world.authenticator.check(token_of(world, account, key, soon + HOUR))
    assert found.expires_at == soon


async def test_a_stream_token_dies_with_its_key(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    token = token_of(world, account, key, clock.now() + HOUR)
    found = await world.authenticator.check(token)
    await change(world, key.id, revoked_at=clock.now())
    world.authenticator.forget()
    assert await refused(world.authenticator, token)
    assert not await still_valid(world.authenticator, found)


async def made_with(world: World, secret: str) -> str:
    """A stream token, as a program with this secret gets it."""
    actor = await world.authenticator.authenticate(secret)
    async with world.database.transaction() as session:
        token, until = await actions.create_stream_token(session, actor, world.services.keyring)
    assert (await world.authenticator.check(token)).expires_at == until
    return token


async def test_a_stream_token_ends_with_the_secret_that_it_was_made_with(world: World) -> None:
    account = await world.account()
    key_id = (await key_of(world, account)).id
    before = await made_with(world, account.key)
    admin = Actor(account.id, frozenset(Scope), api_key_id=key_id)
    async with world.database.transaction() as session:
        key, secret = await actions.rotate_api_key(session, admin, key_id, 60)
    overlap_ends = key.previous_until
    by_old, by_new = await made_with(world, account.key), await made_with(world, secret)
    held = {text: await world.authenticator.check(text) for text in (before, by_old, by_new)}
    assert [held[text].expires_at == overlap_ends for text in held] == [True, True, False]
    assert await world.authenticator.ended(list(held.values())) == []
    await change(world, key_id, previous_until=clock.now())
    world.authenticator.forget()
    assert [await refused(world.authenticator, text) for text in (before, by_old)] == [True, True]
    assert (await world.authenticator.check(by_new)).actor.is_stream_token
    # Open streams by the one statement that reads their keys.
    assert await world.authenticator.ended(list(held.values())) == [held[before], held[by_old]]


async def test_a_rotation_without_overlap_ends_its_stream_tokens_at_once(world: World) -> None:
    account = await world.account()
    key_id = (await key_of(world, account)).id
    token = await made_with(world, account.key)
    found = await world.authenticator.check(token)
    admin = await world.authenticator.authenticate(account.key)
    for _ in range(2):
        # Once more, the old secret is not even the previous one.
        async with world.database.transaction() as session:
            await actions.rotate_api_key(session, admin, key_id, 0)
        assert await refused(world.authenticator, token)
        assert not await still_valid(world.authenticator, found)
    async with world.database.transaction() as session:
        with pytest.raises(Forbidden, match="use its new secret"):
            await actions.create_stream_token(session, admin, world.services.keyring)


@pytest.mark.parametrize(
    ("overlap_ends", "token_ends", "end"),
    [
        (None, 1, 1),
        (-5, 1, -5),
        (-5, 20, 20),
        (5, 1, 1),
        (5, 20, 5),
    ],
    ids=["never rotated", "rotated", "made after the rotation", "in the overlap", "longer than it"],
)
def test_a_token_of_before_there_were_marks_counts_as_far_as_is_safe(
    overlap_ends: float | None, token_ends: float, end: float
) -> None:
    """In hours from now; it may have been made with either secret up to a day before its end."""
    at = clock.now()
    until = None if overlap_ends is None else at + overlap_ends * HOUR
    key = KeyState("key_1", "new", None if until is None else "old", until, None, None)
    token = StreamToken("acc_1", "key_1", None, at + token_ends * HOUR)
    assert key.end_of(token) == at + end * HOUR
    assert key.accepts_token(token, at) == (end > 0)


async def test_a_stream_token_that_is_over_or_of_another_account_is_refused(world: World) -> None:
    account, other = await world.account(), await world.account()
    key = await key_of(world, account)
    assert await refused(world.authenticator, token_of(world, account, key, clock.now()))
    assert await refused(world.authenticator, token_of(world, other, key, clock.now() + HOUR))
    gone = token_of(world, account, key, clock.now() + HOUR, api_key_id="key_gone")
    assert await refused(world.authenticator, gone)


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
    # The row is locked by someone else's transaction, so the note has to wait; the request does not.
    async with world.database.transaction() as session:
        await session.execute(update(ApiKey).where(col(ApiKey.id) == key.id).values(name="Locked"))
        assert (await world.authenticator.authenticate(account.key)).account_id == account.id
    await world.authenticator.close()
    assert (await key_of(world, account)).last_used_at is not None


async def made_keys(world: World, account: TestAccount, count: int) -> list[Credential]:
    """So many keys of the account, accepted."""
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


async def test_however_many_credentials_are_checked_by_one_statement(world: World) -> None:
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
    held = await world.authenticator.check(account.key)
    gone = [replace(held, api_key_id=f"key_gone{n}") for n in range(2 * KEYS_AT_ONCE)]
    with reads(world.database) as statements:
        assert await world.authenticator.ended([*gone, held]) == gone
    assert len(statements) == 3


async def test_of_many_credentials_those_end_whose_keys_do(world: World) -> None:
    account = await world.account()
    made = await made_keys(world, account, 20)
    revoked, expired, rotated, overlapping, overlapped = made[3:8]
    now = clock.now()
    token, late = as_token(revoked, now + HOUR), as_token(made[0], now)
    # Of before there were marks, and with one of the secret that is no more.
    lasting, marked = as_token(rotated, now + HOUR), as_token(rotated, now + HOUR, rotated.secret_hash)
    await change(world, revoked.api_key_id, revoked_at=now)
    await change(world, expired.api_key_id, expires_at=now)
    for old, until in ((rotated, None), (overlapping, now + HOUR), (overlapped, now)):
        hashes = {"secret_hash": f"new {old.api_key_id}", "previous_hash": until and old.secret_hash}
        await change(world, old.api_key_id, previous_until=until, **hashes)
    ended = await world.authenticator.ended([*made, token, late, lasting, marked])
    assert ended == [revoked, expired, rotated, overlapped, token, late, marked]
