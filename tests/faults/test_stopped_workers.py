"""Workers that stand still until their leases have run out and then go on: others take over, and nothing goes wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.database import IDLE_SECONDS
from app.delivery.models import WebhookEndpoint
from tests.delivery.battery import arrivals, ended
from tests.delivery.scene import PATIENCE, Scene, open_scene
from tests.services.receiver import Receiver
from tests.support import SECRET
from tests.system.deployment import clean_environment

ROOT = Path(__file__).parents[2]
# So that a lease is three and a half seconds.
TIMEOUT = 0.3
# How soon PostgreSQL ends what a sleeper has begun, in milliseconds. Without it that takes longer; and one that stopped
# as it was preparing a statement for the first time does not count as idle.
LIMITS = "transaction_timeout=2000"


@dataclass
class Sleeper:
    """A worker in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    async def stopped(self) -> None:
        """Until it has stopped itself."""
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.to_thread(os.waitid, os.P_PID, self.process.pid, flags)
        assert found is not None
        assert found.si_status == signal.SIGSTOP, self.log.read_text()

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def terminate(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    def told(self, event: str) -> list[dict[str, Any]]:
        """What it has logged under this name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def sleeper(scene: Scene, folder: Path, point: str, arrival: int) -> AsyncIterator[Sleeper]:
    """A worker that will stop itself at this arrival at the point."""
    settings = scene.services.settings
    environment = clean_environment() | {
        "VOLTWIRE_DATABASE_URL": f"{settings.database}?{LIMITS}",
        "VOLTWIRE_SECRET_KEY": SECRET,
        "VOLTWIRE_DATA_DIR": str(settings.data_dir),
        "VOLTWIRE_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "VOLTWIRE_WEBHOOK_TIMEOUT": str(settings.webhook_timeout),
    }
    log = folder / f"{point}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faults.sleeper", point, str(arrival)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Sleeper(process, log)
    finally:
        process.kill()
        process.wait()


async def test_workers_that_stand_still_past_their_leases(
    postgres_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    async with open_scene(postgres_url, webhook_timeout=TIMEOUT) as scene:
        async with scene.database.reading() as session:
            shown = await session.execute(text("SHOW idle_in_transaction_session_timeout"))
            assert shown.scalar_one() == f"{IDLE_SECONDS}s"
        account = await scene.account()
        homes = {
            "/plain": await scene.endpoint(account, receiver.url("/plain")),
            "/ordered": await scene.endpoint(account, receiver.url("/ordered"), ordered=True),
            "/paced": await scene.endpoint(account, receiver.url("/paced"), rate_limit=50),
        }
        events = await scene.happen(account, 15)
        # One stands still with answers that it has not written down and claims that it has not sent, the other in a
        # transaction, so that its locks are held as well.
        async with sleeper(scene, tmp_path, "send.response", 3) as answered:
            await answered.stopped()
            events += await scene.happen(account, 5)
            async with sleeper(scene, tmp_path, "dispatch.before_commit", 1) as dispatching:
                await dispatching.stopped()
                async with scene.worker() as worker:
                    await scene.settled()
                    answered.go_on()
                    dispatching.go_on()
                    events += await scene.happen(account, 5)
                    await scene.settled()
                    assert worker.webhooks.leases_lost == 0
                assert [await one.terminate() for one in (answered, dispatching)] == [0, 0]
            lost = sum(len(one.told("delivery_lease_lost")) for one in (answered, dispatching))

        again = 0
        for path, endpoint in homes.items():
            told = await ended(scene, endpoint.id, events)
            assert told == [("SUCCEEDED", [("SUCCEEDED", 204)])] * 25
            # What the sleepers had to say came too late to speak against the endpoint.
            row = await scene.row(WebhookEndpoint, endpoint.id)
            assert (row.failures, row.failing_since) == (0, None)
            came = arrivals(receiver.to(path), events, endpoint.secret)
            assert min(came) == 1
            again += sum(came) - len(came)
    # What came twice had been taken over, as who had sent it before was told.
    assert 1 <= again <= lost
    ordered = [one.headers["webhook-id"] for one in receiver.to("/ordered")]
    assert list(dict.fromkeys(ordered)) == [event.id for event in events]
