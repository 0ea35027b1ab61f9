"""Server processes for tests: started on a free port, ended with whoever started them, whatever ends that."""

import atexit
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

from tests.services.forked import Forked
from tests.services.patience import PATIENCE
from tests.services.ports import free_port

# Ends the service and removes its folders once the pipe on its standard input closes, which the kernel does
# even when the test run is killed.
WATCH = 'read -r _; kill -s QUIT "$0" 2>/dev/null; sleep 1; kill -s KILL "$0" 2>/dev/null; rm -rf -- "$@"'


PREFIX = "voltwire-test-service-"
"""No other folder begins like this: what is swept away must be of these services alone."""
SETTLED = 60
"""Seconds after which a folder is locked by its owner, if that lives."""


class ServiceError(RuntimeError):
    """A service did not start; the message ends with the last lines of its log."""


def unprivileged() -> tuple[int, int] | None:
    """User and group to run a server as that refuses root, or None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def sweep(*places: Path, settled: float = SETTLED) -> None:
    """Remove folders of services whose test run is gone, watcher and all, with the servers that still use them."""
    for folder in (folder for place in places for folder in place.glob(f"{PREFIX}*")):
        # A folder of a run that lives is locked, and one of another user cannot be opened.
        with contextlib.suppress(OSError), _locked(folder):
            if time.time() - folder.stat().st_ctime > settled:
                for process in psutil.process_iter(["cmdline"]):
                    if any(word.startswith(str(folder)) for word in process.info["cmdline"] or ()):
                        process.kill()
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = _lock(folder)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    """A descriptor that locks a folder until it is closed. Raises `OSError` where the folder is locked already."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


class Service:
    """A server process in a temporary folder of its own, to be stopped, killed and started again."""

    name = "service"
    stop_signal = signal.SIGTERM

    def __init__(self, *, user: tuple[int, int] | None = None) -> None:
        self.user = user
        self.port = free_port()
        self.folders: list[Path] = []
        self._locks: list[int] = []
        self.folder = self.make_folder()
        self.log = self.folder / "server.log"
        self.environment: dict[str, str] | None = None
        """The server's environment variables; None: ours."""
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def make_folder(self, inside: str | None = None) -> Path:
        """A new temporary folder of the service's user, removed with the service."""
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{self.name}-", dir=inside))
        self.folders.append(folder)
        self._locks.append(_lock(folder))
        if self.user:
            os.chown(folder, *self.user)
        return folder

    def command(self) -> Sequence[str | Path]:
        """The server's command line, for `self.port` and `self.folder`."""
        raise NotImplementedError

    def launch(self, log: IO[bytes]) -> "subprocess.Popen[bytes] | Forked":
        """Start the server's process, which writes into this log."""
        # A session of its own: a Ctrl-C at the terminal is for the tests, which then stop it in order.
        return subprocess.Popen(
            self.command(),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **self._as_user(),
        )

    def is_ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self.process is None:
            raise ServiceError(f"{self.name} is not running; start() it.")
        return self.process.pid

    def run(self, *command: str | Path) -> None:
        """Runs one command as the service's user in its folder. Raises `ServiceError` when it fails."""
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **self._as_user())
        if done.returncode:
            raise ServiceError(
                f"{command[0]} ended with {done.returncode}:\n{done.stdout.decode(errors='replace')}"
            )

    def start(self, *, timeout: float = PATIENCE) -> None:
        """Starts the server, the same port and data as before, and returns when it answers."""
        if self.process is not None:
            return
        with self.log.open("ab") as log:
            self.process = self.launch(log)
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, str(self.process.pid), *self.folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait(self.is_ready, timeout)

    def stop(self, *, timeout: float = PATIENCE) -> None:
        """Ends the server in order (clients are cut off); what it stored stays."""
        if self.process is None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._ended()

    def kill(self) -> None:
        """Ends the server and all its children at once, like a power cut."""
        if self.process is None:
            return
        try:
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family[1:], timeout=10)
        self.process.wait()
        self._ended()

    def close(self) -> None:
        """Stops the server and removes its folders; can be called again."""
        atexit.unregister(self.close)
        self.stop()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        while self._locks:
            os.close(self._locks.pop())

    def _as_user(self) -> dict[str, object]:
        where: dict[str, object] = {"cwd": self.folder, "env": self.environment}
        if self.user:
            where |= {"user": self.user[0], "group": self.user[1], "extra_groups": []}
        return where

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                lines = self.log.read_text(errors="replace").splitlines()[-20:]
                raise ServiceError("\n".join([f"{self.name} did not start; its log ends:", *lines]))
            # Neither server tells a parent when it is ready, so we look, often.
            time.sleep(0.01)

    def _ended(self) -> None:
        self.process = None
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
