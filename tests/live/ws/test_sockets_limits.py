"""Open sockets and streams end with their tokens and keys, and go on while the database is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
import websockets
from sqlalchemy import delete, update
from sqlmodel import col

from app.accounts import actions as accounts
from app.auth import stream_tokens
from app.auth.actor import Actor
from app.auth.api_keys import ApiKey
from app.auth.authenticate import REMEMBERED_FOR
from app.auth.stream_tokens import StreamToken
from app.core import clock
from app.customers.models import Customer
from app.live.registry import Timing
from tests.accounts.state import reads
from tests.auth.credentials import refused
from tests.core.noted import failures_noted
from tests.events.broadcasters import becomes, unanswered
from tests.graphql.serving import Client, Serving, serving
from tests.live.event_streams import CREDENTIAL_ENDED, stream
from tests.services.postgres import Postgres
from tests.support import TestAccount, World
from tests.support import world as open_world

CREATE_TOKEN = "mutation ($customerId: ID!) { createStreamToken(input: {customerId: $customerId}) { token } }"
DELETE_CUSTOMER = (
    "mutation ($customerId: ID!) { deleteCustomer(input: {customerId: $customerId}) { deletedId } }"
)
GONE = (4403, "The credential has expired or was revoked")


def test_no_credential_outlives_its_end_by_two_seconds() -> None:
    # The time between two checks, plus the age of a remembered credential at the second.
    assert Timing().check + REMEMBERED_FOR < 2


@pytest.fixture
async def quick(small_world: World) -> AsyncIterator[Serving]:
    """Checks its connections all the time."""
    async with serving(small_world, timing=Timing(check=0.02)) as running:
        yield running


def token_of(served: Serving, owner: Actor, lasts: timedelta) -> str:
    """A stream token of the owner's key that expires after `lasts`."""
    assert owner.api_key_id is not None
    token = StreamToken(owner.account_id, owner.api_key_id, None, clock.now() + lasts)
    return stream_tokens.make(served.world.services.keyring, token)


@asynccontextmanager
async def brief(served: Serving, owner: Actor, seconds: int = 1) -> AsyncIterator[tuple[Client, str]]:
    """A client of a token that soon expires, and the token; it lasts longer where it expired before it was accepted."""
    while True:
        token = token_of(served, owner, timedelta(seconds=seconds))
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(served.connect(token))
            except websockets.ConnectionClosed:
                seconds *= 4
                continue
            yield client, token
            return


async def test_a_token_that_expires_ends_its_streams(
    quick: Serving, holder: TestAccount, owner: Actor
) -> None:
    async with quick.connect(holder.key) as other, brief(quick, owner, 3) as (client, token):
        expires_at = stream_tokens.read(quick.world.services.keyring, token).expires_at
        async with stream(quick, token) as reader:
            await client.subscribe()
            assert await reader.block() == {"": ""}
            assert await client.closed() == GONE
            assert await reader.refused() == CREDENTIAL_ENDED
            assert clock.now() >= expires_at
        await other.settled()
        async with quick.open() as late:
            await late.say(type="connection_init", payload={"authorization": f"Bearer {token}"})
            code, _ = await late.closed()
            assert code == 4403


async def test_a_revoked_key_ends_the_streams_of_its_tokens(quick: Serving, owner: Actor) -> None:
    database = quick.world.database
    async with database.transaction() as session:
        key, secret = await accounts.create_api_key(session, owner, name="second")
    maker = (await quick.world.authenticator.authenticate(secret)).actor
    async with quick.connect(token_of(quick, maker, timedelta(hours=1))) as client:
        await client.subscribe()
        async with database.transaction() as session:
            await accounts.revoke_api_key(session, owner, key.id)
        assert await client.closed() == GONE


@pytest.mark.parametrize("rings", [True, False], ids=["here", "in another process"])
async def test_the_tokens_of_a_deleted_customer_end_with_it(
    quick: Serving, holder: TestAccount, owner: Actor, rings: bool
) -> None:
    deleted, kept = [(await quick.hub.customer(owner)).id for _ in range(2)]
    made = [
        await quick.world.data(CREATE_TOKEN, {"customerId": one}, key=holder.key) for one in (deleted, kept)
    ]
    gone, stays = (one["createStreamToken"]["token"] for one in made)
    async with quick.connect(stays) as other, quick.connect(gone) as client, stream(quick, gone) as reader:
        await client.subscribe()
        assert await reader.block() == {"": ""}
        if rings:
            await quick.world.data(DELETE_CUSTOMER, {"customerId": deleted}, key=holder.key)
        else:
            async with quick.world.database.transaction() as session:
                await session.execute(delete(Customer).where(col(Customer.id) == deleted))
        assert await client.closed() == GONE
        assert await reader.refused() == CREDENTIAL_ENDED
        await other.settled()
    quick.world.authenticator.forget()
    assert await refused(quick.world.authenticator, gone)
    assert (await quick.world.authenticator.authenticate(stays)).actor.customer_id == kept


async def test_the_keys_of_all_streams_are_read_by_one_statement_a_round(world: World) -> None:
    held = [await world.account() for _ in range(20)]
    async with serving(world, timing=Timing(check=0.02)) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.connect(one.key)) for one in held]
        with reads(world.database) as statements:
            await becomes(lambda: len(statements) >= 5)
        # Each round runs the same statement, for all keys.
        (statement,) = set(statements)
        assert "api_keys" in statement
        owner = (await world.authenticator.authenticate(held[7].key)).actor
        async with world.database.transaction() as session:
            revoking = update(ApiKey).where(col(ApiKey.id) == owner.api_key_id)
            await session.execute(revoking.values(revoked_at=clock.now()))
        assert await clients[7].closed() == GONE
        for client in clients[:7] + clients[8:]:
            await client.settled()


async def test_a_secret_that_was_rotated_ends_with_its_overlap(quick: Serving, owner: Actor) -> None:
    database = quick.world.database
    async with database.transaction() as session:
        key, old = await accounts.create_api_key(session, owner, name="second")
    async with quick.connect(old) as client:
        # Stored times are whole milliseconds.
        until = clock.now() + timedelta(milliseconds=999)
        async with database.transaction() as session:
            _, new = await accounts.rotate_api_key(session, owner, key.id, overlap_seconds=1)
        async with quick.connect(new) as renewed:
            assert await client.closed() == GONE
            assert clock.now() >= until
            await renewed.settled()


async def test_a_rotation_ends_the_streams_of_tokens_that_the_old_secret_made(
    quick: Serving, owner: Actor
) -> None:
    database, keyring = quick.world.database, quick.world.services.keyring
    async with database.transaction() as session:
        key, old = await accounts.create_api_key(session, owner, name="second")
    async with database.transaction() as session:
        maker = (await quick.world.authenticator.authenticate(old)).actor
        token, _ = await accounts.create_stream_token(session, maker, keyring)
    async with quick.connect(token) as client, stream(quick, token) as reader:
        assert await reader.block() == {"": ""}
        async with database.transaction() as session:
            _, new = await accounts.rotate_api_key(session, owner, key.id, overlap_seconds=0)
        async with database.transaction() as session:
            maker = (await quick.world.authenticator.authenticate(new)).actor
            renewed, _ = await accounts.create_stream_token(session, maker, keyring)
        async with quick.connect(renewed) as other:
            assert await client.closed() == GONE
            # The stream may still have got the event of the rotation.
            while await reader.block() is not None:
                pass
            await other.settled()


async def test_idle_streams_are_told_however_often_others_change_their_keys(
    small_world: World, holder: TestAccount
) -> None:
    other = await small_world.account()
    admin = (await small_world.authenticator.authenticate(other.key)).actor
    assert admin.api_key_id is not None

    async def rotate(key_id: str) -> None:
        while True:
            async with small_world.database.transaction() as session:
                await accounts.rotate_api_key(session, admin, key_id)

    # Changes come far more often than checks.
    timing = Timing(check=0.3, rounds=1, idle=0.5)
    async with serving(small_world, timing=timing) as served, served.connect(holder.key) as client:
        rotating = asyncio.create_task(rotate(admin.api_key_id))
        async with stream(served, holder.key) as reader:
            await client.subscribe()
            message = await client.hear()
            assert (message["type"], list(message["payload"]["cursors"])) == ("ping", ["1"])
            assert [await reader.block(), list(await reader.block() or ())] == [{"": ""}, ["", "id"]]
        rotating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rotating


async def test_a_database_that_is_away_is_nobodys_fault(postgres: Postgres) -> None:
    """Connected clients stay connected, new ones are told to come again."""
    url = await postgres.create_database()
    with failures_noted() as noted:
        async with open_world(url) as world, serving(world, timing=Timing(check=0.1)) as served:
            account, other = await world.account(), await world.account()
            holder = (await world.authenticator.authenticate(account.key)).actor
            async with served.connect(account.key) as connected, brief(served, holder) as (expiring, _):
                await postgres.drop_database(url)
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with served.open(additional_headers={"x-api-key": other.key}):
                        pass
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["Retry-After"] == "30"
                async with served.open() as client:
                    await client.say(type="connection_init", payload={"apiKey": other.key})
                    assert await client.closed() == (1013, "Credentials cannot be checked now; try again")
                # A token's expiry is known without the database, which has not answered for a while by then.
                assert await expiring.closed() == GONE
                await connected.settled()
    assert noted.total() > 0


async def test_a_read_that_is_never_answered_holds_up_nothing(migrated_postgres_url: str) -> None:
    timing = Timing(check=0.02, rounds=1, idle=0.1, answer=1.5)
    async with (
        open_world(migrated_postgres_url) as world,
        serving(world, timing=timing) as served,
        AsyncExitStack() as stack,
    ):
        account = await world.account()
        holder = (await world.authenticator.authenticate(account.key)).actor
        async with world.database.transaction() as session:
            key, secret = await accounts.create_api_key(session, holder, name="second")
        idle = await stack.enter_async_context(served.connect(account.key))
        revoked = await stack.enter_async_context(served.connect(secret))
        await idle.subscribe()
        await served.subscriptions(1)
        expiring, _ = await stack.enter_async_context(brief(served, holder))
        # The records of their use are written, so that the next read of the keys is the check of the connections.
        await world.authenticator.close()
        with failures_noted() as noted:
            async with unanswered(migrated_postgres_url, "api_keys"):
                assert (await idle.hear())["type"] == "ping"
                assert await expiring.closed() == GONE
                # Another process revokes a key. The check sees it once the unanswered read is given up.
                async with world.database.transaction() as session:
                    revoking = update(ApiKey).where(col(ApiKey.id) == key.id)
                    await session.execute(revoking.values(revoked_at=clock.now()))
                assert await revoked.closed() == GONE
        # The one read without an answer was given up, and nothing else has failed.
        assert noted == {"checking the credentials of open streams failed": 1}
