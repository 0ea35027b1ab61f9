"""Authentication by stream tokens, which end with their key and its secrets."""

import pytest

from app.accounts import actions
from app.auth.actor import Actor, Scope
from app.auth.api_keys import KeyState
from app.auth.stream_tokens import StreamToken
from app.core import clock
from app.core.errors import Forbidden
from app.customers.models import Customer
from tests.auth.credentials import HOUR, change, key_of, refused, still_valid, token_of
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases

DELETE = "mutation ($customerId: ID!) { deleteCustomer(input: {customerId: $customerId}) { deletedId } }"


async def test_a_stream_token_only_reads_and_may_be_bound(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    until = clock.now() + HOUR
    customer_id = await customer_of(world, account)
    token = token_of(world, account, key, until, customer_id=customer_id)
    found = await world.authenticator.authenticate(token)
    assert found.actor == Actor(
        account.id, frozenset({Scope.READ}), api_key_id=key.id, customer_id=customer_id, is_stream_token=True
    )
    assert found.expires_at == until
    assert await still_valid(world.authenticator, found)
    assert not found.actor.may(Scope.WRITE)


async def customer_of(world: World, account: TestAccount) -> str:
    """The id of a new customer."""
    customer = Customer(account_id=account.id, name="Ada", email="ada@example.com")
    async with world.database.transaction() as session:
        session.add(customer)
    return customer.id


async def test_a_stream_token_ends_with_its_customer(world: World) -> None:
    account = await world.account()
    key, customer_id = await key_of(world, account), await customer_of(world, account)
    token = token_of(world, account, key, clock.now() + HOUR, customer_id=customer_id)
    whole = token_of(world, account, key, clock.now() + HOUR)
    bound, unbound = [await world.authenticator.authenticate(one) for one in (token, whole)]
    assert await world.authenticator.ended([bound, unbound]) == []
    await world.data(DELETE, {"customerId": customer_id}, key=account.key)
    assert await refused(world.authenticator, token)
    assert await world.authenticator.ended([bound, unbound]) == [bound]
    assert (await world.authenticator.authenticate(whole)).actor.customer_id is None


async def test_a_stream_token_ends_no_later_than_its_key(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    soon = clock.now() + HOUR
    await change(world, key.id, expires_at=soon)
    found = await world.authenticator.authenticate(token_of(world, account, key, soon + HOUR))
    assert found.expires_at == soon


async def test_a_stream_token_ends_with_its_key(world: World) -> None:
    account = await world.account()
    key = await key_of(world, account)
    token = token_of(world, account, key, clock.now() + HOUR)
    found = await world.authenticator.authenticate(token)
    await change(world, key.id, revoked_at=clock.now())
    world.authenticator.forget()
    assert await refused(world.authenticator, token)
    assert not await still_valid(world.authenticator, found)


async def made_with(world: World, secret: str) -> str:
    """A stream token that was made with this secret."""
    actor = (await world.authenticator.authenticate(secret)).actor
    async with world.database.transaction() as session:
        token, until = await actions.create_stream_token(session, actor, world.services.keyring)
    assert (await world.authenticator.authenticate(token)).expires_at == until
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
    held = {text: await world.authenticator.authenticate(text) for text in (before, by_old, by_new)}
    assert [held[text].expires_at == overlap_ends for text in held] == [True, True, False]
    assert await world.authenticator.ended(list(held.values())) == []
    await change(world, key_id, previous_until=clock.now())
    world.authenticator.forget()
    assert [await refused(world.authenticator, text) for text in (before, by_old)] == [True, True]
    assert (await world.authenticator.authenticate(by_new)).actor.is_stream_token
    # Open streams are checked by one statement over their keys.
    assert await world.authenticator.ended(list(held.values())) == [held[before], held[by_old]]


async def test_a_rotation_without_overlap_ends_its_stream_tokens_at_once(world: World) -> None:
    account = await world.account()
    key_id = (await key_of(world, account)).id
    token = await made_with(world, account.key)
    found = await world.authenticator.authenticate(token)
    admin = (await world.authenticator.authenticate(account.key)).actor
    for _ in range(2):
        # After another rotation the old secret is not even the previous one.
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
def test_a_token_without_a_mark_counts_as_long_as_is_safe(
    overlap_ends: float | None, token_ends: float, end: float
) -> None:
    """Hours from now; either secret may have made the token, up to a day before its end."""
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
