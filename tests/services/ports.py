"""Ports for what tests start: chosen before it listens, and still free when it does."""

import os
import random
import socket
from typing import Final

# Below every system's range for sockets that ask for any port (Linux: from 32768, macOS: from 49152). A port of that
# range may be given away between our choice and the bind, or while a server that is to come back is down.
LOWEST: Final = 10_000
PER_PROCESS: Final = 2_000
PROCESSES: Final = 11


def free_port() -> int:
    """A TCP port on 127.0.0.1 where nobody listens, and that no other test is given."""
    return _ports.next()


class _Ports:
    """Gives ports in turn; each process of a run has a range of its own, and runs side by side begin anywhere in it."""

    def __init__(self) -> None:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        self._lowest = LOWEST + worker % PROCESSES * PER_PROCESS
        self._given = random.randrange(PER_PROCESS)

    def next(self) -> int:
        for _ in range(PER_PROCESS):
            self._given += 1
            port = self._lowest + self._given % PER_PROCESS
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise RuntimeError(f"All ports from {self._lowest} to {self._lowest + PER_PROCESS - 1} are taken.")


_ports = _Ports()
