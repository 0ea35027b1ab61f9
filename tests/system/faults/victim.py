"""A server that kills itself with SIGKILL as it reaches a named point for the n-th time: `PORT [POINT N]`."""

import os
import signal
import sys

from app.core import failpoints
from app.core.settings import Settings
from app.core.telemetry import configure_logs
from app.server.server import run_server


class Killer:
    """Watches the points, and ends the process at once at the n-th arrival at its own."""

    def __init__(self, point: str, arrival: int) -> None:
        self._point = point
        self._left = arrival

    def __call__(self, name: str) -> None:
        if name == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    port, *doom = sys.argv[1:]
    if doom:
        point, arrival = doom
        failpoints.watchers.append(Killer(point, int(arrival)))
    configure_logs()
    run_server(Settings(), "127.0.0.1", int(port), with_worker=True)
