"""Workers in processes of their own, which are stopped, killed and started again."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.delivery.scene import PATIENCE, Scene
from tests.services.forked import Forked
from tests.support import SECRET
from tests.system.deployment import clean_environment

# How soon PostgreSQL ends what a sleeper has begun, in milliseconds. Without it that takes longer; and one that stopped
# as it was preparing a statement for the first time does not count as idle.
LIMITS = "transaction_timeout=2000"


@dataclass
class Sleeper:
    """A worker in a process of its own."""

    process: Forked
    log: Path

    async def stopped(self) -> None:
        """Until it has stopped itself."""
        observed = psutil.Process(self.process.pid)
        async with asyncio.timeout(PATIENCE):
            while observed.status() != psutil.STATUS_STOPPED:
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.005)

    def stand_still(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def terminate(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Its log lines under this name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def sleeper(scene: Scene, folder: Path, point: str, arrival: int) -> AsyncIterator[Sleeper]:
    """A worker that will stop itself at this arrival at the point."""
    worker = start_worker(scene, folder / f"{point}.log", point, arrival)
    try:
        yield worker
    finally:
        worker.kill()


def start_worker(scene: Scene, log: Path, point: str = "", arrival: int = 0) -> Sleeper:
    """A worker over the scene's database; with a point it will stop itself there."""
    settings = scene.services.settings
    url = settings.database
    environment = clean_environment() | {
        "VOLTWIRE_DATABASE_URL": url if url.startswith("sqlite") else f"{url}?{LIMITS}",
        "VOLTWIRE_SECRET_KEY": SECRET,
        "VOLTWIRE_DATA_DIR": str(settings.data_dir),
        "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "VOLTWIRE_FEED_ALLOW_NETWORKS": "127.0.0.0/8",
        "VOLTWIRE_WEBHOOK_TIMEOUT": str(settings.webhook_timeout),
        "VOLTWIRE_WEBHOOK_RETRY_SCHEDULE": ",".join(map(str, settings.webhook_retry_schedule)),
    }
    if settings.smtp_url is not None:
        environment["VOLTWIRE_SMTP_URL"] = settings.smtp_url
    with log.open("wb") as file:
        process = Forked(
            "tests.system.faults.sleeper:main",
            *(point, str(arrival)),
            environment=environment,
            stdout=file,
            stderr=file,
        )
    return Sleeper(process, log)
