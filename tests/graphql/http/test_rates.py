"""Rate limits of accounts, of their tokens, of one customer's tokens, and of addresses without a valid credential."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.accounts import pages as account_pages
from app.auth import stream_tokens
from app.auth.actor import Actor, Scope
from app.auth.stream_tokens import StreamToken
from app.consents import evidence
from app.consents import pages as consent_pages
from app.core import clock
from app.core.crypto import random_token
from app.delivery.destinations.email import pages as mail_pages
from app.graphql.http.addresses import network_of
from app.graphql.http.rates import Rates, TooManyRequests
from app.graphql.http.view import GraphQLView
from app.live.connection_counts import ConnectionCounts
from app.readings import bulk
from tests.accounts.state import reads
from tests.graphql.serving import serving
from tests.support import TestAccount, World
from tests.support import world as open_world

BACKEND = Actor("acc_1", frozenset(Scope), api_key_id="key_1")
READ = frozenset({Scope.READ})
UNBOUND = Actor("acc_1", READ, api_key_id="key_1", is_stream_token=True)
ADA = Actor("acc_1", READ, api_key_id="key_1", customer_id="cus_ada", is_stream_token=True)
BEN = Actor("acc_1", READ, api_key_id="key_1", customer_id="cus_ben", is_stream_token=True)
ADA_HERSELF = Actor("acc_1", READ, customer_id="cus_ada", consent_id="hc_1")
QUERY = {"query": "{ viewer { scopes } }"}
BUSY = "Too many requests; try again in 1 s."


def still() -> float:
    """A clock on which no bucket fills."""
    return 0.0


def through(rates: Rates, actor: Actor, tried: int = 1000) -> int:
    """The number of requests that are allowed."""
    count = 0
    for _ in range(tried):
        try:
            rates.require(actor)
        except TooManyRequests:
            continue
        count += 1
    return count


def test_a_customers_browser_leaves_the_most_to_the_backend_and_to_other_customers() -> None:
    rates = Rates(100, still)
    assert through(rates, ADA) == 20
    assert through(rates, BEN) == 20
    assert through(rates, BACKEND) == 60


def test_all_tokens_together_leave_half_to_the_backend() -> None:
    rates = Rates(100, still)
    assert through(rates, ADA) + through(rates, UNBOUND) == 50
    assert through(rates, BEN) == 0
    assert through(rates, BACKEND) == 50


def test_an_end_customer_with_a_consent_counts_as_that_customer() -> None:
    rates = Rates(100, still)
    assert through(rates, ADA_HERSELF) == 20
    assert through(rates, ADA) == 0


def test_what_an_account_has_used_up_is_not_left_to_its_tokens() -> None:
    rates = Rates(100, still)
    assert through(rates, BACKEND, 90) == 90
    assert through(rates, ADA) == 10
    assert through(rates, BACKEND) == 0


def test_an_address_may_ask_more_at_once_than_in_a_second() -> None:
    now = 0.0
    rates = Rates(10, lambda: now, strangers_at_once=10)
    client = HTTPConnection({"type": "http", "client": ("192.0.2.7", 1), "headers": []})

    def answered() -> int:
        count = 0
        with suppress(TooManyRequests):
            while True:
                rates.require_stranger(client)
                count += 1
        return count

    assert answered() == 10
    now = 1.0
    assert answered() == 2


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
        ("x" * 100, "x" * 64),
        ("", ""),
    ],
)
def test_addresses_are_told_apart_by_what_one_customer_of_a_provider_gets(host: str, network: str) -> None:
    assert network_of(host) == network


@pytest.mark.parametrize(
    ("limit", "account", "tokens", "customer"),
    [(10_000, 10_000, 9000, 100), (100, 100, 90, 4), (3, 3, 2, 2), (1, 1, 1, 1)],
)
def test_sockets_are_shared_likewise(limit: int, account: int, tokens: int, customer: int) -> None:
    counts = ConnectionCounts(limit)

    def fill(actor: Actor) -> int:
        count = 0
        while not counts.is_full(actor):
            counts.claim(actor)
            count += 1
        return count

    assert fill(ADA) == customer
    assert fill(UNBOUND) == tokens - customer
    assert counts.is_full(BEN)
    assert fill(BACKEND) == account - tokens
    for _ in range(customer):
        counts.release(ADA)
    assert fill(BACKEND) == customer


def app_of(world: World, rates: Rates) -> Starlette:
    view = GraphQLView(world.services, world.engine, world.authenticator, rates, None)
    return Starlette(
        routes=[
            Route("/graphql", view.__call__, methods=["GET", "POST"]),
            *bulk.routes(world.services, world.authenticator, rates),
            *evidence.routes(world.services, world.authenticator, rates),
            *consent_pages.routes(world.services, rates),
            *mail_pages.routes(world.services, rates),
            *account_pages.routes(world.services, rates),
        ]
    )


@asynccontextmanager
async def client(app: Any, address: str = "192.0.2.1") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as opened:
        yield opened


def wrong() -> dict[str, str]:
    return {"authorization": f"Bearer {random_token('vw_live_')}"}


Ask = Callable[[httpx.AsyncClient], Any]
GUESSES: dict[str, tuple[int, Ask]] = {
    "graphql": (401, lambda opened: opened.post("/graphql", json=QUERY, headers=wrong())),
    "readings": (401, lambda opened: opened.post("/readings", headers=wrong())),
    "evidence": (401, lambda opened: opened.get("/hosted-consents/hc_1/evidence", headers=wrong())),
    "evidence by a consent token": (
        401,
        lambda opened: opened.get(
            "/hosted-consents/hc_1/evidence",
            headers={"authorization": f"Bearer {random_token('vw_consent_')}"},
        ),
    ),
    "a consent page": (404, lambda opened: opened.get(f"/consents/{random_token('vw_consent_')}")),
    "a consent's record": (404, lambda opened: opened.get(f"/consents/{random_token('x')}/evidence")),
    "a confirmation": (404, lambda opened: opened.get(f"/email-subscriptions/confirm/{random_token('x')}")),
    "a user's confirmation": (404, lambda opened: opened.get(f"/users/confirm/{random_token('x')}")),
    "an unsubscription": (404, lambda opened: opened.post("/email-subscriptions/unsubscribe/x")),
}


@pytest.mark.parametrize(("status", "ask"), GUESSES.values(), ids=GUESSES)
async def test_guesses_of_an_address_are_bounded_before_anything_is_read(
    small_world: World, status: int, ask: Ask
) -> None:
    app = app_of(small_world, Rates(25, still))
    async with client(app) as opened, client(app, "192.0.2.2") as neighbour:
        assert [(await ask(opened)).status_code for _ in range(5)] == [status] * 5
        with reads(small_world.database) as statements:
            refused = [await ask(opened) for _ in range(50)]
        assert [one.status_code for one in refused] == [429] * 50
        assert {one.headers["retry-after"] for one in refused} == {"1"}
        assert not statements
        # Pages answer in HTML, interfaces in JSON.
        told = "Please wait a moment" if status == 404 else BUSY
        assert told in refused[0].text
        assert (await ask(neighbour)).status_code == status


async def test_other_than_guesses_of_keys_are_bounded_as_well(small_world: World) -> None:
    app = app_of(small_world, Rates(25, still))
    stranger = {"query": "{ __typename }"}
    async with client(app) as opened:
        for headers, status in (
            ({}, 200),
            ({"x-api-key": "vw_live_no"}, 401),
            ({"x-api-key": "vw_stream_A." + "A" * 43}, 401),
            ({"x-api-key": "a", "authorization": "Bearer b"}, 401),
            ({}, 200),
            ({}, 429),
            ({"x-api-key": "vw_live_no"}, 429),
            ({"x-api-key": "a", "authorization": "Bearer b"}, 429),
        ):
            assert (await opened.post("/graphql", json=stranger, headers=headers)).status_code == status


async def test_good_credentials_come_through_beside_a_flood(small_world: World, holder: TestAccount) -> None:
    app = app_of(small_world, Rates(25, still))
    key = {"x-api-key": holder.key}
    owner = (await small_world.authenticator.authenticate(holder.key)).actor
    assert owner.api_key_id is not None
    made = StreamToken(holder.id, owner.api_key_id, None, clock.now() + timedelta(hours=1))
    token = {"x-api-key": stream_tokens.make(small_world.services.keyring, made)}
    async with client(app) as opened:
        # All of these would be refused if valid credentials counted.
        for headers in (key, token):
            for _ in range(6):
                assert (await opened.post("/graphql", json=QUERY, headers=headers)).status_code == 200
        for status in [401] * 5 + [429]:
            assert (await opened.post("/graphql", json=QUERY, headers=wrong())).status_code == status
        for headers in (key, token):
            assert (await opened.post("/graphql", json=QUERY, headers=headers)).status_code == 200


async def test_a_key_that_is_new_here_counts_only_until_it_is_read(small_world: World) -> None:
    app = app_of(small_world, Rates(5, still))
    keys = [(await small_world.account()).key for _ in range(3)]
    async with client(app) as opened:
        for key in keys:
            response = await opened.post("/graphql", json=QUERY, headers={"x-api-key": key})
            assert response.status_code == 200
        assert (await opened.post("/graphql", json=QUERY, headers=wrong())).status_code == 401
        another = {"x-api-key": (await small_world.account()).key}
        assert (await opened.post("/graphql", json=QUERY, headers=another)).status_code == 429


async def test_a_fault_of_ours_is_no_guess(small_world: World, holder: TestAccount) -> None:
    app = app_of(small_world, Rates(5, still))
    rename = "ALTER TABLE api_keys RENAME COLUMN {} TO {}"
    async with client(app) as opened:
        for names, status in ((("secret_hash", "hash"), 500), (("hash", "secret_hash"), 200)):
            async with small_world.database.transaction() as session:
                await session.execute(text(rename.format(*names)))
            small_world.authenticator.forget()
            response = await opened.post("/graphql", json=QUERY, headers={"x-api-key": holder.key})
            assert response.status_code == status


async def test_a_revoked_key_is_a_guess_again(small_world: World, holder: TestAccount) -> None:
    app = app_of(small_world, Rates(5, still))
    async with client(app) as opened:
        key = {"x-api-key": holder.key}
        assert (await opened.post("/graphql", json=QUERY, headers=key)).status_code == 200
        async with small_world.database.transaction() as session:
            await session.execute(text("UPDATE api_keys SET revoked_at = created_at"))
        small_world.authenticator.forget()
        for status in (401, 429):
            assert (await opened.post("/graphql", json=QUERY, headers=key)).status_code == status


async def test_behind_a_trusted_proxy_it_is_the_forwarded_address(small_world: World) -> None:
    app = ProxyHeadersMiddleware(app_of(small_world, Rates(5, still)), ["10.0.0.0/8"])  # type: ignore[arg-type]
    async with client(app, "10.0.0.1") as opened:
        for address, status in (("2001:db8::1", 401), ("2001:db8::2", 429), ("2001:db8:0:1::1", 401)):
            headers = {**wrong(), "x-forwarded-for": address}
            assert (await opened.post("/graphql", json=QUERY, headers=headers)).status_code == status


async def test_guesses_by_sockets_are_refused_before_the_upgrade_or_at_once_after_it(
    small_world: World, holder: TestAccount
) -> None:
    async with serving(small_world, rates=Rates(10, still)) as served:
        async with served.open() as guess:
            await guess.say(type="connection_init", payload={"apiKey": random_token("vw_live_")})
            assert (await guess.closed())[0] == 4403
        async with served.open(additional_headers=wrong()) as guess:
            assert (await guess.closed())[0] == 4403
        with reads(small_world.database) as statements:
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with served.open(additional_headers=wrong()):
                    pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "1"
            async with served.open() as guess:
                await guess.say(type="connection_init", payload={"apiKey": random_token("vw_live_")})
                assert await guess.closed() == (1013, BUSY)
        assert not statements
        await small_world.authenticator.authenticate(holder.key)
        async with served.connect(holder.key):
            pass


async def test_a_bound_token_has_sockets_and_requests_of_its_own(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    async with (
        open_world(database, max_sockets=5) as world,
        serving(world, rates=Rates(10, still)) as served,
    ):
        account = await world.account()
        owner = (await world.authenticator.authenticate(account.key)).actor
        assert owner.api_key_id is not None
        customer = await served.hub.customer(owner)
        made = StreamToken(account.id, owner.api_key_id, customer.id, clock.now() + timedelta(hours=1))
        token = stream_tokens.make(world.services.keyring, made)
        async with served.connect(token) as first, served.connect(token), served.connect(token):
            for identifier, kind in (("1", "next"), ("2", "next"), ("3", "error")):
                await first.subscribe("{ __typename }", identifier)
                answer = await first.hear()
                assert (answer["id"], answer["type"]) == (identifier, kind)
                if kind == "next":
                    assert (await first.hear())["type"] == "complete"
            async with served.connect(token), served.open() as fifth:
                await fifth.say(type="connection_init", payload={"apiKey": token})
                assert await fifth.closed() == (1013, "The account has too many open sockets")
                async with served.connect(account.key) as backend:
                    for number in range(8):
                        await backend.subscribe("{ __typename }", str(number))
                        assert (await backend.hear())["type"] == "next"
                        assert (await backend.hear())["type"] == "complete"
