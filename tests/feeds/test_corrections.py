"""Daily fetches: new half-hours, corrections, precedence of actual values, gaps, and their repair."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.core import clock
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.fetching.gaps import MOST_RUNS, span_of
from app.feeds.fetching.scheduling import RETRY_PAUSES, daily_window
from app.feeds.models import Backfill, BackfillPart, FeedGap, MeterFeed
from app.feeds.source import Fetched, FetchedMeter, MissingPeriod, Window
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS
from tests.accounts.state import mutation
from tests.feeds.scripted import Fed, amount, at, everything, fed, missing, readings, work
from tests.meters.asking import run
from tests.support import World

# The window of a day is that of the day on which it is fetched.
pytestmark = [pytest.mark.both_databases, pytest.mark.usefixtures("within_half_hour")]

COVERAGE = """
query ($id: ID!, $from: DateTime, $to: DateTime) { meter(id: $id) { coverage(from: $from, to: $to) {
  expected missing complete gaps { from to halfHours cause } } revisions { nodes { startAt reason } }
} }
"""
RECORD = mutation("recordReadings", "changed")


async def daily(world: World, answer: Any = everything) -> Fed:
    """A meter that is due for its daily fetch, and has never been fetched."""
    one = await fed(world, answer=answer)
    await due(one)
    return one


async def due(one: Fed) -> None:
    async with one.world.database.transaction() as session:
        await session.execute(update(MeterFeed).values(due_at=clock.now()))


def today() -> tuple[int, int]:
    """The half-hours of today's window."""
    return span_of(daily_window(clock.now()))


async def told(one: Fed) -> list[tuple[str, int, int]]:
    """Reason, half-hours, and the estimated among them, of each event."""
    return [(event["reason"], event["intervalCount"], event["estimatedCount"]) for event in await one.told()]


async def shown(one: Fed) -> dict[str, Any]:
    window = daily_window(clock.now())
    given = {"id": one.meters[0], "from": clock.format_utc(window.start), "to": clock.format_utc(window.end)}
    found: dict[str, Any] = (await one.world.data(COVERAGE, given, key=one.account.key))["meter"]
    return found


def changing(changes: dict[int, tuple[int, bool]], *, insists: bool = False, until: int | None = None) -> Any:
    """All half-hours of the window, up to one, some of them with another amount or quality."""

    def answer(_: FetchedMeter, window: Window) -> Fetched:
        first, after = span_of(window)
        plain = readings(first, after if until is None else until)
        for half_hour, (value, estimated) in changes.items():
            plain.amounts[half_hour - first], plain.estimated[half_hour - first] = value, estimated
        return Fetched({ReadingChannel.IMPORT: plain}, insists=insists)

    return answer


async def test_a_daily_fetch_tells_of_what_is_new_and_is_silent_where_nothing_is(world: World) -> None:
    one = await daily(world)
    first, after = today()
    await work(one)
    assert await told(one) == [("SCHEDULED", after - first, 0)]
    [meter] = await one.rows(MeterFeed)
    assert timedelta() < meter.due_at - clock.now() <= timedelta(hours=25)
    await due(one)
    await work(one)
    assert len(one.source.asked) == 2
    assert await told(one) == [("SCHEDULED", after - first, 0)]
    assert {window.end for _, window in one.source.asked} == {
        clock.start_of_uk_day(clock.uk_date(clock.now()))
    }


async def test_a_fetch_that_also_corrects_tells_of_both_and_keeps_the_old_values(world: World) -> None:
    first, after = today()
    one = await daily(world, changing({}, until=after - 48))
    await work(one)
    one.source.answer = changing({first + 5: (7_000_000, False), first + 6: (8_000_000, False)})
    await due(one)
    await work(one)
    assert await told(one) == [
        ("SCHEDULED", after - first - 48, 0),
        ("SCHEDULED", 48, 0),
        ("CORRECTION", 2, 0),
    ]
    revisions = (await shown(one))["revisions"]["nodes"]
    assert sorted(node["startAt"] for node in revisions) == [
        clock.format_utc(at(first + 5)),
        clock.format_utc(at(first + 6)),
    ]
    assert {node["reason"] for node in revisions} == {"SCHEDULED"}


async def test_an_actual_value_corrects_an_estimated_one_and_never_the_reverse(world: World) -> None:
    first, after = today()
    one = await daily(world, changing({first: (1_000, True), first + 1: (2_000, True)}))
    await work(one)
    assert await told(one) == [("SCHEDULED", after - first, 2)]
    # One is confirmed as it was estimated, one stays estimated with another value, and an actual one is estimated.
    one.source.answer = changing({first: (1_000, False), first + 1: (3_000, True), first + 2: (4_000, True)})
    await due(one)
    await work(one)
    assert (await told(one))[1:] == [("CORRECTION", 2, 1)]
    one.source.answer = changing({first + 1: (3_000, True), first + 2: (4_000, True)}, insists=True)
    await due(one)
    await work(one)
    # The first is given its plain value, by which the last correction is corrected.
    expected = 1 if amount(first) == 1_000 else 2
    assert (await told(one))[2:] == [("CORRECTION", expected, 1)]


async def test_a_backfill_over_existing_readings_tells_of_its_part_once(world: World) -> None:
    one = await daily(world)
    await work(one)
    first, _ = today()
    one.source.answer = changing({first: (9_000_000, False)})
    one.source.answer = everything
    await one.begin()
    await work(one)
    backfilled = [event for event in await one.told() if event["reason"] == "BACKFILL"]
    assert [event["part"] for event in backfilled] == list(range(1, 14))
    assert {event["reason"] for event in await one.told()} == {"SCHEDULED", "BACKFILL"}


def without(holes: list[tuple[int, int]], said: list[MissingPeriod] | None = None) -> Any:
    def answer(_: FetchedMeter, window: Window) -> Fetched:
        first, after = span_of(window)
        starts = [one for one in range(first, after) if not any(low <= one < high for low, high in holes)]
        columns = Columns(starts, [amount(one) for one in starts], [False] * len(starts))
        return Fetched({ReadingChannel.IMPORT: columns}, missing=said or ())

    return answer


async def test_missing_half_hours_are_asked_for_again_until_the_source_has_them(world: World) -> None:
    first, after = today()
    said, silent = (first + 10, first + 20), (first + 100, first + 104)
    one = await daily(world, without([said, silent], [missing(*said, "The meter was not reached.")]))
    await work(one)
    found = (await shown(one))["coverage"]
    assert (found["expected"], found["missing"], found["complete"]) == (after - first, 14, False)
    assert found["gaps"] == [
        {
            "from": clock.format_utc(at(low)),
            "to": clock.format_utc(at(high)),
            "halfHours": high - low,
            "cause": cause,
        }
        for (low, high), cause in ((said, "The meter was not reached."), (silent, None))
    ]
    [meter], gaps = await one.rows(MeterFeed), await one.rows(FeedGap)
    assert meter.repair_at == min(gap.due_at for gap in gaps)
    assert timedelta(minutes=45) < meter.repair_at - clock.now() < timedelta(minutes=75)
    one.source.answer = without([silent])
    await one.make_due()
    await due(one)
    async with world.database.transaction() as session:
        await session.execute(update(MeterFeed).values(due_at=None))
    await work(one)
    assert await told(one) == [("SCHEDULED", after - first - 14, 0), ("GAP_REPAIR", 10, 0)]
    [gap] = await one.rows(FeedGap)
    assert (gap.first, gap.after, gap.tries) == (*silent, 1)
    assert gap.due_at - clock.now() > timedelta(hours=4)
    assert span_of(one.source.asked[-1][1]) == (said[0], silent[1])
    one.source.answer = everything
    await one.make_due()
    await work(one)
    assert (await told(one))[-1] == ("GAP_REPAIR", 4, 0)
    [meter] = await one.rows(MeterFeed)
    assert (await one.rows(FeedGap), meter.repair_at) == ([], None)
    assert (await shown(one))["coverage"]["complete"]


async def test_a_gap_that_another_way_fills_is_gone(world: World) -> None:
    first, _ = today()
    hole = (first + 10, first + 12)
    one = await daily(world, without([hole], [missing(*hole, "Lost.")]))
    await work(one)
    pushed = [
        {"startAt": clock.format_utc(at(half_hour)), "consumption": "0.5"} for half_hour in range(*hole)
    ]
    await run(world, one.account, RECORD, meterId=one.meters[0], readings=pushed)
    assert (await shown(one))["coverage"]["gaps"] == []
    await one.make_due()
    await work(one)
    assert await one.rows(FeedGap) == []
    # Half-hours that the source does not have stay as they were pushed.
    assert (await told(one))[-1] == ("PUSH", 2, 0)


async def test_a_gap_stays_with_its_cause_after_thirty_days(world: World) -> None:
    first, _ = today()
    hole = (first + 10, first + 12)
    one = await daily(world, without([hole], [missing(*hole, "Lost.")]))
    await work(one)
    async with world.database.transaction() as session:
        await session.execute(update(FeedGap).values(found_at=clock.now() - timedelta(days=31)))
    await one.make_due()
    await work(one)
    [gap], [meter] = await one.rows(FeedGap), await one.rows(MeterFeed)
    assert (gap.due_at, meter.repair_at) == (None, None)
    assert [found["cause"] for found in (await shown(one))["coverage"]["gaps"]] == ["Lost."]


async def test_a_backfill_with_gaps_says_so_and_counts_them(world: World) -> None:
    window = daily_window(clock.now())
    _, after = span_of(window)
    hole = (after - 200, after - 190)
    one = await fed(world, answer=without([hole]))
    await one.begin()
    await work(one)
    [ended] = await one.told("backfill.completed")
    assert (ended["status"], ended["missing"]) == ("COMPLETE_WITH_GAPS", 10)
    assert [part.status for part in await one.rows(BackfillPart)] == ["COMPLETE_WITH_GAPS"] + [
        "COMPLETE"
    ] * 12
    [backfill] = await one.rows(Backfill)
    assert backfill.status == "COMPLETE_WITH_GAPS"


async def test_a_source_without_any_reading_leaves_a_gap_of_all(world: World) -> None:
    one = await daily(world, lambda *_: Fetched({}))
    first, after = today()
    await work(one)
    assert await told(one) == []
    [gap] = await one.rows(FeedGap)
    assert (gap.channel, gap.first, gap.after, gap.cause) == (0, first, after, None)


async def test_channels_are_told_of_and_counted_apart(world: World) -> None:
    first, after = today()

    def both(_: FetchedMeter, window: Window) -> Fetched:
        span = span_of(window)
        return Fetched(
            {
                ReadingChannel.IMPORT: readings(*span),
                ReadingChannel.EXPORT: readings(span[0], span[1] - 5, estimated=True),
            }
        )

    one = await daily(world, both)
    await work(one)
    assert [(event["channel"], event["intervalCount"]) for event in await one.told()] == [
        ("IMPORT", after - first),
        ("EXPORT", after - first - 5),
    ]
    [gap] = await one.rows(FeedGap)
    assert (gap.channel, gap.first, gap.after) == (ReadingChannel.EXPORT.code, after - 5, after)


async def test_a_channel_that_the_source_tells_nothing_of_any_more_is_given_up_in_the_end(
    world: World,
) -> None:
    _, after = today()

    def both(_: FetchedMeter, window: Window) -> Fetched:
        span = span_of(window)
        export = readings(span[0], span[1] - 5)
        return Fetched({ReadingChannel.IMPORT: readings(*span), ReadingChannel.EXPORT: export})

    one = await daily(world, both)
    await work(one)
    one.source.answer = everything
    async with world.database.transaction() as session:
        await session.execute(update(FeedGap).values(found_at=clock.now() - timedelta(days=31)))
    await one.make_due()
    await work(one)
    [gap], [meter] = await one.rows(FeedGap), await one.rows(MeterFeed)
    assert (gap.channel, gap.first, gap.after) == (ReadingChannel.EXPORT.code, after - 5, after)
    assert (gap.tries, gap.due_at, meter.repair_at) == (1, None, None)


async def test_a_meter_without_a_valid_consent_is_not_asked_for(world: World) -> None:
    one = await daily(world)
    revoke = mutation("revokeHostedConsent", "hostedConsent { id }")
    await run(world, one.account, revoke, hostedConsentId=one.consent_id)
    await due(one)
    await work(one)
    assert one.source.asked == []
    [meter] = await one.rows(MeterFeed)
    assert (meter.due_at, meter.repair_at) == (None, None)


async def test_a_part_that_fails_for_days_is_a_gap_that_is_asked_for_again(world: World) -> None:
    def fail(_: FetchedMeter, __: Window) -> Fetched:
        raise SourceFailure(Meaning.RETRY, "The source answered 500; it is asked again.")

    one = await fed(world, residential=False, answer=fail)
    await one.begin()
    [part] = await one.rows(BackfillPart)
    first, after = span_of(Window(part.starts_at, part.ends_at))
    # Every other half-hour of some days is there already.
    pushed = [
        {"startAt": clock.format_utc(at(half_hour)), "consumption": "0.5"}
        for half_hour in range(first, first + 2 * SLOTS * 5, 2)
    ]
    await run(world, one.account, RECORD, meterId=one.meters[0], readings=pushed)
    async with world.database.transaction() as session:
        await session.execute(update(BackfillPart).values(attempts=len(RETRY_PAUSES)))
    await work(one)
    [part], [meter] = await one.rows(BackfillPart), await one.rows(MeterFeed)
    assert (part.status, part.missing) == ("FAILED", after - first - len(pushed))
    gaps = await one.rows(FeedGap)
    assert 0 < len(gaps) <= MOST_RUNS < len(pushed)
    assert {gap.cause for gap in gaps} == {"The source answered 500; it is asked again."}
    # No part was ever recorded, and still the meter is fetched from now on.
    assert meter.due_at is not None
    assert meter.repair_at == min(gap.due_at for gap in gaps)
    one.source.answer = everything
    while await one.rows(FeedGap):
        await one.make_due()
        await work(one)
    assert sum(event["intervalCount"] for event in await one.told() if event["reason"] == "GAP_REPAIR") > 0
