"""Starts what is measured: Voltwire and the baselines, each as a process of its own on the server's core."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from scripts.benchmarks.harness.machine import BenchError, Cores
from scripts.benchmarks.harness.posting import Target
from tests.services.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 60
STOP_SECONDS = 20

# 20,000 readings in one GraphQL request are 1.3 MB, and a load test is over any sensible rate.
PRODUCT_SETTINGS = {
    "VOLTWIRE_RATE_LIMIT": "1000000",
    "VOLTWIRE_MAX_BODY": str(16 * 1024 * 1024),
    "VOLTWIRE_MAX_SOCKETS": "20000",
    "VOLTWIRE_MAX_CONNECTIONS_PER_ADDRESS": "20000",
    "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "VOLTWIRE_FEED_ALLOW_NETWORKS": "127.0.0.0/8",
}


@dataclass
class Server:
    """A running process; `port` is 0 when it does not listen."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]
    port: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        self.log.seek(0)
        return self.log.read()[-6000:].decode(errors="replace").strip()

    async def said(self, words: bytes) -> None:
        """Wait until it has logged this. Raises BenchError with the last words."""
        for _ in range(START_SECONDS * 20):
            self.log.seek(0)
            if words in self.log.read():
                return
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.05)
        raise BenchError(f"a process did not start: {self.last_words()}")

    async def ready(self, path: str) -> None:
        """Wait for an answer to `path` with a status below 500. Raises BenchError with the last words."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            for _ in range(START_SECONDS * 20):
                if self.process.poll() is not None:
                    break
                try:
                    if (await client.get(path)).status_code < 500:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)
        raise BenchError(f"a server did not start: {self.last_words()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@contextmanager
def process(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, cores: Cores, port: int = 0, *, free: bool = False
) -> Iterator[Server]:
    """Run a program on the server's core, or `free` on any, until the block ends."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
    running = subprocess.Popen(argv, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    (cores.unpin if free else cores.pin_server)(running.pid)
    server = Server(running, log, port)
    try:
        yield server
    finally:
        server.stop()


def clean_environment() -> dict[str, str]:
    """This environment without Voltwire's own settings, which would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VOLTWIRE_")}


@asynccontextmanager
async def uvicorn(
    app: str,
    cores: Cores,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    cwd: Path = ROOT,
    python: Path | str = sys.executable,
) -> AsyncIterator[Server]:
    """An ASGI application, found from the folder `cwd`, under uvicorn as its manual starts it."""
    port = free_port()
    argv = [str(python), "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *arguments]
    with process(argv, clean_environment() | dict(env or {}), cwd, cores, port) as server:
        await server.ready("/")
        yield server


@dataclass(frozen=True)
class Checkout:
    """The code of one revision: its folder, its `voltwire`, the Python that runs it and what that must be told."""

    root: Path
    program: Path
    python: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_today(cls, program: Path) -> "Checkout":
        return cls(ROOT, program, Path(sys.executable))


@dataclass(frozen=True)
class Installation:
    """How a Voltwire's commands are run, so that another process of it can join."""

    checkout: Checkout
    cores: Cores
    env: Mapping[str, str]
    home: Path

    @property
    def database_url(self) -> str:
        """As the setting has it."""
        return (
            self.env.get("VOLTWIRE_DATABASE_URL") or f"sqlite:///{self.env['VOLTWIRE_DATA_DIR']}/voltwire.db"
        )

    def start(self, *arguments: str, port: int = 0, free: bool = False) -> AbstractContextManager[Server]:
        """A process on the server's core, or `free` on any, until the block ends."""
        argv = [str(self.checkout.program), *arguments]
        return process(argv, self.env, self.home, self.cores, port, free=free)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Server]:
        """A process of both halves on a port of its own, over the same database."""
        port = free_port()
        with self.start("serve", "--port", str(port), port=port) as server:
            await server.ready("/readyz")
            yield server

    def account(self, name: str) -> tuple[str, str]:
        """Id and API key of a new account."""
        made = json.loads(self.command("accounts", "create", name, "--email", "bench@example.com"))
        return made["accountId"], made["apiKey"]

    def command(self, *arguments: str) -> str:
        return command(self.checkout.program, arguments, self.env, self.home)


@dataclass
class Product:
    """A running Voltwire with one account."""

    port: int
    api_key: str
    account_id: str
    servers: list[Server] = field(default_factory=list)

    @property
    def target(self) -> Target:
        init = {"type": "connection_init", "payload": {"apiKey": self.api_key}}
        return Target(self.port, "/graphql", (("x-api-key", self.api_key),), json.dumps(init).encode())

    @property
    def pids(self) -> list[int]:
        return [server.pid for server in self.servers]


@dataclass(kw_only=True)
class Voltwire(Product):
    """A Product that this run has set up itself."""

    installation: Installation


@asynccontextmanager
async def voltwire(
    checkout: Checkout,
    cores: Cores,
    database_url: str | None = None,
    split: bool = False,
    work: bool = True,
) -> AsyncIterator[Voltwire]:
    """Voltwire on SQLite or on `database_url`, migrated and with an account.

    `split` runs `voltwire api` on the client's core and `voltwire worker` on the server's, so that the worker is
    what is measured, or no worker at all unless it is to `work`; else `voltwire serve` is both in one process.
    """
    if not checkout.program.exists():
        raise BenchError(
            "there is no voltwire program beside this Python: run ./scripts/bench, which sets it up"
        )
    with tempfile.TemporaryDirectory(prefix="voltwire-bench-") as folder:
        home, port = Path(folder), free_port()
        env = {**clean_environment(), **checkout.env, **PRODUCT_SETTINGS}
        env |= {"VOLTWIRE_DATA_DIR": str(home / "data"), "VOLTWIRE_SECRET_KEY": secrets.token_urlsafe(48)}
        if database_url:
            # The doorbell between the two processes is PostgreSQL as well: nothing else runs here.
            env |= {"VOLTWIRE_DATABASE_URL": database_url, "VOLTWIRE_BROADCAST_URL": database_url}
        installation = Installation(checkout, cores, env, home)
        installation.command("migrate")
        account_id, api_key = installation.account("Bench")
        roles = [["api", "--port", str(port)]] if split else [["serve", "--port", str(port)]]
        if split and work:
            roles.append(["worker"])
        async with AsyncExitStack() as stack:
            servers = [stack.enter_context(installation.start(*role, port=port)) for role in roles]
            if split:
                cores.pin_client(servers[0].pid)
            await servers[0].ready("/readyz")
            yield Voltwire(port, api_key, account_id, servers, installation=installation)


def command(program: Path, arguments: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [str(program), *arguments], env=dict(env), cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"voltwire {arguments[0]} failed: {(done.stderr or done.stdout)[-1500:].strip()}")
    return done.stdout
