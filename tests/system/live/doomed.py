"""`voltwire` that ends like a power cut as soon as it reaches a named point: `doomed.py POINT api --port …`."""

import os
import signal
import sys

from app.cli.cli import main
from app.core import failpoints


def _die_at(doom: str) -> None:
    def watch(name: str) -> None:
        if name == doom:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.watchers.append(watch)


if __name__ == "__main__":
    _die_at(sys.argv.pop(1))
    main()
