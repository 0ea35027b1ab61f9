"""Many callers of one address send one key at once to a process that has not read it yet."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from starlette.requests import HTTPConnection

from app.auth.authenticate import Credential
from app.core.crypto import random_token
from app.core.errors import ApiError, Unauthenticated
from app.graphql.http.rates import Rates, TooManyRequests
from tests.accounts.state import reads
from tests.graphql.serving import Serving, serving
from tests.support import TestAccount, World

AT_ONCE = 320
# Requests that an address may send at once.
STRANGERS = 5
CLIENT = HTTPConnection({"type": "http", "client": ("192.0.2.7", 1), "headers": []})


@pytest.fixture
def rates() -> Rates:
    return Rates(5 * STRANGERS, clock=lambda: 0.0)


@pytest.fixture
async def cold(small_world: World, rates: Rates) -> AsyncIterator[Serving]:
    async with serving(small_world, rates=rates) as served:
        yield served


async def answers(world: World, rates: Rates, key: str) -> Counter[type[Credential | ApiError]]:
    """Counts the answers to callers who send this key at once."""

    async def answer() -> type[Credential | ApiError]:
        try:
            return type(await rates.authenticated(world.authenticator, key, CLIENT))
        except (Unauthenticated, TooManyRequests) as error:
            return type(error)

    return Counter(await asyncio.gather(*(answer() for _ in range(AT_ONCE))))


@pytest.mark.both_databases
async def test_callers_with_one_valid_key_share_its_read_and_count_for_one(
    world: World, rates: Rates
) -> None:
    key = (await world.account()).key
    for _ in range(STRANGERS - 1):
        rates.require_stranger(CLIENT)
    with reads(world.database) as statements:
        assert await answers(world, rates, key) == {Credential: AT_ONCE}
    assert len(statements) == 1
    # The one that was counted is given back, and no other.
    rates.require_stranger(CLIENT)
    with pytest.raises(TooManyRequests):
        rates.require_stranger(CLIENT)


@pytest.mark.both_databases
async def test_callers_with_one_wrong_key_count_each(world: World, rates: Rates) -> None:
    wrong = random_token("vw_live_")
    with reads(world.database) as statements:
        assert await answers(world, rates, wrong) == {
            Unauthenticated: STRANGERS,
            TooManyRequests: AT_ONCE - STRANGERS,
        }
        assert len(statements) == 1
        world.authenticator.forget()
        for guess in (wrong, random_token("vw_live_")):
            assert await answers(world, rates, guess) == {TooManyRequests: AT_ONCE}
        assert len(statements) == 1


async def test_no_socket_with_a_valid_key_in_its_headers_is_refused(
    cold: Serving, holder: TestAccount
) -> None:
    headers = {"x-api-key": holder.key}
    async with AsyncExitStack() as stack:

        async def opened() -> None:
            socket = cold.open(additional_headers=headers, open_timeout=None)
            client = await stack.enter_async_context(socket)
            await client.say(type="connection_init")
            assert await client.hear() == {"type": "connection_ack"}

        await asyncio.gather(*(opened() for _ in range(AT_ONCE)))


async def test_no_socket_with_a_valid_key_in_connection_init_is_refused(
    cold: Serving, holder: TestAccount
) -> None:
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(cold.open(open_timeout=None)) for _ in range(AT_ONCE))
        clients = await asyncio.gather(*opening)
        await asyncio.gather(*(client.init(holder.key) for client in clients))
