"""Processes that die where they are told to.

This program has loaded all of Voltwire and then makes a server of it, by fork, for every line on its standard input:
`{"point": name or null, "arrival": n}`. The server kills itself with SIGKILL as it reaches the named point for the n-th
time. Two lines tell of it on standard output: `{"pid": …}`, and `{"status": …}`, the wait status, once it has ended.
"""

import gc
import json
import os
import random
import select
import signal
import sys
from typing import Any, NoReturn

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


def main(port: int) -> None:
    """Make one server after the other, until the input ends; then the last one ends with it."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # What all servers share is neither copied nor looked at again.
    gc.collect()
    gc.freeze()
    pid = 0
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready:
            request = os.read(0, 65536)
            if not request:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                return
            pid = os.fork()
            if pid == 0:
                os.close(woken)
                os.close(wakes)
                _serve(port, json.loads(request))
            _tell(pid=pid)
        if woken in ready:
            os.read(woken, 100)
            if pid and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                pid = 0
                _tell(status=ended[1])


def _serve(port: int, request: dict[str, Any]) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    random.seed()
    if request["point"] is not None:
        failpoints.watchers.append(Killer(request["point"], request["arrival"]))
    code = 1
    try:
        configure_logs()
        run_server(Settings(), "127.0.0.1", port, with_worker=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


def _tell(**what: int) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
