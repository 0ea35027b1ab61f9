"""The product as an operator runs it: processes of `voltwire`, started, ended in order and killed."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote

from app.accounts import actions as accounts
from app.db.database import Database
from tests.services.forked import VOLTWIRE, Forked, Piped
from tests.services.process import Service, ServiceError

PROGRAM = Path(sys.executable).with_name("voltwire")
SECRET_KEY = "a secret key that only the system tests use"
STOP_SECONDS = 120
"""Seconds within which a process must end after SIGTERM."""

CUT_OFF = re.compile(r"Cancel \d+ running task\(s\), timeout graceful shutdown exceeded")
"""uvicorn's word about requests whose client takes too long when the server has to go."""

Role = Literal["serve", "api", "worker"]


@dataclass(frozen=True)
class Account:
    """An account and the key of its first user."""

    id: str
    user_id: str
    key: str


class Process(Service):
    """A process of the product; `start()`, `stop()` and `kill()` keep port and data."""

    name = "voltwire"
    entry_point = VOLTWIRE

    def __init__(self, role: Role, environment: dict[str, str]) -> None:
        super().__init__()
        self.role = role
        self.environment = environment
        self.exit_code: int | None = None
        """Of the last run that was ended by `terminate()`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    def arguments(self) -> list[str]:
        """The arguments of `voltwire`."""
        return [self.role] if self.role == "worker" else [self.role, "--port", str(self.port)]

    def command(self) -> Sequence[str | Path]:
        return [PROGRAM, *self.arguments()]

    def launch(self, log: IO[bytes]) -> Forked:
        assert self.environment is not None
        return Forked(
            self.entry_point,
            *self.arguments(),
            environment=self.environment,
            stdout=log,
            stderr=log,
            folder=self.folder,
        )

    def is_ready(self) -> bool:
        if self.role == "worker":
            # It listens on nothing; its log says when it has begun.
            return any(record.get("event") == "worker_started" for record in self.records())
        return self.readiness() == 200

    def readiness(self) -> int | None:
        """The status that /readyz answers; None while nothing listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def records(self) -> list[dict[str, Any]]:
        """The log, each line a JSON object; a line that is none counts as an error."""
        if not self.log.exists():
            return []
        # A process may be in the middle of its last line.
        lines = self.log.read_text(errors="replace").split("\n")[:-1]
        return [_record(line) for line in lines if line.strip()]

    async def terminate(self) -> int:
        """SIGTERM; the exit code. Raises `ServiceError` when the process is still there after two minutes."""
        running = self.process
        if running is None:
            raise ServiceError(f"{self.role} is not running.")
        running.send_signal(signal.SIGTERM)
        try:
            self.exit_code = await asyncio.to_thread(running.wait, STOP_SECONDS)
        except Exception:
            raise ServiceError(f"{self.role} did not end within {STOP_SECONDS} s of SIGTERM.") from None
        self.stop()
        return self.exit_code


class Executed(Process):
    """Started as by an operator, from the installed program; this takes seconds."""

    launch = Service.launch


@dataclass
class Deployment:
    """Processes over one database and broadcaster."""

    environment: dict[str, str] = field(repr=False)
    processes: list[Process] = field(default_factory=list)
    secrets: list[str] = field(default_factory=lambda: [SECRET_KEY])
    """Secrets that no log may hold; tests add their own."""

    @property
    def apis(self) -> list[Process]:
        """The processes that listen."""
        return [one for one in self.processes if one.role != "worker"]

    @property
    def database_url(self) -> str:
        return self.environment["VOLTWIRE_DATABASE_URL"]

    async def command(self, *arguments: str) -> str:
        """Run `voltwire …` and give its output. Raises `ServiceError` when it fails."""
        process = await Piped.start(VOLTWIRE, *arguments, environment=self.environment)
        output, errors = await process.communicate()
        if process.returncode:
            raise ServiceError(f"voltwire {arguments[0]} ended with {process.returncode}: {errors.decode()}")
        return output.decode()

    async def account(self, name: str = "Bright Energy", email: str = "owner@example.com") -> Account:
        """A new account, written straight into the database, for a command takes a second."""
        database = Database(self.database_url)
        try:
            async with database.transaction() as session:
                made = await accounts.create_account(session, name=name, email=email)
        finally:
            await database.dispose()
        self.secrets.append(made.secret)
        return Account(made.account.id, made.user.id, made.secret)

    async def end(self) -> None:
        """End all processes in order. Raises `ServiceError` for an exit code, an error or a secret in a log."""
        running = [process for process in self.processes if process.process is not None]
        codes = await asyncio.gather(*(process.terminate() for process in running))
        if any(codes):
            raise ServiceError(f"SIGTERM ended processes with {codes}.")
        if problems := self.problems():
            raise ServiceError("\n".join(["Errors were logged:", *map(json.dumps, problems)]))
        if leaks := self.leaks():
            raise ServiceError("\n".join(["Secrets were logged:", *leaks]))

    def problems(self) -> list[dict[str, Any]]:
        """Errors that any process has logged, and output that is no log line."""
        return [
            record
            for process in self.processes
            for record in process.records()
            if record.get("level") in ("error", "critical") and not CUT_OFF.fullmatch(str(record["event"]))
        ]

    def leaks(self) -> list[str]:
        """Log lines that hold a secret."""
        return [
            line
            for process in self.processes
            for line in process.log.read_text(errors="replace").splitlines()
            if any(form in line for secret in self.secrets for form in (secret, quote(secret)))
        ]


@contextlib.asynccontextmanager
async def deployed(
    roles: Iterable[Role],
    folder: Path,
    database_url: str | None = None,
    broadcast_url: str = "memory://",
    *,
    kind: type[Process] = Process,
    **settings: str,
) -> AsyncIterator[Deployment]:
    """Start processes of these roles at once, and end them with the block.

    Whatever happened, each must then end with 0 within two minutes of SIGTERM, having logged no error and no secret.
    Other settings are named as in `VOLTWIRE_…`, in lower case.
    """
    data = folder / "data"
    environment = clean_environment() | {
        "VOLTWIRE_DATA_DIR": str(data),
        "VOLTWIRE_DATABASE_URL": database_url or f"sqlite:///{data / 'voltwire.db'}",
        "VOLTWIRE_BROADCAST_URL": broadcast_url,
        "VOLTWIRE_SECRET_KEY": SECRET_KEY,
        "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "VOLTWIRE_FEED_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    environment |= {f"VOLTWIRE_{name.upper()}": value for name, value in settings.items()}
    deployment = Deployment(environment)
    try:
        deployment.processes = [kind(role, environment) for role in roles]
        # Links lead to the first one, whoever sends them.
        if deployment.apis:
            environment.setdefault("VOLTWIRE_PUBLIC_URL", deployment.apis[0].url)
        async with asyncio.TaskGroup() as starting:
            for process in deployment.processes:
                starting.create_task(asyncio.to_thread(process.start))
        yield deployment
        await deployment.end()
    finally:
        for process in deployment.processes:
            process.kill()
            process.close()


def clean_environment() -> dict[str, str]:
    """This environment without settings of the product's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VOLTWIRE_")}


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"level": "error", "event": line}
