"""Programs of Voltwire as forks of a process that has loaded it, used like those of `subprocess` and `asyncio`."""

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.services.fork_server import NUMBER

ROOT = Path(__file__).parents[2]
VOLTWIRE = "app.cli.cli:main"
"""The entry point of `voltwire`, as pyproject.toml has it."""


class Forked:
    """A program in a process and a session of its own, without input; like `subprocess.Popen`.

    An entry point is `module:function`.
    """

    def __init__(
        self,
        entry_point: str,
        *arguments: str,
        environment: Mapping[str, str],
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        folder: Path = ROOT,
    ) -> None:
        request = {
            "entry_point": entry_point,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
        }
        outputs = [one if isinstance(one, int) else one.fileno() for one in (stdout, stderr)]
        self.returncode: int | None = None
        self._reading = threading.Lock()
        self._connection = _fork_server.connect()
        with open(os.devnull, "rb") as nothing:
            text = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(self._connection, [text], [nothing.fileno(), *outputs])
            self._connection.sendall(text[sent:])
        self.pid = self._number()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended; -n after signal n. Raises `subprocess.TimeoutExpired`."""
        with self._reading:
            return self._ended(timeout)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        # A thread that waits has the lock, and reads the code.
        if self._reading.acquire(blocking=False):
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._ended(0)
            finally:
                self._reading.release()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None
            self._connection.close()
        return self.returncode

    def _number(self) -> int:
        try:
            (number,) = NUMBER.unpack(self._connection.recv(NUMBER.size, socket.MSG_WAITALL))
        except (struct.error, ConnectionError):
            raise RuntimeError("The fork server has ended.") from None
        return int(number)


class Piped:
    """A program whose output is read; like `asyncio.subprocess.Process`."""

    def __init__(self, program: Forked, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.send_signal = program.send_signal
        self.terminate = program.terminate
        self.kill = program.kill
        self._program = program

    @classmethod
    async def start(cls, entry_point: str, *arguments: str, environment: Mapping[str, str]) -> "Piped":
        output, output_end = os.pipe()
        errors, errors_end = os.pipe()
        try:
            program = await asyncio.to_thread(
                Forked, entry_point, *arguments, environment=environment, stdout=output_end, stderr=errors_end
            )
        finally:
            os.close(output_end)
            os.close(errors_end)
        return cls(program, await _reader(output), await _reader(errors))

    @property
    def returncode(self) -> int | None:
        return self._program.poll()

    async def wait(self) -> int:
        return await asyncio.to_thread(self._program.wait)

    async def communicate(self) -> tuple[bytes, bytes]:
        """All output and errors that have not been read, once it has ended."""
        output, errors, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return output, errors


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb")
    )
    return reader


class _ForkServer:
    """The fork server of this process, started with the first program."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._path: str | None = None

    def connect(self) -> socket.socket:
        with self._starting:
            if self._path is None:
                self._path = self._start()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        return connection

    def _start(self) -> str:
        """The path where it listens. Whoever connects there waits until it has loaded all."""
        folder = tempfile.TemporaryDirectory(prefix="voltwire-fork-server-")
        path = f"{folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            number = listening.fileno()
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.services.fork_server", str(number)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                pass_fds=[number],
                # A Ctrl-C at the terminal is for the tests, which then end what they have started.
                start_new_session=True,
            )

        def end() -> None:
            process.communicate()
            folder.cleanup()

        atexit.register(end)
        return path


_fork_server = _ForkServer()
