"""The demo's own server: `voltwire serve` as a process, over a folder that is removed with it."""

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx

from app.accounts import actions as accounts
from app.cli.client import Address
from app.db.database import Database

HOST: Final = "127.0.0.1"
USUAL_PORT: Final = 8000
READY_WITHIN: Final = 60.0
END_WITHIN: Final = 25.0
VOLTWIRE: Final = Path(sys.executable).with_name("voltwire")
# Reads a pipe that the kernel closes when the demo is gone, even by a kill; then it ends the server and tidies up.
WATCH: Final = 'read -r _; kill "$0"; while kill -0 "$0"; do sleep 0.2; done; rm -rf -- "$1"'


class DemoError(Exception):
    """The reason why the demo cannot go on, as a sentence for the person at the terminal."""


def choose_port(wanted: int | None) -> int:
    """The wanted port; without one the usual port, or 0, which takes a free one, where that is taken.

    Raises DemoError for a wanted port that is taken.
    """
    port = USUAL_PORT if wanted is None else wanted
    if _is_free(port):
        return port
    if wanted is None:
        return 0
    raise DemoError(f"Port {wanted} is taken: choose another --port, or leave it out for a free one.")


def settings(folder: Path, smtp_url: str) -> dict[str, str]:
    """The environment of the server, without the settings that this shell has for another one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VOLTWIRE_")}
    return inherited | {
        "VOLTWIRE_DATA_DIR": str(folder / "data"),
        "VOLTWIRE_SMTP_URL": smtp_url,
        "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "VOLTWIRE_FEED_ALLOW_NETWORKS": "127.0.0.0/8",
    }


async def create_account(folder: Path, name: str, email: str) -> str:
    """Create an account in the server's database; returns its key."""
    database = Database(f"sqlite:///{folder / 'data' / 'voltwire.db'}")
    try:
        async with database.transaction() as session:
            return (await accounts.create_account(session, name=name, email=email)).secret
    finally:
        await database.dispose()


@asynccontextmanager
async def running(
    environment: dict[str, str], folder: Path, port: int
) -> AsyncIterator[tuple[Process, Address]]:
    """The server's process and address, once it answers; it ends with the block. Raises DemoError."""
    log = folder / "server.log"
    serve = (VOLTWIRE, "serve", "--host", HOST, "--port", str(port))
    with log.open("wb") as file:
        # A session of its own: Ctrl-C at the terminal is for the demo, which then ends the server in order.
        process = await asyncio.create_subprocess_exec(
            *serve, env=environment, stdin=DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    watch = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", WATCH, str(process.pid), str(folder)),
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, await _wait_until_ready(process, log)
    finally:
        with suppress(ProcessLookupError):
            watch.kill()
        await watch.wait()
        await _end(process)


def last_words(log: Path) -> str:
    """The end of the server's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


async def _wait_until_ready(process: Process, log: Path) -> Address:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            async with asyncio.timeout(READY_WITHIN):
                while process.returncode is None:
                    with suppress(httpx.HTTPError):
                        base = _told_base(log)
                        if base and (await http.get(f"{base}/readyz")).is_success:
                            return Address(base)
                    # A server cannot tell its starter that it is ready.
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
    raise DemoError(f"The server did not start; its log ends:\n{last_words(log)}")


def _told_base(log: Path) -> str | None:
    """The address in the server's log: only the server knows the free port that it took."""
    for line in log.read_bytes().splitlines():
        # The server may be in the middle of a line, and not every line is a record.
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and record.get("event") == "serving":
                base: str = record["url"]
                return base
    return None


async def _end(process: Process) -> None:
    """End a process in order, or by force when that takes too long."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_WITHIN):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
