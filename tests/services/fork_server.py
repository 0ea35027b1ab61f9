"""A process that has loaded Voltwire and runs its programs in forks: loading takes longer than most programs run.

`python -m tests.services.fork_server FD` accepts from this socket until its standard input ends. A connection is one
program: it sends a line of JSON and the descriptors of the program's standard streams, and is told the program's pid
and, once that has ended, its exit code as `subprocess` gives it, as a `NUMBER` each.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

LOADED = (
    "app.cli.admin",
    "app.cli.cli",
    "app.cli.listen",
    "app.cli.trigger",
    "app.server.server",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
)
STREAMS = 3
NUMBER = struct.Struct("!i")


class ForkServer:
    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._programs: dict[int, socket.socket] = {}
        # A byte for each signal: some program has ended.
        self._ends, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes)

    def serve(self) -> dict[str, Any] | None:
        """Returns the request in each fork, and None at the end."""
        while True:
            ready, _, _ = select.select([0, self._listening, self._ends], [], [])
            if self._listening in ready:
                connection, _ = self._listening.accept()
                request, streams = _receive(connection)
                pid = os.fork()
                if pid == 0:
                    connection.close()
                    self._become_program(streams)
                    return request
                for stream in streams:
                    os.close(stream)
                self._programs[pid] = connection
                connection.sendall(NUMBER.pack(pid))
            if self._ends in ready:
                os.read(self._ends, 1024)
                self._tell_ends()
            if 0 in ready:
                self._kill_programs()
                return None

    def _tell_ends(self) -> None:
        for pid in list(self._programs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with self._programs.pop(pid) as connection, contextlib.suppress(OSError):
                    connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))

    def _kill_programs(self) -> None:
        for pid in self._programs:
            os.kill(pid, signal.SIGKILL)

    def _become_program(self, streams: list[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._ends)
        os.close(self._wakes)
        self._listening.close()
        for connection in self._programs.values():
            connection.close()
        os.setsid()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, streams, _, _ = socket.recv_fds(connection, 65536, STREAMS)
    while not text.endswith(b"\n"):
        text += connection.recv(65536)
    return json.loads(text), streams


def _run(entry_point: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    module, _, name = entry_point.partition(":")
    sys.argv = ["voltwire", *arguments]
    main: Callable[[], None] = getattr(importlib.import_module(module), name)
    sys.exit(main())


if __name__ == "__main__":
    for loaded in LOADED:
        importlib.import_module(loaded)
    importlib.import_module("app.schema").build_schema()
    # All programs share these, and none looks at them again.
    gc.collect()
    gc.freeze()
    asked = ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve()
    if asked is not None:
        _run(**asked)
