"""Failures of each part cost listeners of real processes time and no event; no event comes twice."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count

import httpx
import pytest

from tests.events.broadcasters import cut_listeners, frozen
from tests.services.patience import PATIENCE
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey
from tests.system.clients import Api, EventStream, Socket, event_stream, socket
from tests.system.deployment import Account, Deployment, Process, deployed

numbers = count()


class Doomed(Process):
    """An API process that dies between the commit of its first event and telling anyone."""

    entry_point = "tests.system.live.doomed:main"

    def arguments(self) -> list[str]:
        return ["publish.before", *super().arguments()]


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that only these tests hurt."""
    server = Postgres()
    server.start()
    yield server
    server.close()


@dataclass
class Fleet:
    """Two API processes, the account that listens to both, and the servers behind them."""

    deployment: Deployment
    account: Account
    postgres: Postgres
    broadcaster: Service


# Where the broadcaster is no server of its own, it cannot fail without the database.
apart = pytest.mark.parametrize("fleet", ["valkey"], indirect=True)


@pytest.fixture(scope="module", params=["valkey", "postgresql"])
async def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, own_postgres: Postgres
) -> AsyncIterator[Fleet]:
    """With Valkey as the broadcaster, and with PostgreSQL alone."""
    url = await own_postgres.create_database()
    with contextlib.ExitStack() as stack:
        broadcaster: Service = own_postgres
        broadcast_url = url
        if request.param == "valkey":
            broadcaster = valkey = Valkey()
            stack.callback(valkey.close)
            valkey.start()
            broadcast_url = valkey.url
        folder = tmp_path_factory.mktemp("fleet")
        async with deployed(["api", "api"], folder, url, broadcast_url) as deployment:
            yield Fleet(deployment, await deployment.account(), own_postgres, broadcaster)


@dataclass
class Audience:
    """A socket and an event stream on every process, which must all be told the same; and one writer on each."""

    apis: list[Api]
    before: int
    listeners: list[Socket | EventStream] = field(default_factory=list)
    made: int = 0

    async def happen(self, events: int) -> None:
        """Make events by all processes in turn."""
        for number in range(events):
            await make_customer(self.apis[number % len(self.apis)])
        self.made += events

    async def told(self) -> None:
        """Return when everyone has been told of every event. Exactly those, in order."""
        expected = list(range(self.before + 1, self.before + self.made + 1))
        for listener in self.listeners:
            await listener.events.wait_for(self.made)
        for listener in self.listeners:
            assert listener.sequences == expected


async def make_customer(api: Api) -> None:
    await api.mutate("createCustomer", "customer { id }", name="Ada", email=f"ada{next(numbers)}@example.com")


@pytest.fixture
async def audience(fleet: Fleet) -> AsyncIterator[Audience]:
    key = fleet.account.key
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(one.url, key)) for one in fleet.deployment.apis]
        listening = Audience(apis, await apis[0].last_sequence())
        after = await apis[0].latest_cursor()
        for process, api in zip(fleet.deployment.apis, apis, strict=True):
            client = await stack.enter_async_context(socket(process.socket_url, key))
            await client.subscribe(after=after)
            stream = await stack.enter_async_context(event_stream(api, after=after))
            listening.listeners += [client, stream]
        await listening.happen(2)
        await listening.told()
        yield listening


async def test_a_process_killed_between_commit_and_publish(fleet: Fleet, audience: Audience) -> None:
    doomed = Doomed("api", fleet.deployment.environment)
    try:
        await asyncio.to_thread(doomed.start)
        assert doomed.process is not None
        async with Api(doomed.url, fleet.account.key) as api:
            # The answer may have left before it died.
            with contextlib.suppress(httpx.TransportError):
                await make_customer(api)
        assert await asyncio.to_thread(doomed.process.wait) == -signal.SIGKILL
        # It was committed, though nobody was rung for.
        audience.made += 1
        await audience.told()
        await audience.happen(2)
        await audience.told()
    finally:
        doomed.kill()
        doomed.close()


async def test_dead_listeners(fleet: Fleet, audience: Audience) -> None:
    for _ in range(3):
        async with asyncio.timeout(PATIENCE):
            while not await cut_listeners(fleet.broadcaster):  # noqa: ASYNC110 - not back from the last time
                await asyncio.sleep(0.01)
        await audience.happen(2)
    await audience.told()


@apart
async def test_a_broadcaster_that_says_nothing(fleet: Fleet, audience: Audience) -> None:
    with frozen(fleet.broadcaster.pid):
        await audience.happen(4)
        await audience.told()
    await audience.happen(4)
    await audience.told()


@apart
async def test_a_broadcaster_that_is_killed_and_comes_back(fleet: Fleet, audience: Audience) -> None:
    fleet.broadcaster.kill()
    await audience.happen(4)
    await audience.told()
    await asyncio.to_thread(fleet.broadcaster.start)
    await audience.happen(4)
    await audience.told()


@apart
async def test_a_key_that_is_revoked_while_the_broadcaster_is_away(fleet: Fleet, audience: Audience) -> None:
    """Its sockets and streams end on every process, and nobody else's do."""
    near, far = audience.apis
    made = await near.mutate("createApiKey", "apiKey { id } secret", name="Second", scopes=["READ"])
    fleet.deployment.secrets.append(made["secret"])
    fleet.broadcaster.kill()
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(socket(process.socket_url, made["secret"]))
                for process in fleet.deployment.apis
            ]
            reader = await stack.enter_async_context(Api(str(far.http.base_url), made["secret"]))
            stream = await stack.enter_async_context(event_stream(reader))
            await near.mutate("revokeApiKey", "apiKey { id }", apiKeyId=made["apiKey"]["id"])
            for client in clients:
                assert await client.closed() == (4403, "The credential has expired or was revoked")
            await stream.ended()
            assert (stream.errors, stream.completed) == (["UNAUTHENTICATED"], True)
        await audience.happen(2)
        await audience.told()
    finally:
        await asyncio.to_thread(fleet.broadcaster.start)


async def test_a_database_that_is_killed_and_comes_back(fleet: Fleet, audience: Audience) -> None:
    await audience.happen(2)
    fleet.postgres.kill()
    await asyncio.to_thread(fleet.postgres.start)
    await audience.happen(4)
    await audience.told()
