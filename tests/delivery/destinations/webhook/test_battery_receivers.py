"""The fault battery: every misbehaviour of receivers at the same time, and healthy receivers beside them."""

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.delivery.queue.models import DeliveryStatus
from app.events.models import EventRecord
from app.outbound.http.transport import Transport
from tests.delivery import receivers
from tests.delivery.battery import Try, arrivals, check_healthy, ended
from tests.delivery.receivers import OK, Authority, drips, floods, hangs, says, then_resets
from tests.delivery.scene import Scene, open_scene
from tests.services.receiver import Answer, Receiver, Request

pytestmark = pytest.mark.both_databases

ROUNDS = 2
TIMEOUT = 1.5
LOOPBACK = [ip_network("127.0.0.0/8")]
BROKEN = "bad.example"
BOMB = gzip.compress(b"0" * 10_000_000)


@dataclass(frozen=True)
class Case:
    """A receiver's behaviour, byte by byte or as HTTP, and the end of each event, after which tries."""

    does: receivers.Answer | None
    status: str
    tries: list[Try]
    answers: Callable[[Request], Answer] | None = None
    host: str = "127.0.0.1"
    certificate: str | None = None
    # How often the receiver is asked for each event; None: once for every try.
    asked: int | None = None
    # The recorded part of the answer, and the wait before the second attempt.
    says: str | None = None
    waits: float = 0.0


def body(content: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(content), content)


async def answers_and_closes(writer: asyncio.StreamWriter) -> None:
    """Says that the connection is kept, and closes it before the next request."""
    writer.write(OK)
    await writer.drain()
    writer.close()


def first(status: int, retry_after: str) -> Callable[[Request], Answer]:
    """Puts off each delivery at its first attempt."""
    seen: set[str] = set()

    def answer(request: Request) -> Answer:
        if request.headers["webhook-id"] in seen:
            return Answer(204)
        seen.add(request.headers["webhook-id"])
        return Answer(status, {"retry-after": retry_after})

    return answer


def redirects(request: Request) -> Answer:
    """Redirects to a path that must get no request."""
    return Answer(307, {"location": f"http://{request.headers['host']}/trap"})


def done(status: int = 200) -> tuple[str, list[Try]]:
    return "SUCCEEDED", [("SUCCEEDED", status)]


def given_up(outcome: str, status: int | None = None) -> tuple[str, list[Try]]:
    return "EXHAUSTED", [(outcome, status)] * 2


def put_off(status: int) -> tuple[str, list[Try]]:
    return "SUCCEEDED", [("HTTP_STATUS", status), ("SUCCEEDED", 204)]


CASES = {
    "accepts and hangs": Case(hangs, *given_up("TIMEOUT")),
    "drips headers": Case(drips(b"HTTP/1.1 200 OK\r\nX-", b"a"), *given_up("TIMEOUT")),
    "drips its body": Case(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"d"), *done()),
    "drips the body of an error": Case(
        drips(b"HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\n", b"d"), *given_up("HTTP_STATUS", 503)
    ),
    "sends 10 GB": Case(
        floods(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", b"z" * 65536),
        *done(),
        says="z" * 16384,
    ),
    "sends a gzip bomb": Case(says(body(BOMB, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n")), *done()),
    "sends NUL and invalid UTF-8": Case(
        says(body(b"a\0b\xff\xc3", b"HTTP/1.1 500 No\r\n")),
        *given_up("HTTP_STATUS", 500),
        says="ab\ufffd\ufffd",
    ),
    "resets within its body": Case(
        then_resets(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\npart"),
        *given_up("HTTP_STATUS", 500),
        says="part",
    ),
    "answers 200 and resets": Case(then_resets(OK), *done(), says="ok"),
    "resets without an answer": Case(then_resets(), *given_up("CONNECTION")),
    "closes between requests": Case(answers_and_closes, *done(), says="ok"),
    "has an expired certificate": Case(
        says(OK), *given_up("TLS"), host=BROKEN, certificate="expired", asked=0
    ),
    "has a certificate of its own": Case(
        says(OK), *given_up("TLS"), host=BROKEN, certificate="self-signed", asked=0
    ),
    "has another host's certificate": Case(
        says(OK), *given_up("TLS"), host=BROKEN, certificate="wrong host", asked=0
    ),
    "has no such name": Case(None, *given_up("DNS"), host="missing.example"),
    "has a slow name server": Case(None, *given_up("TIMEOUT"), host="slow.example"),
    "has a name that leads inside": Case(None, *given_up("BLOCKED_ADDRESS"), host="inside.example"),
    "redirects inside": Case(None, *given_up("HTTP_STATUS", 307), answers=redirects),
    "answers 500": Case(None, *given_up("HTTP_STATUS", 500), answers=lambda _: Answer(500)),
    "puts off for a second": Case(None, *put_off(429), answers=first(429, "1"), waits=1.0),
    "puts off until a time that is past": Case(
        None, *put_off(429), answers=first(429, "Wed, 21 Oct 2015 07:28:00 GMT")
    ),
    "puts off with garbage": Case(None, *put_off(429), answers=first(429, "soon; -1")),
}


@dataclass
class Place:
    """A case's endpoint, and the requests to its receiver."""

    case: Case
    endpoint_id: str
    asked: Callable[[], Sequence[receivers.Request | Request]]


class Stage:
    """All cases as endpoints of one account, and healthy destinations in its own and in another account."""

    def __init__(self, scene: Scene, receiver: Receiver, authority: Authority) -> None:
        self.scene = scene
        self.receiver = receiver
        self.authority = authority
        self.places: dict[str, Place] = {}
        self.healthy: dict[str, str] = {}
        self.accounts: list[str] = []
        self.events: dict[str, list[EventRecord]] = {}

    async def set_up(self, stack: AsyncExitStack) -> None:
        self.accounts = [await self.scene.account() for _ in range(2)]
        bad, other = self.accounts
        for number, (name, case) in enumerate(CASES.items()):
            url, asked = await self._open(stack, f"/{number}", case)
            endpoint = await self.scene.endpoint(bad, url)
            self.places[name] = Place(case, endpoint.id, asked)
        for path, account in (("/beside", bad), ("/elsewhere", other)):
            self.healthy[path] = (await self.scene.endpoint(account, self.receiver.url(path))).id
        self.events = {account: [] for account in self.accounts}

    async def happen(self) -> None:
        """Make an event in each account, and wait until all healthy endpoints have recorded it."""
        for account in self.accounts:
            self.events[account] += await self.scene.happen(account)
        await self.scene.until(self._healthy_are_done)

    def account_of(self, path: str) -> str:
        return self.accounts[path == "/elsewhere"]

    async def _healthy_are_done(self) -> bool:
        done = await self.scene.deliveries(status=DeliveryStatus.SUCCEEDED.value)
        recorded = [one.destination_id for one in done]
        return all(
            recorded.count(endpoint_id) == len(self.events[self.account_of(path)])
            for path, endpoint_id in self.healthy.items()
        )

    async def _open(
        self, stack: AsyncExitStack, path: str, case: Case
    ) -> tuple[str, Callable[[], Sequence[receivers.Request | Request]]]:
        if case.answers is not None:
            self.receiver.on(path, case.answers)
            return self.receiver.url(path), lambda: self.receiver.to(path)
        if case.does is None:
            return f"http://{case.host}/", list
        tls = None
        if case.certificate is not None:
            named = "other.example" if case.certificate == "wrong host" else case.host
            tls = self.authority.server(
                named,
                expired=case.certificate == "expired",
                self_signed=case.certificate == "self-signed",
            )
        place = await stack.enter_async_context(receivers.receiver(case.does, tls=tls))
        return place.url(path, case.host, "https" if tls else "http"), lambda: place.requests


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    settings = {"webhook_timeout": TIMEOUT, "webhook_retry_schedule": [0.05]}
    async with open_scene(migrated_url, **settings) as opened:
        yield opened


async def test_all_that_receivers_do_at_once(scene: Scene, receiver: Receiver, tmp_path: Path) -> None:
    answered = threading.Event()

    def lookup(host: str) -> Sequence[str]:
        if host == "missing.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host == "slow.example":
            answered.wait()
        return ["10.0.0.1" if host == "inside.example" else "127.0.0.1"]

    authority = Authority(tmp_path)
    stage = Stage(scene, receiver, authority)
    async with AsyncExitStack() as stack:
        transport = Transport(LOOPBACK, ssl_context=authority.trust(), lookup=lookup)
        await stack.enter_async_context(transport)
        stack.callback(answered.set)
        await stage.set_up(stack)
        async with scene.worker(transport=transport) as worker:
            for _ in range(ROUNDS):
                await stage.happen()
            await scene.settled()
            assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)

    events = stage.events[stage.accounts[0]]
    came = {name: await ended(scene, place.endpoint_id, events) for name, place in stage.places.items()}
    assert came == {name: [(case.status, case.tries)] * ROUNDS for name, case in CASES.items()}
    for name, place in stage.places.items():
        await check_place(scene, name, place, events)
    for path, endpoint_id in stage.healthy.items():
        own = stage.events[stage.account_of(path)]
        await check_healthy(scene, endpoint_id, own, receiver.to(path))
    assert receiver.to("/trap") == []


async def check_place(scene: Scene, name: str, place: Place, events: list[EventRecord]) -> None:
    """Every request is a try that was recorded; the answer is kept as text, within its bounds."""
    case = place.case
    reached = case.does is not None or case.answers is not None
    asked = (len(case.tries) if reached else 0) if case.asked is None else case.asked
    assert (name, arrivals(place.asked(), events, scene.secrets[place.endpoint_id])) == (
        name,
        [asked] * len(events),
    )
    for delivery in await scene.deliveries(destination_id=place.endpoint_id):
        attempts = await scene.attempts(delivery.id)
        assert max(len((one.response_body or "").encode()) for one in attempts) <= 16384
        if case.says is not None:
            assert (name, attempts[0].response_body) == (name, case.says)
        if len(attempts) > 1:
            waited = attempts[1].at - attempts[0].at
            assert (name, waited >= timedelta(seconds=case.waits)) == (name, True)
