"""N3RGY against its stand-in, in every scenario: what arrives is exactly what the household used."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from app.core.decimals import MICRO
from app.feeds.failures import Meaning
from app.feeds.n3rgy.kind import N3RGY
from app.feeds.n3rgy.stand_in import N3rgyStandIn
from app.feeds.source import FetchedMeter, Window
from app.feeds.stand_ins.households import SLOTS, half_hour
from app.feeds.stand_ins.scenarios import COMPLETE, SCENARIOS
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from tests.feeds.asking import DAY, NOW, YEAR, Asking, asking, causes, fails, listed

IMPORT, EXPORT = ReadingChannel.IMPORT, ReadingChannel.EXPORT


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Asking]:
    async with asking(N3RGY, N3rgyStandIn(now=NOW, neighbours=250)) as place:
        yield place


@pytest.fixture
async def n3rgy(running: Asking) -> AsyncIterator[Asking]:
    """A stand-in that plays `complete`, and has refused nothing at the end."""
    running.stand_in.play(COMPLETE)
    running.stand_in.clock.is_settled = False
    running.stand_in.forget()
    yield running
    assert running.stand_in.counts.refused == []


async def test_thirteen_months_are_those_of_the_household(n3rgy: Asking) -> None:
    found = await n3rgy.source().fetch(n3rgy.meter("9999999999999"), YEAR)
    assert found.readings == {IMPORT: n3rgy.stand_in.truth("9999999999999", YEAR)}
    assert len(found.readings[IMPORT].starts) == half_hour(YEAR.end) - half_hour(YEAR.start)
    assert (list(found.missing), found.starts_at) == ([], None)
    assert len(n3rgy.stand_in.counts.matching("/readingtype/consumption")) == 5


async def test_a_window_of_the_longest_request_takes_one(n3rgy: Asking) -> None:
    source, meter = n3rgy.source(), n3rgy.meter("9999999999999")
    for days, count in ((89, 1), (90, 2)):
        n3rgy.stand_in.forget()
        window = Window(DAY.end - timedelta(days=days), DAY.end)
        found = await source.fetch(meter, window)
        assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, window)}
        assert len(n3rgy.stand_in.counts.matching("/readingtype/")) == count


async def test_ends_of_half_hours_are_asked_for(n3rgy: Asking) -> None:
    await n3rgy.source().fetch(n3rgy.meter("Home"), DAY)
    (asked,) = n3rgy.stand_in.counts.matching("/readingtype/")
    assert "start=202604132330&end=202604142300&granularity=halfhour&outputFormat=json" in asked.target


async def test_a_day_of_utc_is_from_half_past_midnight_to_24_00(n3rgy: Asking) -> None:
    window = Window(datetime(2026, 1, 10, tzinfo=UTC), datetime(2026, 1, 11, tzinfo=UTC))
    meter = n3rgy.meter("Home")
    found = await n3rgy.source().fetch(meter, window)
    assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, window)}
    assert len(found.readings[IMPORT].starts) == SLOTS


@pytest.mark.parametrize(("month", "day", "count"), [(3, 29, 46), (10, 26, 50)])
async def test_days_on_which_the_clocks_change(n3rgy: Asking, month: int, day: int, count: int) -> None:
    n3rgy.stand_in.play(SCENARIOS["clock-change"])
    year = 2026 if month == 3 else 2025
    start = datetime(year, month, day, tzinfo=UTC) - timedelta(hours=0 if month == 3 else 1)
    window = Window(start, start + timedelta(hours=count / 2))
    found = await n3rgy.source().fetch(n3rgy.meter("Home"), window)
    assert found.readings == {IMPORT: n3rgy.stand_in.truth(n3rgy.meter("Home").number, window)}
    assert len(found.readings[IMPORT].starts) == count


@pytest.mark.parametrize("label", ["Gas in m³", "Gas in kWh"])
async def test_gas_is_converted_by_the_unit_of_the_answer(n3rgy: Asking, label: str) -> None:
    meter = n3rgy.meter(label)
    found = await n3rgy.source().fetch(meter, YEAR)
    assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, YEAR)}
    assert 3_000 * MICRO < sum(found.readings[IMPORT].amounts) < 20_000 * MICRO


async def test_exports_are_fetched_beside_imports(n3rgy: Asking) -> None:
    meter = n3rgy.meter("Home with solar panels")
    found = await n3rgy.source().fetch(meter, YEAR)
    assert found.readings == {
        channel: n3rgy.stand_in.truth(meter.number, YEAR, channel) for channel in (IMPORT, EXPORT)
    }


async def test_missing_half_hours_have_the_reason_of_the_source(n3rgy: Asking) -> None:
    meter = n3rgy.meter("2400000000013")
    found = await n3rgy.source().fetch(meter, YEAR)
    truth = n3rgy.stand_in.truth(meter.number, YEAR)
    assert found.readings == {IMPORT: truth}
    assert sorted(causes(found)) == [
        "The source gave 4294967.295 for this half-hour, which stands for no value.",
        "n3rgy says: invalid value.",
        "n3rgy says: value not available in SMSO.",
    ]
    missing = [at for one in found.missing for at in range(half_hour(one.start), half_hour(one.end))]
    assert sorted([*truth.starts, *missing]) == list(range(half_hour(YEAR.start), half_hour(YEAR.end)))


@pytest.mark.parametrize("scenario", ["late", "estimated"])
async def test_late_and_estimated_days_are_right_in_the_end(n3rgy: Asking, scenario: str) -> None:
    n3rgy.stand_in.play(SCENARIOS[scenario])
    meter, week = n3rgy.meter("Home"), Window(DAY.end - timedelta(days=7), DAY.end)
    source = n3rgy.source()
    early = await source.fetch(meter, week)
    assert early.readings[IMPORT].amounts == n3rgy.stand_in.truth(meter.number, week).amounts
    n3rgy.stand_in.settle()
    found = await source.fetch(meter, week)
    assert found.readings == {IMPORT: n3rgy.stand_in.meters[meter.number].household.truth(week)}
    assert found.readings != early.readings


async def test_the_devices_of_an_exchange_are_joined(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["exchange"])
    meter = n3rgy.meter("Home")
    found = await n3rgy.source().fetch(meter, YEAR)
    assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, YEAR)}
    assert len(found.readings[IMPORT].starts) == half_hour(YEAR.end) - half_hour(YEAR.start) - 2


async def test_half_hours_before_the_cache_are_missing_and_say_so(n3rgy: Asking) -> None:
    meter = n3rgy.meter("Home of new tenants")
    found = await n3rgy.source().fetch(meter, YEAR)
    begun = n3rgy.stand_in.meters[meter.number].moved_in_at
    assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, YEAR)}
    assert found.starts_at is None
    assert {(found.missing[0].start, found.missing[-1].end)} == {(YEAR.start, begun)}
    assert causes(found) == ["n3rgy holds readings of this meter from 15 November 2025 on."]


async def test_refused_credentials_are_the_feeds_affair(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["expired"])
    source = n3rgy.source()
    for asked in (source.discover(), source.fetch(n3rgy.meter("Home"), DAY)):
        failure = await fails(asked)
        assert (failure.meaning, "updateFeed" in failure.message) == (Meaning.FEED, True)


async def test_a_consent_that_ended_there_is_the_meters_affair(n3rgy: Asking) -> None:
    source = n3rgy.source()
    failure = await fails(source.fetch(n3rgy.meter("2400000000022"), DAY))
    assert failure.meaning is Meaning.METER
    assert failure.message == (
        "n3rgy has no consent of the customer for this meter (403): add one there. "
        "It says: Consent for the given MPxN not found."
    )
    n3rgy.stand_in.play(SCENARIOS["revoked"])
    assert (await fails(n3rgy.source().fetch(n3rgy.meter("Home"), DAY))).meaning is Meaning.METER
    assert (await source.fetch(n3rgy.meter("9999999999999"), DAY)).readings


async def test_an_unknown_meter_is_the_meters_affair(n3rgy: Asking) -> None:
    source = n3rgy.source()
    for number, kind in (("1312345678907", MeterType.ELECTRICITY), ("9999999999999", MeterType.GAS)):
        failure = await fails(source.fetch(FetchedMeter(number, kind), DAY))
        assert (failure.meaning, "404" in failure.message) == (Meaning.METER, True)


async def test_a_slow_source_is_waited_for(n3rgy: Asking) -> None:
    meter = n3rgy.meter("2400000000031")
    assert (await n3rgy.source().fetch(meter, DAY)).readings == {
        IMPORT: n3rgy.stand_in.truth(meter.number, DAY)
    }


async def test_a_flaky_source_is_right_once_it_answers(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["flaky"])
    source, meter = n3rgy.source(), n3rgy.meter("Home")
    meanings = []
    for _ in range(12):
        try:
            found = await source.fetch(meter, DAY)
        except Exception as failure:  # it is a SourceFailure, as the next line sees
            meanings.append(failure.meaning)  # type: ignore[attr-defined]
        else:
            assert found.readings == {IMPORT: n3rgy.stand_in.truth(meter.number, DAY)}
    assert meanings == [Meaning.RETRY] * 3


async def test_a_quota_asks_for_a_pause_without_saying_how_long(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["quota"])
    source, meter = n3rgy.source(), n3rgy.meter("Home")
    for _ in range(4):
        await source.fetch(meter, DAY)
    failure = await fails(source.fetch(meter, DAY))
    assert (failure.meaning, failure.retry_after) == (Meaning.WAIT, None)


async def test_a_meter_that_has_never_sent_anything_has_nothing(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["empty"])
    found = await n3rgy.source().fetch(n3rgy.meter("Home"), DAY)
    assert (found.readings, list(found.missing)) == ({}, [])


async def test_values_in_another_unit_are_noticed(n3rgy: Asking) -> None:
    n3rgy.stand_in.play(SCENARIOS["wrong-unit"])
    found = await n3rgy.source().fetch(n3rgy.meter("Home"), YEAR)
    assert causes(found)
    assert all("another unit" in cause for cause in causes(found))


async def test_rubbish_is_asked_for_again(n3rgy: Asking) -> None:
    failure = await fails(n3rgy.source().fetch(n3rgy.meter("2400000000050"), DAY))
    assert (failure.meaning, "cannot be read" in failure.message) == (Meaning.RETRY, True)


async def test_all_pages_of_the_list_are_discovered(n3rgy: Asking) -> None:
    meters = listed(await n3rgy.source().discover())
    assert meters == [
        (number, meter.household.type.name, "IMPORT")
        for number, meter in n3rgy.stand_in.meters.items()
        if not meter.scenario.is_revoked
    ]
    assert len(n3rgy.stand_in.counts.newest) == 3


async def test_nothing_of_days_to_come_is_asked_for(n3rgy: Asking) -> None:
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    window = Window(tomorrow, tomorrow + timedelta(days=2))
    found = await n3rgy.source().fetch(n3rgy.meter("Home"), window)
    assert (found.readings, n3rgy.stand_in.counts.total) == ({}, 0)


def test_amounts_of_the_truth_are_columns() -> None:
    assert isinstance(N3rgyStandIn(now=NOW).truth("9999999999999", DAY), Columns)
