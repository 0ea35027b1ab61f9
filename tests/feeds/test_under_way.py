"""Changes while a fetch is under way: consents, meters, feeds, backfills and leases."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from app.core import clock
from app.feeds.enums import BackfillStatus
from app.feeds.fetching import leases
from app.feeds.fetching.due_work import Work
from app.feeds.fetching.fetch import Found
from app.feeds.fetching.gaps import span_of
from app.feeds.fetching.recording import Outcome, record
from app.feeds.fetching.scheduling import daily_window, next_daily
from app.feeds.fetching.worker import FeedWorker
from app.feeds.models import Backfill, Feed, FeedCredential, MeterFeed
from app.feeds.source import Fetched, FetchedMeter, Window
from app.meters.enums import MeterType
from app.readings.enums import ReadingReason
from tests.accounts.state import mutation
from tests.feeds.scripted import (
    NUMBER,
    Fed,
    everything,
    fed,
    has_ended,
    running,
    statuses,
    work,
)
from tests.meters.asking import run
from tests.support import World
from tests.system.clients import eventually

pytestmark = pytest.mark.both_databases

REVOKE = mutation("revokeHostedConsent", "hostedConsent { id }")
CANCEL = mutation("cancelBackfill", "backfill { id }")


def gated(
    reached: asyncio.Event, go_on: asyncio.Event
) -> Callable[[FetchedMeter, Window], Awaitable[Fetched]]:
    """Answers with everything once `go_on` is set."""

    async def answer(meter: FetchedMeter, window: Window) -> Fetched:
        reached.set()
        await go_on.wait()
        return everything(meter, window)

    return answer


async def during_a_fetch(one: Fed, act: Callable[[], Awaitable[Any]]) -> Any:
    """Runs a worker whose first fetch ends after an act; gives the worker."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    one.source.answer = gated(reached, go_on)
    worker = one.worker()
    async with running(worker):
        await reached.wait()
        await act()
        go_on.set()
        await eventually(lambda: _is_idle(worker))
    return worker


async def _is_idle(worker: FeedWorker) -> bool:
    return worker.held == 0


async def test_what_was_under_way_as_the_consent_was_revoked_is_dropped_and_counted(world: World) -> None:
    one = await fed(world)
    await one.begin()

    async def revoke() -> None:
        await run(world, one.account, REVOKE, hostedConsentId=one.consent_id)

    worker = await during_a_fetch(one, revoke)
    assert await one.told() == []
    assert worker.stats.dropped == {"OCTOPUS": 1}
    [backfill] = await one.rows(Backfill)
    assert backfill.status == "CANCELLED"
    await one.make_due()
    await work(one)
    assert len(one.source.asked) == 1
    [meter] = await one.rows(MeterFeed)
    assert (meter.due_at, meter.repair_at) == (None, None)


async def test_a_meter_that_is_deleted_with_its_customer_takes_its_work_along(world: World) -> None:
    one = await fed(world)
    await one.begin()

    async def delete() -> None:
        await run(world, one.account, mutation("deleteCustomer", "deletedId"), customerId=one.customer_id)

    worker = await during_a_fetch(one, delete)
    assert await one.told() == []
    assert (await one.rows(Backfill), await one.rows(MeterFeed)) == ([], [])
    assert worker.stats.dropped == {}


async def test_a_backfill_that_a_person_cancels_records_nothing_more(world: World) -> None:
    one = await fed(world)
    await one.begin()
    [backfill] = await one.rows(Backfill)

    async def cancel() -> None:
        await run(world, one.account, CANCEL, backfillId=backfill.id)

    await during_a_fetch(one, cancel)
    assert await one.told() == []
    assert await statuses(one) == ["CANCELLED"] * 13
    [meter] = await one.rows(MeterFeed)
    assert meter.due_at > clock.now()


async def test_a_worker_that_was_taken_for_dead_records_nothing_more(world: World) -> None:
    one = await fed(world)
    await one.begin()
    other = one.worker()

    async def take_over() -> None:
        async with world.database.transaction() as session:
            await session.execute(update(FeedCredential).values(leased_until=clock.now()))
        one.source.answer = everything
        async with running(other):
            await eventually(lambda: has_ended(one))

    worker = await during_a_fetch(one, take_over)
    assert worker.stats.leases_lost == 1
    assert sorted(event["part"] for event in await one.told()) == list(range(1, 14))


async def test_a_feed_that_was_changed_meanwhile_is_left_alone(world: World) -> None:
    one = await fed(world)
    await one.begin()

    async def elsewhere() -> None:
        other = Feed(
            account_id=one.account.id, kind="PERSE", name="Other", credentials_encrypted="", credential_key="x",
            status="PAUSED",
        )  # fmt: skip
        async with world.database.transaction() as session:
            session.add(other)
            await session.flush()
            await session.execute(update(MeterFeed).values(feed_id=other.id))

    await during_a_fetch(one, elsewhere)
    assert await one.told() == []
    [backfill] = await one.rows(Backfill)
    assert backfill.status == BackfillStatus.CANCELLED.name


async def test_a_daily_fetch_is_not_repeated_until_a_late_clock_has_caught_up(small_world: World) -> None:
    one = await fed(small_world)
    [meter_id] = one.meters
    now = clock.now()
    # The database says that it is due; by the worker's clock that is still to come.
    due_at = next_daily(meter_id, now)
    async with small_world.database.transaction() as session:
        await session.execute(update(MeterFeed).values(due_at=due_at))
    claim = await leases.claim(small_world.database, "credential")
    assert claim is not None
    meter, window = FetchedMeter(NUMBER, MeterType.ELECTRICITY), daily_window(now)
    work = Work(
        ReadingReason.SCHEDULED,
        claim.feeds[0],
        meter_id,
        meter,
        clock.to_ms(due_at),
        is_wanted=True,
        window=window,
        part=None,
        failures=0,
    )
    found = Found({}, (), None, insists=False, half_hours=0, span=span_of(window))
    outcome = await small_world.database.transact(lambda transaction: record(transaction, work, claim, found))
    assert outcome is Outcome.RECORDED
    [row] = await one.rows(MeterFeed)
    assert row.due_at == next_daily(meter_id, due_at) > due_at
