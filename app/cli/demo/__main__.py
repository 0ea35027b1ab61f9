"""`python -m app.cli.demo [--once] [--port N]`."""

import argparse
import asyncio
import io
import signal
import sys

from rich.console import Console

from app.cli.client import ClientError
from app.cli.demo.server import DemoError
from app.cli.demo.tour import Tour

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./scripts/demo",
        description="Plays the events of a day through WebSocket, webhook and email on this machine.",
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the play; 0 only if every event arrived by all ways"
    )
    parser.add_argument("--port", type=_port, help="of the server; 8000, or a free one, unless given")
    chosen = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a tick still shows the rest.
        sys.stdout.reconfigure(errors="replace")
    try:
        sys.exit(asyncio.run(_run(chosen.port, chosen.once)))
    except (DemoError, ClientError) as error:
        sys.exit(str(error))


async def _run(port: int | None, once: bool) -> int:
    """Run the tour until it ends or a signal comes; everything it started ends with it."""
    tour = Tour(Console(), port)
    task = asyncio.create_task(tour.run(once=once))
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            received.append(number)
            task.cancel()

    loop = asyncio.get_running_loop()
    for one in SIGNALS:
        loop.add_signal_handler(one, stop, one)
    try:
        return await task
    except asyncio.CancelledError:
        return 0 if tour.is_over and not once else 128 + received[0]


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    main()
