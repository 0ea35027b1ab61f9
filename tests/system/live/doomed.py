"""`voltwire` that ends like a power cut as soon as it reaches a named point: `POINT api --port …`."""

import os
import signal
import sys

from app.cli import cli
from app.core import failpoints


def main() -> None:
    doom = sys.argv.pop(1)

    def watch(name: str) -> None:
        if name == doom:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.watchers.append(watch)
    cli.main()
