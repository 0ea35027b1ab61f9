"""`voltwire` that ends like a power cut as soon as it reaches a named point: `doomed.py POINT api --port …`."""

import os
import signal
import sys

from app import points
from app.cli import main


def _die_at(doom: str) -> None:
    def watch(name: str) -> None:
        if name == doom:
            os.kill(os.getpid(), signal.SIGKILL)

    points.watchers.append(watch)


if __name__ == "__main__":
    _die_at(sys.argv.pop(1))
    main()
