"""A source whose answers a test writes, and meters that are fed by it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select, text, update
from sqlmodel import col

from app.core import clock
from app.core.periodic import Loop
from app.db.scripts import InTransaction
from app.feeds.backfill_plans import begin_where_consented
from app.feeds.fetching.gaps import span_of
from app.feeds.fetching.worker import FeedWorker
from app.feeds.models import Backfill, BackfillPart, Feed, FeedCredential, FeedGap, MeterFeed
from app.feeds.source import Fetched, FetchedMeter, MissingPeriod, SourceMeter, Window
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from tests.accounts.state import events
from tests.meters.asking import make_consent, make_customer, make_meter
from tests.support import TestAccount, World
from tests.system.clients import eventually

Answer = Callable[[FetchedMeter, Window], Fetched | Awaitable[Fetched]]
NUMBER = "9999999999999"
DAYS_END_SECONDS = 90.0


def amount(half_hour: int) -> int:
    """The energy that a household of the tests uses in a half-hour, in millionths of a kWh."""
    return (half_hour % 97 + 1) * 1_000


def readings(first: int, after: int, *, estimated: bool = False) -> Columns:
    starts = list(range(first, after))
    return Columns(starts, [amount(one) for one in starts], [estimated] * len(starts))


def everything(_: FetchedMeter, window: Window) -> Fetched:
    """All half-hours of the window."""
    return Fetched({ReadingChannel.IMPORT: readings(*span_of(window))})


@dataclass
class ScriptedSource:
    """Answers as the test says, and notes down the windows that it was asked for by meter number."""

    answer: Answer = everything
    asked: list[tuple[str, Window]] = field(default_factory=list)
    most_at_once: Counter[str] = field(default_factory=Counter)
    _now: Counter[str] = field(default_factory=Counter)

    def open(self, feed: Feed) -> "_Opened":
        return _Opened(self, feed.credential_key)

    async def fetch(self, key: str, meter: FetchedMeter, window: Window) -> Fetched:
        self._now[key] += 1
        self.most_at_once[key] = max(self.most_at_once[key], self._now[key])
        try:
            self.asked.append((meter.number, window))
            await asyncio.sleep(0)
            found = self.answer(meter, window)
            return found if isinstance(found, Fetched) else await found
        finally:
            self._now[key] -= 1


@dataclass
class _Opened:
    source: ScriptedSource
    key: str

    async def discover(self) -> Sequence[SourceMeter]:
        return []

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        return await self.source.fetch(self.key, meter, window)


def missing(
    first: int, after: int, cause: str, channel: ReadingChannel = ReadingChannel.IMPORT
) -> MissingPeriod:
    return MissingPeriod(channel, at(first), at(after), cause)


def at(half_hour: int) -> datetime:
    return clock.from_ms(half_hour * 1_800_000)


@dataclass
class Fed:
    """An account with a feed and its meters, and a scripted source."""

    world: World
    source: ScriptedSource
    account: TestAccount
    customer_id: str
    consent_id: str
    feed_id: str
    meters: list[str] = field(default_factory=list)

    def worker(self, **more: Any) -> FeedWorker:
        return FeedWorker(self.world.database, self.source, self.world.services.mail_links, **more)

    async def begin(self) -> None:
        """Begins the backfills of all meters, as when their consent becomes valid."""

        def act(transaction: InTransaction) -> Any:
            return (yield from begin_where_consented(transaction, self.meters))

        await self.world.database.transact(act)

    async def told(self, type_: str = "meter_data.received") -> list[Mapping[str, Any]]:
        return [one.data for one in await events(self.world, self.account.id) if one.type == type_]

    async def make_due(self) -> None:
        """Lets everything that is put off be due now, and ends all rests."""
        now = clock.now()
        async with self.world.database.transaction() as session:
            for statement in (
                update(Backfill).where(col(Backfill.completed_at).is_(None)).values(due_at=now),
                update(MeterFeed).where(col(MeterFeed.due_at).is_not(None)).values(due_at=now),
                update(FeedGap).where(col(FeedGap.due_at).is_not(None)).values(due_at=now),
                update(MeterFeed).where(col(MeterFeed.repair_at).is_not(None)).values(repair_at=now),
                update(FeedCredential).values(rests_until=None),
            ):
                await session.execute(statement)

    async def rows(self, model: Any) -> list[Any]:
        return await rows(self.world, model)


async def rows(world: World, model: Any) -> list[Any]:
    """All rows of a table by their keys."""
    async with world.database.reading() as session:
        found = (await session.execute(select(model))).scalars().all()
    if model is BackfillPart:
        return sorted(found, key=lambda one: (one.backfill_id, one.number))
    return list(found)


async def fed(
    world: World,
    *numbers: str,
    residential: bool = True,
    answer: Answer = everything,
    account: TestAccount | None = None,
    key: str = "credential",
    source: ScriptedSource | None = None,
) -> Fed:
    """A feed of meters with a valid consent, of which nothing is due yet."""
    await _same_day()
    account = account or await world.account()
    numbers = numbers or (NUMBER,)
    customer_id = await make_customer(world, account, f"{key}@example.com")
    made = [(await make_meter(world, account, customer_id, one))["id"] for one in numbers]
    consent_id = await make_consent(world, account, customer_id, numbers=numbers if residential else None)
    feed = Feed(
        account_id=account.id, kind="OCTOPUS", name="Ours", credentials_encrypted="", credential_key=key
    )
    async with world.database.transaction() as session:
        session.add(feed)
        await session.flush()
        session.add_all(MeterFeed(meter_id=one, feed_id=feed.id, account_id=account.id) for one in made)
    source = source or ScriptedSource(answer)
    return Fed(world, source, account, customer_id, consent_id, feed.id, made)


async def _same_day() -> None:
    """Waits for a UK day that is about to begin, so that a test's first and last fetches are of one day."""
    now = clock.now()
    left = (clock.end_of_uk_day(clock.uk_date(now)) - now).total_seconds()
    if left < DAYS_END_SECONDS:
        await asyncio.sleep(left + 0.1)


async def statuses(one: Fed) -> list[str]:
    """The statuses of the parts of backfills, in their order."""
    return [part.status for part in await one.rows(BackfillPart)]


async def has_ended(one: Fed) -> bool:
    """Whether no backfill of the meters is under way."""
    mine = [row for row in await one.rows(Backfill) if row.meter_id in one.meters]
    return all(row.completed_at is not None for row in mine)


@asynccontextmanager
async def running(*workers: FeedWorker) -> AsyncIterator[None]:
    """Runs workers until the block ends."""
    loops = []
    for worker in workers:
        loop = Loop("feeds", worker.turn)
        worker.bell = loop.bell
        loops.append(loop)
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        await asyncio.gather(*tasks)
        for worker in workers:
            await worker.aclose()


_DUE = """
    SELECT 1 FROM backfills JOIN feeds ON feeds.id = backfills.feed_id
    WHERE completed_at IS NULL AND backfills.due_at <= :now AND status_is_active
    UNION ALL
    SELECT 1 FROM meter_feeds JOIN feeds ON feeds.id = meter_feeds.feed_id
    WHERE (meter_feeds.due_at <= :now OR meter_feeds.repair_at <= :now) AND status_is_active
    UNION ALL
    SELECT 1 FROM feed_credentials WHERE leased_until IS NOT NULL
""".replace("status_is_active", "feeds.status = 'ACTIVE'")


async def idle(world: World) -> bool:
    """Whether nothing is due, and no worker holds a credential."""
    now: Any = clock.now()
    if world.database.is_sqlite:
        now = clock.to_ms(now)
    async with world.database.reading() as session:
        return (await session.execute(text(_DUE), {"now": now})).first() is None


async def work(one: Fed, **more: Any) -> FeedWorker:
    """Runs a worker until nothing is due any more."""
    worker = one.worker(**more)
    async with running(worker):
        await eventually(lambda: idle(one.world))
    return worker
