"""Runs an installer and says on standard error how far it is: `progress.py "37 packages" COMMAND…`.

A minute of silence looks like a hang. On a terminal one line is drawn anew each second, elsewhere there is one line
every five, and in CI only the first. What pip collects is counted; uv says nothing that could be. Errors are passed on.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO

LOOKED_AT = ("Collecting ", "Ignoring ", "Requirement already satisfied: ")


class Progress:
    """The line that is shown last, and what it says."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.begun = time.monotonic()
        self.looked_at = 0
        self.installing = False
        self.terminal = sys.stderr.isatty()
        self.writing = threading.Lock()

    def show(self) -> None:
        """Draw or write the line."""
        seconds = int(time.monotonic() - self.begun)
        if self.looked_at and not self.installing:
            doing = f"fetched {self.looked_at} of {self.what}"
        else:
            doing = f"installing {self.what}"
        self._write(f"voltwire: {doing}, {seconds} s" + ("" if self.terminal else "\n"))

    def clear(self) -> None:
        """Take the drawn line away."""
        self._write("")

    def count(self, words: IO[str]) -> None:
        """Read what the installer says of its work."""
        for line in words:
            self.looked_at += line.startswith(LOOKED_AT)
            self.installing |= line.startswith("Installing ")

    def pass_on(self, errors: IO[str]) -> None:
        """Show the installer's errors as they come."""
        for line in errors:
            self._write(line)

    def _write(self, text: str) -> None:
        with self.writing:
            sys.stderr.write(("\r\033[K" if self.terminal else "") + text)
            sys.stderr.flush()


def main(what: str, *command: str) -> int:
    """Run the command to its end; gives its exit code, or 130 after an interrupt."""
    progress = Progress(what)
    quiet = bool(os.environ.get("CI")) and not progress.terminal
    interrupted = threading.Event()
    # The installer is interrupted as well, and ends in its own way.
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    progress.show()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as installer:
        pipes = ((progress.count, installer.stdout), (progress.pass_on, installer.stderr))
        readers = [threading.Thread(target=read, args=[pipe]) for read, pipe in pipes]
        for reader in readers:
            reader.start()
        while installer.poll() is None:
            try:
                installer.wait(1 if progress.terminal else 5)
            except subprocess.TimeoutExpired:
                if not quiet:
                    progress.show()
        for reader in readers:
            reader.join()
    progress.clear()
    return 130 if interrupted.is_set() else installer.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
