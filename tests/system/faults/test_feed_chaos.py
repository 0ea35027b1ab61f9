"""Workers that fetch are killed, stopped and cut off their database, sources fail, and consents are revoked meanwhile.

In the end each meter with a valid consent has what its source has, no part is told of twice, and nothing is recorded of
a meter after its consent's end.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.core import clock
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.feeds.backfill_plans import begin_where_consented
from app.feeds.credentials import credential_key, sealed
from app.feeds.enums import FeedKind
from app.feeds.models import Backfill, BackfillPart, Feed, FeedCredential, MeterFeed
from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.source import Window
from app.feeds.stand_ins.scenarios import SCENARIOS
from app.feeds.stand_ins.server import serving
from app.readings.models import MeterKey, ReadingDay
from app.readings.packing import SLOTS, slots, unpack
from tests.accounts.state import events, mutation
from tests.delivery.outages import away, cut_connections
from tests.delivery.scene import Scene, open_scene
from tests.meters.asking import make_consent, make_customer, make_meter, run
from tests.support import TestAccount, World
from tests.system.clients import eventually
from tests.system.faults.workers import Sleeper, start_worker

pytestmark = pytest.mark.both_databases

NUMBERS = ("9999999999999", "2400000000013")
SOURCES = ("flaky", "flaky", "complete")
WORKERS = 2
FAULTS = ("killed", "stopped", "cut", "away", "revoked")
ROUNDS = 8
"""How often each fault comes with `--all`; without it, once."""
REVOKE = mutation("revokeHostedConsent", "hostedConsent { id }")


@dataclass(frozen=True)
class Home:
    """A meter with a consent of its own."""

    meter_id: str
    number: str
    consent_id: str
    stand_in: OctopusStandIn


@dataclass
class Fleet:
    """Workers over one database, sources that fail now and then, and homes that are fetched from them."""

    scene: Scene
    world: World
    account: TestAccount
    folder: Path
    chance: random.Random
    homes: list[Home] = field(default_factory=list)
    workers: list[Sleeper] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    _started: int = 0

    def start(self) -> None:
        self._started += 1
        self.workers.append(start_worker(self.scene, self.folder / f"worker{self._started}.log"))

    async def add_feed(self, name: str, stand_in: OctopusStandIn, url: str, numbers: Sequence[str]) -> None:
        keyring, credentials = self.world.services.keyring, dict(stand_in.credentials)
        feed = Feed(
            account_id=self.account.id,
            kind=FeedKind.OCTOPUS.name,
            name=name,
            settings={**stand_in.settings, "baseUrl": url},
            credentials_encrypted=sealed(keyring, credentials),
            credential_key=credential_key(keyring, FeedKind.OCTOPUS, url, credentials),
        )
        async with self.world.database.transaction() as session:
            session.add(feed)
        for number in numbers:
            customer_id = await make_customer(self.world, self.account, f"{name}{number}@example.com")
            meter = await make_meter(self.world, self.account, customer_id, number)
            consent_id = await make_consent(self.world, self.account, customer_id, numbers=[number])
            async with self.world.database.transaction() as session:
                session.add(MeterFeed(meter_id=meter["id"], feed_id=feed.id, account_id=self.account.id))
            self.homes.append(Home(meter["id"], number, consent_id, stand_in))

    async def begin(self) -> None:
        def act(transaction: InTransaction) -> Script[None]:
            yield from begin_where_consented(transaction, [home.meter_id for home in self.homes])

        await self.world.database.transact(act)

    async def killed(self) -> None:
        self.workers.pop(self.chance.randrange(len(self.workers))).kill()
        await self.run_out_leases()
        self.start()

    async def stopped(self) -> None:
        """A worker stands still until its leases are over and others have gone on."""
        victim = self.chance.choice(self.workers)
        victim.stand_still()
        await self.run_out_leases()
        await asyncio.sleep(1)
        victim.go_on()

    async def cut(self) -> None:
        url = self.world.services.settings.database
        if not self.world.database.is_sqlite:
            await cut_connections(url)
        await self.world.database.engine.dispose()

    async def away(self) -> None:
        async with away(self.world.services.settings.database):
            await asyncio.sleep(1)
        await self.world.database.engine.dispose()

    async def revoked_one(self) -> None:
        left = [home for home in self.homes if home.consent_id not in self.revoked]
        home = self.chance.choice(left)
        await run(self.world, self.account, REVOKE, hostedConsentId=home.consent_id)
        self.revoked.add(home.consent_id)

    async def suffer(self, fault: str) -> None:
        await (self.revoked_one() if fault == "revoked" else getattr(self, fault)())

    async def run_out_leases(self) -> None:
        """As if the time of every lease had passed."""
        async with self.world.database.transaction() as session:
            held = col(FeedCredential.leased_until).is_not(None)
            await session.execute(update(FeedCredential).where(held).values(leased_until=clock.from_ms(0)))

    async def go_on(self) -> bool:
        """Ends all pauses; whether all backfills have ended."""
        now = clock.now()
        unfinished = col(Backfill.completed_at).is_(None)
        async with self.world.database.transaction() as session:
            await session.execute(
                update(Backfill).where(unfinished, col(Backfill.due_at) > now).values(due_at=now)
            )
            await session.execute(
                update(FeedCredential).where(col(FeedCredential.rests_until) > now).values(rests_until=now)
            )
            found = await session.execute(select(col(Backfill.id)).where(unfinished).limit(1))
            return found.first() is None

    async def readings(self, meter_id: str) -> Mapping[int, int]:
        """The amounts that are stored of a meter by half-hour."""
        statement = (
            select(col(ReadingDay.day), col(ReadingDay.packed))
            .join(MeterKey, col(MeterKey.key) == col(ReadingDay.meter_key))
            .where(col(MeterKey.meter_id) == meter_id)
        )
        async with self.world.database.reading() as session:
            days = (await session.execute(statement)).all()
        unpacked = [(day, unpack(packed)) for day, packed in days]
        return {day * SLOTS + slot: of.amounts[slot] for day, of in unpacked for slot in slots(of.present)}


@asynccontextmanager
async def fleet(
    database_url: str,
    folder: Path,
    chance: random.Random,
    scenarios: Sequence[str] = SOURCES,
    numbers: Sequence[str] = NUMBERS,
    workers: int = WORKERS,
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        scene = await stack.enter_async_context(open_scene(database_url))
        world = scene.world
        opened = Fleet(scene, world, await world.account(), folder, chance)
        for place, scenario in enumerate(scenarios):
            stand_in = OctopusStandIn(SCENARIOS[scenario], seed=place)
            url = await stack.enter_async_context(serving(stand_in))
            await opened.add_feed(f"feed{place}", stand_in, url, numbers)
        try:
            for _ in range(workers):
                opened.start()
            yield opened
        finally:
            for worker in opened.workers:
                worker.kill()


@pytest.mark.long(keep=1)
async def test_faults_lose_nothing_and_repeat_nothing(
    database_url: str, tmp_path: Path, seed: str, thorough: bool
) -> None:
    chance = random.Random(seed)
    faults = [*FAULTS, *(FAULTS[:-1] * (ROUNDS - 1) if thorough else ())]
    chance.shuffle(faults)
    async with fleet(database_url, tmp_path, chance) as suffering:
        await suffering.begin()
        for fault in faults:
            for _ in range(chance.randint(1, 4)):
                await asyncio.sleep(0.25)
                await suffering.go_on()
            await suffering.suffer(fault)
        await eventually(suffering.go_on)
        await check(suffering)


POINTS = ("feed.claimed", "feed.fetched", "feed.recorded")


@pytest.mark.long(keep=2)
@pytest.mark.parametrize(
    ("point", "arrival"),
    [
        *((point, 1) for point in POINTS),
        ("feed.fetched", 7),
        ("feed.recorded", 13),
        ("log.written", 1),
        ("log.written", 13),
    ],
)
async def test_a_worker_that_is_killed_at_a_point_leaves_its_part_to_another(
    database_url: str, tmp_path: Path, seed: str, point: str, arrival: int
) -> None:
    calm = ["complete"]
    async with fleet(database_url, tmp_path, random.Random(seed), calm, NUMBERS[:1], workers=0) as suffering:
        victim = start_worker(suffering.scene, tmp_path / "victim.log", point, arrival)
        suffering.workers.append(victim)
        await suffering.begin()
        await victim.stopped()
        await suffering.killed()
        await eventually(suffering.go_on)
        await check(suffering)


async def check(suffering: Fleet) -> None:
    log = await events(suffering.world, suffering.account.id)
    received = [one.data for one in log if one.type == "meter_data.received"]
    parts = Counter((data["backfillId"], data["part"], data["channel"]) for data in received)
    assert set(parts.values()) == {1}
    async with suffering.world.database.reading() as session:
        backfills = {row.meter_id: row for row in (await session.execute(select(Backfill))).scalars()}
        all_parts = (await session.execute(select(BackfillPart))).scalars().all()
    for home in suffering.homes:
        backfill = backfills[home.meter_id]
        if home.consent_id in suffering.revoked and backfill.status == "CANCELLED":
            [end] = [
                one.sequence
                for one in log
                if one.type == "hosted_consent.revoked" and one.subject_id == home.consent_id
            ]
            late = [one for one in log if one.sequence > end and is_of(one, home.meter_id)]
            assert late == []
            continue
        window = Window(backfill.starts_at, backfill.ends_at)
        truth = home.stand_in.truth(home.number, window)
        assert await suffering.readings(home.meter_id) == dict(zip(truth.starts, truth.amounts, strict=True))
        missing = (backfill.ends_at - backfill.starts_at) // clock.HALF_HOUR - len(truth.starts)
        assert backfill.status == ("COMPLETE_WITH_GAPS" if missing else "COMPLETE")
        assert sum(part.missing for part in all_parts if part.backfill_id == backfill.id) == missing
        told = [data["intervalCount"] for data in received if data["meterId"] == home.meter_id]
        assert (sum(told), len(told)) == (len(truth.starts), 13)
    ended = Counter(one.data["backfillId"] for one in log if one.type == "backfill.completed")
    assert set(ended.values()) == {1}


def is_of(event: Any, meter_id: str) -> bool:
    return event.type == "meter_data.received" and event.data["meterId"] == meter_id
