"""Workers are killed, stopped and cut off their database: nothing stays pending, and each repeat has its fault."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.delivery.queue.models import DeliveryAttempt
from app.events.models import EventRecord
from app.outbound.lease_times import lease_seconds
from tests.delivery.battery import ended
from tests.delivery.outages import away, cut_connections
from tests.delivery.scene import Scene, open_scene
from tests.services.receiver import Receiver
from tests.services.smtp import SmtpSink
from tests.system.clients import eventually
from tests.system.faults.workers import Sleeper, start_worker

pytestmark = pytest.mark.both_databases

# So that a lease is four and a half seconds.
TIMEOUT = 1.0
LONGER_THAN_A_LEASE = lease_seconds(TIMEOUT) + 0.5
UNDER_WAY = 5
"""As many requests as begin at once to a new endpoint, and one to an ordered one."""

ROUNDS = 10
"""How often each fault comes with `--all`; without it, once."""

Attempt = tuple[str, int]
"""A delivery's id and an attempt's number."""


@dataclass(frozen=True)
class Moment:
    """A fault: how many attempts had arrived as it began and ended, and which ones were recorded as it began."""

    fault: str
    begun: int
    ended: int
    recorded: set[Attempt]


@dataclass
class Fleet:
    """Some workers over one database, a receiver and a mail server that count what comes."""

    scene: Scene
    folder: Path
    receiver: Receiver
    sink: SmtpSink
    chance: random.Random
    workers: list[Sleeper] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        self.started += 1
        self.workers.append(start_worker(self.scene, self.folder / f"worker{self.started}.log"))

    def webhooks(self) -> list[Attempt]:
        """The attempts that arrived as webhooks, in order."""
        headers = [request.headers for request in self.receiver.requests]
        return [(one["voltwire-delivery-id"], int(one["voltwire-attempt"])) for one in headers]

    async def suffer(self, fault: str) -> None:
        begun, recorded = len(self.receiver.requests), await self._recorded()
        await getattr(self, fault)()
        # The test's own connections were cut, too.
        await self.scene.database.engine.dispose()
        self.moments.append(Moment(fault, begun, len(self.receiver.requests), recorded))

    async def killed(self) -> None:
        """A worker drops dead. Mails have long leases, which have passed then."""
        victim = self.workers.pop(self.chance.randrange(len(self.workers)))
        victim.kill()
        self.receiver.release()
        self.start()
        await self.scene.run_out_leases()

    async def stopped(self) -> None:
        """A worker stands still for longer than its leases."""
        victim = self.chance.choice(self.workers)
        victim.stand_still()
        self.receiver.release()
        await asyncio.sleep(LONGER_THAN_A_LEASE)
        victim.go_on()

    async def cut(self) -> None:
        """All connections are lost; SQLite has none, and is busy for a moment."""
        url = self.scene.services.settings.database
        if url.startswith("sqlite"):
            async with away(url):
                self.receiver.release()
        else:
            await cut_connections(url)
            self.receiver.release()

    async def away(self) -> None:
        """The database is away for longer than a lease."""
        async with away(self.scene.services.settings.database):
            self.receiver.release()
            await asyncio.sleep(LONGER_THAN_A_LEASE)

    def unexplained(self, faults: set[str]) -> list[Attempt]:
        """The attempts that came again without one of these faults."""
        places: dict[Attempt, list[int]] = defaultdict(list)
        for place, attempt in enumerate(self.webhooks()):
            places[attempt].append(place)
        return [
            attempt
            for attempt, came in places.items()
            for first, again in itertools.pairwise(came)
            if not any(
                attempt not in one.recorded and first < one.ended and again >= one.begun
                for one in self.moments
                if one.fault in faults
            )
        ]

    async def _recorded(self) -> set[Attempt]:
        statement = select(col(DeliveryAttempt.delivery_id), col(DeliveryAttempt.number))
        async with self.scene.database.reading() as session:
            return {(one.delivery_id, one.number) for one in await session.execute(statement)}


@asynccontextmanager
async def fleet(scene: Scene, workers: int, *parts: Any) -> AsyncIterator[Fleet]:
    opened = Fleet(scene, *parts)
    try:
        for _ in range(workers):
            opened.start()
        yield opened
    finally:
        for worker in opened.workers:
            worker.kill()


@pytest.mark.long(keep=2)
@pytest.mark.parametrize("workers", [1, 2])
async def test_faults_leave_nothing_pending(
    database_url: str,
    receiver: Receiver,
    smtp_sink: SmtpSink,
    tmp_path: Path,
    seed: str,
    thorough: bool,
    workers: int,
) -> None:
    chance = random.Random(seed)
    faults = ["killed", "stopped", "cut", "away"] * (ROUNDS if thorough else 1)
    chance.shuffle(faults)
    settings: dict[str, Any] = {
        "webhook_timeout": TIMEOUT,
        "webhook_retry_schedule": [0.1] * 100,
        "smtp_url": smtp_sink.url,
    }
    async with (
        open_scene(database_url, **settings) as scene,
        fleet(scene, workers, tmp_path, receiver, smtp_sink, chance) as suffering,
    ):
        account = await scene.account()
        homes = [
            (await scene.endpoint(account, receiver.url("/plain"))).id,
            (await scene.endpoint(account, receiver.url("/ordered"), ordered=True)).id,
            await scene.subscription(account, "ada@example.com"),
        ]
        events: list[EventRecord] = []
        for fault in faults:
            seen = len(receiver.requests)
            receiver.hold()
            events += await scene.happen(account, chance.randint(20, 40))
            # Answers come once the fault is there, so that results are in hand; the other deliveries wait.
            await receiver.wait_for(seen + UNDER_WAY)
            await suffering.suffer(fault)
        events += await scene.happen(account, 10)
        await eventually(scene.nothing_waits)

        for home in homes:
            told = await ended(scene, home, events)
            assert {(status, tries[-1][0]) for status, tries in told} == {("SUCCEEDED", "SUCCEEDED")}
        assert {delivery_id for delivery_id, _ in suffering.webhooks()} == {
            one.id for home in homes[:2] for one in await scene.deliveries(destination_id=home)
        }
        assert [one.fault for one in suffering.moments] == faults
        # A worker that lives records what it has in hand, however long its database is away.
        explaining = {"killed", "stopped"} if workers == 1 else set(faults)
        assert suffering.unexplained(explaining) == []
        came = [mail.message["message-id"].strip("<>").partition("@")[0] for mail in smtp_sink.mails]
        assert set(came) == {one.id for one in await scene.deliveries(destination_id=homes[2])}
