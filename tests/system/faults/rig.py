"""A database, a webhook receiver, a mailbox, and servers over them that are killed one after the other."""

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets
from aiosmtpd.smtp import SMTP
from sqlalchemy import select, update
from sqlmodel import col

from app.accounts import actions as accounts
from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.crypto import Keyring
from app.db.database import Database
from app.db.migrations import migrate
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.models import Delivery, DeliveryStatus, Replay
from app.events import cursors, log
from app.events.models import Dispatch, Stream
from app.imports.models import FileImport
from app.outbound.mail.models import TransactionalMail
from tests.services.forked import Forked
from tests.services.patience import PATIENCE
from tests.services.ports import free_port
from tests.services.receiver import Receiver, Request
from tests.services.smtp import SmtpSink
from tests.system.clients import EVENTS, Api, eventually
from tests.system.deployment import clean_environment

ROOT = Path(__file__).parents[3]
SECRET_KEY = "a secret key that only the fault tests use"
_BAD = re.compile(r'"level": "(error|critical)"|^[^{]*(Traceback|Error|Exception)')
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


class CountingSink(SmtpSink):
    """Knows how many connections are open, and so when all that a dead client has sent is through."""

    def __init__(self) -> None:
        self.open = 0
        super().__init__()

    async def _listen(self, listening: Any) -> Any:
        sink = self

        class Session(SMTP):
            def connection_made(self, transport: Any) -> None:
                sink.open += 1
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                sink.open -= 1
                super().connection_lost(error)

        def session() -> SMTP:
            return Session(self, hostname="sink.test", enable_SMTPUTF8=True, loop=self._thread.loop)

        return await self._thread.loop.create_server(session, sock=listening)


class CountingReceiver(Receiver):
    @property
    def open(self) -> int:
        return len(self._writers)


@dataclass
class Victim:
    """A server that is to die. `ended` is its exit code once it has."""

    process: Forked
    port: int
    ended: asyncio.Future[int]

    async def ready(self) -> bool:
        """Whether it listens; False if it died first."""
        async with asyncio.timeout(PATIENCE):
            while not self.ended.done():
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.002)
                else:
                    writer.close()
                    return True
        return False

    def kill(self) -> None:
        self.process.kill()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            return await self.ended


@dataclass
class Following:
    """A consumer that takes its account's events up over WebSocket where it last was, server after server."""

    url: str
    key: str
    cursor: str
    events: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    async def follow(self) -> None:
        """Until the server dies."""
        with contextlib.suppress(websockets.WebSocketException, OSError):
            async with websockets.connect(
                self.url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None
            ) as connection:
                await connection.send(
                    json.dumps({"type": "connection_init", "payload": {"apiKey": self.key}})
                )
                async for text in connection:
                    await self._take(connection, json.loads(text))

    async def _take(self, connection: Any, message: dict[str, Any]) -> None:
        if message["type"] == "connection_ack":
            self.connections += 1
            payload = {"query": EVENTS, "variables": {"after": self.cursor}}
            await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        elif message["type"] == "ping":
            await connection.send(json.dumps({"type": "pong"}))
        else:
            assert message["type"] == "next", message
            event = message["payload"]["data"]["events"]
            self.events.append(event)
            self.cursor = event["cursor"]


@dataclass
class Tenant:
    """An account with a webhook endpoint and an email subscription that take everything after `start`."""

    id: str
    key: str
    endpoint_id: str
    endpoint_secret: str
    subscription_id: str
    email: str
    start: int
    cursor: str
    following: Following
    api: Api


@dataclass
class Incarnation:
    """The traces of a server that is gone: its requests, and the deliveries that it recorded as done."""

    requests: list[Request]
    mails: list[str]
    recorded: set[str]
    killed: bool


class Rig:
    """Use `open_rig`."""

    def __init__(self, url: str, folder: Path, receiver: CountingReceiver, sink: CountingSink | None) -> None:
        self.database = Database(url)
        self.keyring = Keyring([SECRET_KEY])
        self.folder = folder
        self.receiver = receiver
        self.sink = sink
        self.port = free_port()
        self.incarnations: list[Incarnation] = []
        self.tenants: list[Tenant] = []
        self.log = folder / "victims.log"
        self.url = url
        self._environment: dict[str, str] = {}

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        await migrate(self.database)
        self._environment = clean_environment() | {
            "VOLTWIRE_DATABASE_URL": self.url,
            "VOLTWIRE_BROADCAST_URL": self.url if self.url.startswith("postgresql") else "memory://",
            "VOLTWIRE_SECRET_KEY": SECRET_KEY,
            "VOLTWIRE_DATA_DIR": str(self.folder / "data"),
            "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            "VOLTWIRE_WEBHOOK_RETRY_SCHEDULE": "0.1,0.2,0.5,1,2",
            "VOLTWIRE_RATE_LIMIT": "100000",
        }
        if self.sink is not None:
            self._environment["VOLTWIRE_SMTP_URL"] = self.sink.url

    async def close(self) -> None:
        for tenant in self.tenants:
            await tenant.api.__aexit__()
        await self.database.dispose()

    async def start(self, point: str | None = None, arrival: int = 1) -> Victim:
        """A server that dies at this arrival at the point, or when it is killed."""
        doom = [] if point is None else [point, str(arrival)]
        with self.log.open("ab") as log_file:
            process = await asyncio.to_thread(
                Forked,
                "tests.system.faults.victim:main",
                *(str(self.port), *doom),
                environment=self._environment,
                stdout=log_file,
                stderr=log_file,
            )
        return Victim(process, self.port, asyncio.create_task(asyncio.to_thread(process.wait)))

    async def kill_after(self, victim: Victim, seconds: float) -> None:
        await asyncio.sleep(seconds)
        victim.kill()

    async def bury(self, victim: Victim) -> Incarnation:
        """Wait until the server has ended and all that it sent has arrived; gives its traces."""
        async with asyncio.timeout(PATIENCE):
            exit_code = await victim.ended
            while self.receiver.open or (self.sink is not None and self.sink.open):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        done = select(col(Delivery.id)).where(col(Delivery.status) == DeliveryStatus.SUCCEEDED.value)
        async with self.database.reading() as session:
            recorded = set((await session.execute(done)).scalars())
        requests = self.receiver.requests[sum(len(one.requests) for one in self.incarnations) :]
        mails = self._mails()[sum(len(one.mails) for one in self.incarnations) :]
        self.incarnations.append(Incarnation(requests, mails, recorded, exit_code < 0))
        return self.incarnations[-1]

    async def tenant(self) -> Tenant:
        """A new account, whose endpoint and address take everything from now on."""
        number = len(self.tenants)
        email = f"watcher{number}@example.com"
        async with self.database.transaction() as session:
            new = await accounts.create_account(
                session, name="Bright Energy", email=f"owner{number}@example.com"
            )
        account_id = new.account.id
        actor = Actor(account_id, frozenset([Scope.ADMIN]))
        async with self.database.transaction() as session:
            endpoint, secret = await endpoints.create(
                session, actor, self.keyring, LOOPBACK, url=self.receiver.url(f"/{account_id}")
            )
            position = await log.lock_position(session, account_id)
            subscription = EmailSubscription(
                account_id=account_id,
                email=email,
                status=EmailSubscriptionStatus.ACTIVE.value,
                first_sequence=position,
            )
            session.add(subscription)
        async with self.database.reading() as session:
            cursor = cursors.latest(self.keyring, await log.stream(session, account_id))
        following = Following(f"ws://127.0.0.1:{self.port}/graphql", new.secret, cursor)
        made = Tenant(
            account_id,
            new.secret,
            endpoint.id,
            secret,
            subscription.id,
            email,
            position,
            cursor,
            following,
            Api(self.http_url, new.secret),
        )
        self.tenants.append(made)
        return made

    async def run_out_leases(self) -> None:
        """As if the time of every lease had passed; nobody is left who holds one."""
        past = clock.from_ms(0)
        async with self.database.transaction() as session:
            for model in (Delivery, TransactionalMail, FileImport):
                leased = col(model.leased_until)  # type: ignore[attr-defined]
                await session.execute(update(model).where(leased.is_not(None)).values(leased_until=past))
            held = col(WebhookEndpoint.held_until).is_not(None)
            await session.execute(update(WebhookEndpoint).where(held).values(held_until=past))

    async def settled(self) -> None:
        """Until everything is dispatched, and nothing waits to be sent or replayed. Raises `TimeoutError`."""
        await eventually(self._nothing_waits)

    def problems(self) -> list[str]:
        """Errors that any server has logged, and output of those that could not even log."""
        lines = self.log.read_text(errors="replace").splitlines()
        # A line may lack its end, and so run into the next server's: its writer was killed meanwhile.
        return [line for line in lines if _BAD.search(line)]

    async def _nothing_waits(self) -> bool:
        waiting = [
            select(col(Dispatch.account_id)).join(
                Stream,
                (col(Stream.account_id) == col(Dispatch.account_id))
                & (col(Stream.last_sequence) > col(Dispatch.sequence)),
            ),
            select(col(Delivery.id)).where(col(Delivery.due_at).is_not(None)),
            select(col(TransactionalMail.id)).where(col(TransactionalMail.due_at).is_not(None)),
            select(col(Replay.id)).where(col(Replay.position) < col(Replay.through)),
        ]
        async with self.database.reading() as session:
            found = [(await session.execute(one.limit(1))).first() for one in waiting]
        return not any(found)

    def _mails(self) -> list[str]:
        """Ids of what has been mailed, in order; a folder knows no order and keeps each once."""
        if self.sink is not None:
            return [mail.message["Message-ID"].strip("<>").partition("@")[0] for mail in self.sink.mails]
        known = [one for incarnation in self.incarnations for one in incarnation.mails]
        names = {path.name.partition("@")[0] for path in (self.folder / "data" / "mail").glob("*.eml")}
        return [*known, *sorted(names - set(known))]


@contextlib.asynccontextmanager
async def open_rig(url: str, folder: Path) -> AsyncIterator[Rig]:
    """A rig over an empty database. Mails go to a mail server with PostgreSQL, into a folder with SQLite."""
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(CountingReceiver())
        sink = stack.enter_context(CountingSink()) if url.startswith("postgresql") else None
        rig = Rig(url, folder, receiver, sink)
        try:
            await rig.open()
            yield rig
        finally:
            await rig.close()
