"""A worker that stops itself with SIGSTOP as it reaches a named point for the n-th time: `POINT N`."""

import os
import signal
import sys

from app.core import failpoints
from app.core.settings import Settings
from app.core.telemetry import configure_logs
from app.server.server import run_worker


class Stopper:
    """Watches the points, and stops the process at the n-th arrival at its own."""

    def __init__(self, point: str, arrival: int) -> None:
        self._point = point
        self._left = arrival

    def __call__(self, name: str) -> None:
        if name == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)


def main() -> None:
    failpoints.watchers.append(Stopper(sys.argv[1], int(sys.argv[2])))
    configure_logs()
    run_worker(Settings())
