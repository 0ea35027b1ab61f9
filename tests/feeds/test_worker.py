"""The worker of feeds: backfills part by part, what interrupts them, and sources that fail."""

import asyncio
from dataclasses import dataclass
from itertools import pairwise

import pytest
from sqlalchemy import update

from app.core import clock
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.fetching import leases
from app.feeds.fetching.gaps import span_of
from app.feeds.fetching.leases import LeaseLost
from app.feeds.fetching.worker import OF_ACCOUNT, FeedWorker
from app.feeds.models import Backfill, BackfillPart, Feed, FeedCredential, FeedGap, MeterFeed
from app.feeds.source import Fetched, FetchedMeter, Source, Window
from app.readings.enums import ReadingChannel
from tests.feeds.scripted import (
    Fed,
    ScriptedSource,
    at,
    everything,
    fed,
    has_ended,
    readings,
    running,
    statuses,
    work,
)
from tests.imports.test_import_worker import at as at_point
from tests.support import World
from tests.system.clients import eventually

pytestmark = pytest.mark.both_databases


async def test_a_home_is_told_of_month_by_month_the_newest_first(world: World) -> None:
    one = await fed(world)
    await one.begin()
    worker = await work(one)
    [backfill] = await one.rows(Backfill)
    told = await one.told()
    assert [(event["part"], event["parts"], event["reason"]) for event in told] == [
        (number, 13, "BACKFILL") for number in range(1, 14)
    ]
    assert all(event["backfillId"] == backfill.id for event in told)
    assert all(later["from"] == earlier["to"] for earlier, later in pairwise(reversed(told)))
    half_hours = (backfill.ends_at - backfill.starts_at) // clock.HALF_HOUR
    assert sum(event["intervalCount"] for event in told) == half_hours == worker.stats.half_hours["OCTOPUS"]
    [ended] = await one.told("backfill.completed")
    assert ended == {
        "backfillId": backfill.id,
        "meterId": one.meters[0],
        "customerId": one.customer_id,
        "feedId": one.feed_id,
        "status": "COMPLETE",
        "from": clock.format_utc(backfill.starts_at),
        "to": clock.format_utc(backfill.ends_at),
        "readingsChanged": half_hours,
        "missing": 0,
    }
    assert (backfill.status, backfill.readings_changed) == ("COMPLETE", half_hours)
    assert await statuses(one) == ["COMPLETE"] * 13
    [meter] = await one.rows(MeterFeed)
    assert meter.due_at > clock.now()
    assert meter.fetched_at is not None
    assert (await one.rows(FeedGap), (await one.rows(Feed))[0].last_run_at is None) == ([], False)


async def test_a_business_is_told_of_once(world: World) -> None:
    one = await fed(world, residential=False)
    await one.begin()
    await work(one)
    assert [(event["part"], event["parts"]) for event in await one.told()] == [(1, 1)]
    assert len(await one.told("backfill.completed")) == 1


async def test_backfills_of_several_meters_take_turns(world: World) -> None:
    one = await fed(world, "9999999999999", "9999999999998", "9999999999997")
    await one.begin()
    await work(one)
    newest = [number for number, window in one.source.asked if window.end == one.source.asked[0][1].end]
    assert newest == [number for number, _ in one.source.asked[:3]]
    assert len(await one.told()) == 39
    assert one.source.most_at_once == {"credential": 1}


@pytest.mark.parametrize("point", ["feed.claimed", "feed.fetched", "feed.recorded", "log.written"])
async def test_a_backfill_that_is_cut_off_goes_on_at_its_part(world: World, point: str) -> None:
    one = await fed(world)
    await one.begin()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    worker = one.worker()
    with at_point(point, lambda: loop.call_soon_threadsafe(reached.set)):
        async with running(worker):
            await reached.wait()
    await work(one)
    assert sorted(event["part"] for event in await one.told()) == list(range(1, 14))
    assert len(await one.told("backfill.completed")) == 1


async def test_a_worker_that_died_leaves_its_lease_to_expire(world: World) -> None:
    one = await fed(world)
    await one.begin()
    claim = await leases.claim(world.database, "credential")
    assert claim is not None
    assert await leases.due_credentials(world.database, "", 10) == []
    assert await leases.claim(world.database, "credential") is None
    async with world.database.transaction() as session:
        await session.execute(update(FeedCredential).values(leased_until=clock.now()))
    await work(one)
    assert len(await one.told()) == 13
    with pytest.raises(LeaseLost):
        await leases.renew(world.database, claim)


async def test_two_workers_share_credentials_and_ask_by_each_one_at_a_time(world: World) -> None:
    source = ScriptedSource()
    account = await world.account()
    all_fed = [
        await fed(world, f"999999999999{place}", account=account, key=f"key{place}", source=source)
        for place in range(5, 9)
    ]
    for one in all_fed:
        await one.begin()
    first, second = all_fed[0].worker(), all_fed[0].worker()
    async with running(first, second):
        for one in all_fed:
            await eventually(lambda one=one: has_ended(one))  # type: ignore[misc]
    assert len(await all_fed[0].told()) == 13 * 4
    assert source.most_at_once == {f"key{place}": 1 for place in range(5, 9)}


async def test_a_pause_that_the_source_asks_for_is_kept_by_all_workers(world: World) -> None:
    def slow_down(_: FetchedMeter, __: Window) -> Fetched:
        raise SourceFailure(Meaning.WAIT, "The source asks for a pause (429).", 3600)

    one = await fed(world, answer=slow_down)
    await one.begin()
    worker = one.worker()
    async with running(worker):
        await eventually(lambda: _rests(one))
    [row] = await one.rows(FeedCredential)
    assert 3000 < (row.rests_until - clock.now()).total_seconds() < 3600 * 1.1
    assert await leases.due_credentials(world.database, "", 10) == []
    assert len(one.source.asked) == 1
    assert worker.stats.failures == {("OCTOPUS", "WAIT"): 1}
    # It is nobody's fault: the part has no attempt more.
    assert {part.attempts for part in await one.rows(BackfillPart)} == {0}
    one.source.answer = everything
    await one.make_due()
    await work(one)
    assert len(await one.told()) == 13


async def _rests(one: Fed) -> bool:
    found = await one.rows(FeedCredential)
    return any(row.rests_until is not None for row in found)


async def test_a_source_that_fails_is_asked_again_after_growing_pauses(world: World) -> None:
    def fail(_: FetchedMeter, __: Window) -> Fetched:
        raise SourceFailure(Meaning.RETRY, "The source answered 500; it is asked again.")

    one = await fed(world, answer=fail)
    await one.begin()
    for attempts in (1, 2, 3):
        worker = one.worker()
        async with running(worker):
            await eventually(lambda: _rests(one))
        [backfill], [part, *_] = await one.rows(Backfill), await one.rows(BackfillPart)
        assert (part.attempts, part.error) == (attempts, "The source answered 500; it is asked again.")
        assert backfill.due_at > clock.now()
        await one.make_due()
    one.source.answer = everything
    await work(one)
    parts = await one.rows(BackfillPart)
    assert [(part.attempts, part.error) for part in parts] == [(4, None)] + [(1, None)] * 12
    assert len(await one.told()) == 13


async def test_an_account_with_many_sources_that_hang_leaves_places_to_others(world: World) -> None:
    async def hang(_: FetchedMeter, __: Window) -> Fetched:
        await asyncio.Event().wait()
        raise AssertionError

    account, hanging = await world.account(), ScriptedSource(hang)
    many = [
        await fed(world, account=account, key=f"hanging{place}", source=hanging)
        for place in range(OF_ACCOUNT + 4)
    ]
    for one in many:
        await one.begin()
    sound = await fed(world, key="sound")
    await sound.begin()
    worker = FeedWorker(world.database, Either(hanging, sound), world.services.mail_links)
    async with running(worker):
        await eventually(lambda: has_ended(sound))
        await eventually(lambda: _holds(worker, OF_ACCOUNT))
    assert len(await sound.told()) == 13
    assert len(hanging.asked) == OF_ACCOUNT


async def _holds(worker: FeedWorker, credentials: int) -> bool:
    return worker.held == credentials


@dataclass
class Either:
    """The hanging source, but for one account's feed."""

    hanging: ScriptedSource
    sound: Fed

    def open(self, feed: Feed) -> Source:
        return (self.sound.source if feed.id == self.sound.feed_id else self.hanging).open(feed)


@pytest.mark.parametrize("kind", ["raises", "hangs", "too much"])
async def test_a_source_that_breaks_its_promises_holds_up_no_other(world: World, kind: str) -> None:
    async def answer(meter: FetchedMeter, window: Window) -> Fetched:
        if meter.number.endswith("9"):
            if kind == "raises":
                raise KeyError(kind)
            if kind == "hangs":
                await asyncio.Event().wait()
            first, after = span_of(window)
            return Fetched({ReadingChannel.IMPORT: readings(first, after + 1)})
        return everything(meter, window)

    source = ScriptedSource(answer)
    broken = await fed(world, source=source, key="broken")
    sound = await fed(world, "9999999999998", source=source, key="sound")
    await broken.begin()
    await sound.begin()
    worker = sound.worker(deadline=0.2)
    async with running(worker):
        await eventually(lambda: has_ended(sound))
        await eventually(lambda: _has_failed(broken))
    assert len(await sound.told()) == 13
    assert await broken.told() == []
    [part] = [part for part in await broken.rows(BackfillPart) if part.error is not None]
    assert part.error.endswith("it is asked again.")


async def _has_failed(one: Fed) -> bool:
    return any(part.error is not None for part in await one.rows(BackfillPart))


async def test_a_refused_meter_fails_after_some_days_and_holds_up_no_other(world: World) -> None:
    def answer(meter: FetchedMeter, window: Window) -> Fetched:
        if meter.number.endswith("9"):
            raise SourceFailure(Meaning.METER, "The source does not show this meter (404).")
        return everything(meter, window)

    one = await fed(world, "9999999999999", "9999999999998", answer=answer)
    await one.begin()
    for _ in range(6):
        await work(one)
        await one.make_due()
    ended = {event["meterId"]: event for event in await one.told("backfill.completed")}
    assert [ended[meter]["status"] for meter in one.meters] == ["FAILED", "COMPLETE"]
    refused = [number for number, _ in one.source.asked if number.endswith("9")]
    assert len(refused) >= 6
    assert {event["meterId"] for event in await one.told()} == {one.meters[1]}
    found = {row.meter_id: row for row in await one.rows(MeterFeed)}
    assert [found[meter].error for meter in one.meters] == [
        "The source does not show this meter (404).",
        None,
    ]
    assert all(row.due_at is not None for row in found.values())


async def test_a_feed_with_wrong_credentials_rests_and_needs_attention_once(world: World) -> None:
    def refuse(_: FetchedMeter, __: Window) -> Fetched:
        raise SourceFailure(Meaning.FEED, "The source refuses the credentials (401).")

    one = await fed(world, "9999999999999", "9999999999998", answer=refuse)
    await one.begin()
    await work(one)
    [feed] = await one.rows(Feed)
    assert (feed.status, feed.attention) == (
        "NEEDS_ATTENTION",
        "The source refuses the credentials (401).",
    )
    assert len(await one.told("feed.attention_needed")) == len(one.source.asked) == 1
    one.source.answer = everything
    async with world.database.transaction() as session:
        await session.execute(update(Feed).values(status="ACTIVE", attention=None, updated_at=clock.now()))
    await work(one)
    assert len(await one.told()) == 26


@pytest.mark.parametrize(
    ("meaning", "point"),
    [(Meaning.RETRY, "feed.failure_recorded"), (Meaning.FEED, "feed.attention_recorded")],
)
async def test_a_failure_counts_once_where_its_worker_is_cut_off(
    world: World, meaning: Meaning, point: str
) -> None:
    def fail(_: FetchedMeter, __: Window) -> Fetched:
        raise SourceFailure(meaning, "The source cannot be asked.")

    one = await fed(world, answer=fail)
    await one.begin()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    with at_point(point, lambda: loop.call_soon_threadsafe(reached.set)):
        async with running(one.worker()):
            await reached.wait()
    one.source.answer = everything
    async with world.database.transaction() as session:
        await session.execute(update(Feed).values(status="ACTIVE", attention=None, updated_at=clock.now()))
    await one.make_due()
    await work(one)
    is_counted = meaning is Meaning.RETRY
    assert [part.attempts for part in await one.rows(BackfillPart)] == [1 + is_counted] + [1] * 12
    assert len(await one.told("feed.attention_needed")) == (not is_counted)
    assert len(await one.told()) == 13


async def test_nothing_is_expected_from_before_the_customer_moved_in(world: World) -> None:
    def moved_in(_: FetchedMeter, window: Window) -> Fetched:
        _, after = span_of(window)
        since = after - 48 * 10
        return Fetched({ReadingChannel.IMPORT: readings(since, after)}, starts_at=at(since))

    one = await fed(world, answer=moved_in)
    await one.begin()
    await work(one)
    [event] = await one.told()
    assert (event["part"], event["intervalCount"]) == (1, 480)
    assert await statuses(one) == ["COMPLETE"] * 13
    [ended] = await one.told("backfill.completed")
    assert (ended["status"], ended["missing"], ended["from"]) == ("COMPLETE", 0, event["from"])
    assert len(one.source.asked) == 1
