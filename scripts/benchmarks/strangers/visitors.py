"""The clients of a soak: sockets and streams that come and go, documents that never repeat, wrong keys, changes."""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import count
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from scripts.benchmarks.harness.api import Api, mpan, record_body
from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.receiver import Receiver
from scripts.benchmarks.harness.servers import Product
from tests.services.ports import free_port

SOCKETS, STREAMS = 60, 15
# Requests of each kind in a second.
CHANGES, QUERIES, STRANGERS = 5, 10, 10
# As many read at once as the server has connections that read.
READERS = 12
STAY_SECONDS = (0.5, 8.0)
PROTOCOL: Any = "graphql-transport-ws"
REFUSED = (200, 401, 429)


class Visitors:
    """Everyone who comes, with a seed of their own, until `there` ends."""

    def __init__(self, api: Api, product: Product, receiver: Receiver, meters: list[str]) -> None:
        self.api = api
        self.product = product
        self.receiver = receiver
        self.meters = meters
        self.numbers = count()
        self.seen: Counter[str] = Counter()
        self.chance = random.Random(9)
        self.ended: asyncio.Future[None]

    @classmethod
    async def prepared(cls, api: Api, product: Product, receiver: Receiver, customers: int) -> "Visitors":
        """Visitors of an account with that many customers, each with a meter.

        All of them are read once by each of the server's connections: with an empty database the pages that these
        keep would grow for an hour.
        """
        await api.meters(await api.customers(customers))
        await asyncio.gather(*[all_read(api) for _ in range(READERS)])
        await api.endpoint(receiver.url)
        await api.endpoint(f"http://127.0.0.1:{free_port()}/nobody")
        return cls(api, product, receiver, await api.metered_customer(20))

    def sentence(self) -> str:
        return (
            f"{SOCKETS} sockets and {STREAMS} event streams that come and go, {QUERIES} new documents,"
            f" {STRANGERS} strangers and {CHANGES} changes a second, two webhook endpoints"
        )

    def told(self) -> str:
        self.seen["webhooks"] = self.receiver.requests
        return ", ".join(f"{number:,} {what}" for what, number in sorted(self.seen.items()))

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        self.ended = asyncio.get_running_loop().create_future()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.api.client.base_url, limits=limits, timeout=60) as client:
            self.client = client
            tasks = [asyncio.ensure_future(self._kept_at(visit)) for visit in self._visits()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, until: float) -> None:
        """Return at that time of the loop. Raises what a visitor met with."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await asyncio.shield(self.ended)

    def _visits(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *[self.socket] * SOCKETS,
            *[self.stream] * STREAMS,
            self._every(1 / CHANGES, self.change),
            self._every(1 / QUERIES, self.query),
            self._every(1 / STRANGERS, self.stranger),
        ]

    async def _kept_at(self, visit: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                await visit()
        except Exception as error:
            if not self.ended.done():
                self.ended.set_exception(BenchError(f"a visitor met with {type(error).__name__}: {error}"))

    def _every(self, seconds: float, visit: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def paced() -> None:
            await asyncio.gather(visit(), asyncio.sleep(seconds))

        return paced

    def subscription(self) -> dict[str, Any]:
        """A subscription that is new half the time, as a client's whose documents are made by a program."""
        name = f"S{next(self.numbers)}" if self.chance.random() < 0.5 else "S"
        meters = self.chance.sample(self.meters, 2) if self.chance.random() < 0.5 else None
        query = (
            f"subscription {name}($f: EventFilter) {{ events(filter: $f) {{ id name sequence cursor"
            " ... on MeterDataReceivedEvent { meter { id number customer { name } } } } }"
        )
        return {"query": query, "variables": {"f": meters and {"meterIds": meters}}}

    async def socket(self) -> None:
        """Subscribe, take what comes for a while, and leave with or without a word."""
        self.seen["sockets"] += 1
        right = self.chance.random() < 0.9
        key = self.product.api_key if right else wrong_key()
        url = f"ws://127.0.0.1:{self.product.port}/graphql"
        try:
            connection = await connect(url, subprotocols=[PROTOCOL], compression=None, open_timeout=60)
        except InvalidStatus:
            self.seen["sockets refused"] += 1
            return
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            await connection.send(
                orjson.dumps({"type": "connection_init", "payload": {"apiKey": key}}).decode()
            )
            subscribe = {"id": "1", "type": "subscribe", "payload": self.subscription()}
            await connection.send(orjson.dumps(subscribe).decode())
            async with asyncio.timeout(self.chance.uniform(*STAY_SECONDS)):
                async for message in connection:
                    self.seen["socket messages"] += b'"next"' in str(message).encode()
        if self.chance.random() < 0.5:
            connection.transport.abort()
        await connection.close()

    async def stream(self) -> None:
        """The same over Server-Sent Events."""
        self.seen["event streams"] += 1
        headers = {"x-api-key": self.product.api_key, "accept": "text/event-stream"}
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(self.chance.uniform(*STAY_SECONDS)),
                self.client.stream("POST", "/graphql", json=self.subscription(), headers=headers) as answer,
            ):
                async for line in answer.aiter_lines():
                    self.seen["stream events"] += line.startswith("event: next")

    async def query(self) -> None:
        """A document that nobody has sent before, named by its hash as often as not."""
        self.seen["new documents"] += 1
        number = next(self.numbers)
        query = (
            f"query Q{number}($n: Int!) {{ m{number}: meters(first: $n) {{ nodes {{ id number type customer"
            f" {{ id name }} }} }} e{number}: events(first: 5) {{ nodes {{ id name sequence }} }} }}"
        )
        body: dict[str, Any] = {"query": query, "variables": {"n": self.chance.randint(1, 20)}}
        if number % 2:
            body["extensions"] = {
                "persistedQuery": {"version": 1, "sha256Hash": sha256(query.encode()).hexdigest()}
            }
        await self._post(body, {"x-api-key": self.product.api_key}, (200,))

    async def stranger(self) -> None:
        """A wrong key, a wrong token, or none and a document of its own."""
        self.seen["strangers"] += 1
        number = next(self.numbers)
        headers = self.chance.choice(
            [{"x-api-key": wrong_key()}, {"authorization": f"Bearer vw_stream_{secrets.token_hex(40)}"}, {}]
        )
        await self._post({"query": f"{{ a{number}: __typename eventTypes {{ name }} }}"}, headers, REFUSED)

    async def _post(self, body: dict[str, Any], headers: dict[str, str], allowed: tuple[int, ...]) -> None:
        answer = await self.client.post("/graphql", json=body, headers=headers)
        if answer.status_code not in allowed:
            raise BenchError(f"{answer.status_code}: {answer.text[:300]}")

    async def change(self) -> None:
        """Readings mostly, now and then a customer with a meter."""
        self.seen["changes"] += 1
        number = next(self.numbers)
        if number % 5:
            await self.api.record(record_body(self.chance.choice(self.meters), number))
            return
        (customer,) = await self.api.customers(1)
        await self.api.mutate("createMeter", "meter { id }", {"customerId": customer, "number": mpan(number)})


async def all_read(api: Api) -> None:
    """Read all meters with their customers, and the events beside them."""
    query = (
        "query($at: String) { meters(first: 100, after: $at) { pageInfo { endCursor hasNextPage } nodes { id number"
        " customer { id name email } } } events(first: 100) { nodes { id sequence } } }"
    )
    page: dict[str, Any] = {"endCursor": None, "hasNextPage": True}
    while page["hasNextPage"]:
        page = (await api.run(query, {"at": page["endCursor"]}))["meters"]["pageInfo"]


def wrong_key() -> str:
    return f"vw_live_{secrets.token_urlsafe(32)}"
