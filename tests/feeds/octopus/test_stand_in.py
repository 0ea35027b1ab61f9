"""OCTOPUS against its stand-in, in every scenario: what arrives is exactly what the household used."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from app.core.decimals import MICRO
from app.feeds.failures import Meaning
from app.feeds.octopus.kind import OCTOPUS
from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.source import FetchedMeter, Window
from app.feeds.stand_ins.households import SLOTS, half_hour
from app.feeds.stand_ins.scenarios import COMPLETE, SCENARIOS, TEST_METERS
from app.meters.enums import MeterType
from app.readings.enums import ReadingChannel
from tests.feeds.asking import DAY, NOW, YEAR, Asking, asking, causes, fails, listed

IMPORT, EXPORT = ReadingChannel.IMPORT, ReadingChannel.EXPORT


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Asking]:
    async with asking(OCTOPUS, OctopusStandIn(now=NOW)) as place:
        yield place


@pytest.fixture
async def octopus(running: Asking) -> AsyncIterator[Asking]:
    """A stand-in that plays `complete`, and has refused nothing at the end."""
    running.stand_in.play(COMPLETE)
    running.stand_in.clock.is_settled = False
    running.stand_in.forget()
    yield running
    assert running.stand_in.counts.refused == []


async def test_thirteen_months_are_those_of_the_household(octopus: Asking) -> None:
    found = await octopus.source().fetch(octopus.meter("9999999999999"), YEAR)
    assert found.readings == {IMPORT: octopus.stand_in.truth("9999999999999", YEAR)}
    assert len(found.readings[IMPORT].starts) == half_hour(YEAR.end) - half_hour(YEAR.start)
    assert (list(found.missing), found.insists) == ([], False)
    assert found.starts_at == octopus.stand_in.meters["9999999999999"].moved_in_at
    asked = octopus.stand_in.counts.matching("/consumption/")
    assert [one.target.rpartition("page=")[2] for one in asked[1:]] == ["2", "3", "4"]
    assert len(asked) == 4


async def test_a_day_takes_one_request_once_the_account_is_known(octopus: Asking) -> None:
    source, meter = octopus.source(), octopus.meter("9999999999998")
    await source.fetch(meter, DAY)
    found = await source.fetch(meter, DAY)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, DAY)}
    assert len(found.readings[IMPORT].starts) == SLOTS
    assert [one.status for one in octopus.stand_in.counts.newest] == [200] * 3


@pytest.mark.parametrize(("month", "day", "count"), [(3, 29, 46), (10, 26, 50)])
async def test_days_on_which_the_clocks_change(octopus: Asking, month: int, day: int, count: int) -> None:
    octopus.stand_in.play(SCENARIOS["clock-change"])
    year = 2026 if month == 3 else 2025
    start = datetime(year, month, day, tzinfo=UTC) - timedelta(hours=0 if month == 3 else 1)
    window = Window(start, start + timedelta(hours=count / 2))
    found = await octopus.source().fetch(octopus.meter("Home"), window)
    assert found.readings == {IMPORT: octopus.stand_in.truth(octopus.meter("Home").number, window)}
    assert len(found.readings[IMPORT].starts) == count


@pytest.mark.parametrize("label", ["Gas in m³", "Gas in kWh"])
async def test_gas_is_converted_by_its_unit(octopus: Asking, label: str) -> None:
    meter = octopus.meter(label)
    found = await octopus.source().fetch(meter, YEAR)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, YEAR)}
    assert 3_000 * MICRO < sum(found.readings[IMPORT].amounts) < 20_000 * MICRO


async def test_the_calorific_value_of_gas_can_be_given(octopus: Asking) -> None:
    meter = octopus.meter("Gas in m³")
    usual = await octopus.source().fetch(meter, DAY)
    given = await octopus.source().fetch(
        FetchedMeter(meter.number, meter.type, {"calorificValue": "40"}), DAY
    )
    used = octopus.stand_in.meters[meter.number].household.amounts(half_hour(DAY.start), half_hour(DAY.end))
    # m³ × 1.02264 × 40 / 3.6, rounded half up.
    assert given.readings[IMPORT].amounts == [
        (2 * amount * 102264 * 40 + 360_000) // 720_000 for amount in used
    ]
    assert given.readings[IMPORT].amounts != usual.readings[IMPORT].amounts


async def test_an_export_point_has_exports_alone(octopus: Asking) -> None:
    number = octopus.stand_in.meter("Home with solar panels").export_number
    found = await octopus.source().fetch(FetchedMeter(number, MeterType.ELECTRICITY), YEAR)
    assert found.readings == {EXPORT: octopus.stand_in.truth(number, YEAR)}


async def test_nothing_is_asked_for_from_before_the_move_in(octopus: Asking) -> None:
    meter = octopus.meter("Home of new tenants")
    moved_in = octopus.stand_in.meters[meter.number].moved_in_at
    found = await octopus.source().fetch(meter, YEAR)
    assert found.starts_at == moved_in
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, Window(moved_in, YEAR.end))}
    asked = octopus.stand_in.counts.matching("/consumption/")[0].target
    assert f"period_from={moved_in:%Y-%m-%dT%H}%3A{moved_in:%M}" in asked
    octopus.stand_in.forget()
    before = Window(YEAR.start, YEAR.start + timedelta(days=30))
    assert not (await octopus.source().fetch(meter, before)).readings
    assert octopus.stand_in.counts.matching("/consumption/") == []


async def test_nothing_is_asked_for_from_after_the_move_out(octopus: Asking) -> None:
    meter, left = octopus.meter("Home"), datetime(2026, 2, 28, 12, 10, tzinfo=UTC)
    octopus.stand_in.move_out(meter.number, left)
    found = await octopus.source().fetch(meter, YEAR)
    last = left.replace(minute=0)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, Window(YEAR.start, last))}
    assert [(one.start, one.end, one.cause) for one in found.missing] == [
        (last, YEAR.end, "Octopus says that the customer moved out on 28 February 2026."),
    ]
    octopus.stand_in.forget()
    later = await octopus.source().fetch(meter, DAY)
    assert (later.readings, [(one.start, one.end) for one in later.missing]) == ({}, [tuple(DAY)])
    assert octopus.stand_in.counts.matching("/consumption/") == []
    assert meter.number not in {number for number, _, _ in listed(await octopus.source().discover())}


async def test_missing_half_hours_are_left_out(octopus: Asking) -> None:
    meter = octopus.meter("2400000000013")
    found = await octopus.source().fetch(meter, YEAR)
    truth = octopus.stand_in.truth(meter.number, YEAR)
    assert found.readings == {IMPORT: truth}
    assert 17_000 < len(truth.starts) < half_hour(YEAR.end) - half_hour(YEAR.start) - 700
    assert list(found.missing) == []


@pytest.mark.parametrize("scenario", ["late", "estimated"])
async def test_late_and_estimated_days_are_right_in_the_end(octopus: Asking, scenario: str) -> None:
    octopus.stand_in.play(SCENARIOS[scenario])
    meter, week = octopus.meter("Home"), Window(DAY.end - timedelta(days=7), DAY.end)
    source = octopus.source()
    early = await source.fetch(meter, week)
    assert early.readings[IMPORT].amounts == octopus.stand_in.truth(meter.number, week).amounts
    octopus.stand_in.settle()
    found = await source.fetch(meter, week)
    assert found.readings == {IMPORT: octopus.stand_in.meters[meter.number].household.truth(week)}
    assert found.readings != early.readings


async def test_the_histories_of_both_meters_of_an_exchange_are_joined(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["exchange"])
    meter = octopus.meter("Home")
    found = await octopus.source().fetch(meter, YEAR)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, YEAR)}
    assert len(found.readings[IMPORT].starts) == half_hour(YEAR.end) - half_hour(YEAR.start) - 2
    serials = {one.target.split("/")[5] for one in octopus.stand_in.counts.matching("/consumption/")}
    assert serials == {serial.number for serial in octopus.stand_in.meters[meter.number].serials}


async def test_refused_credentials_are_the_feeds_affair(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["expired"])
    for settings in (None, {}):
        source = octopus.source(settings)
        for asked in (source.discover(), source.fetch(octopus.meter("Home"), DAY)):
            failure = await fails(asked)
            assert failure.meaning is Meaning.FEED
            assert "updateFeed" in failure.message


async def test_a_meter_that_is_no_longer_shown_is_the_meters_affair(octopus: Asking) -> None:
    source = octopus.source()
    failure = await fails(source.fetch(octopus.meter("2400000000022"), DAY))
    assert (failure.meaning, "403" in failure.message) == (Meaning.METER, True)
    octopus.stand_in.play(SCENARIOS["revoked"])
    assert (await fails(source.fetch(octopus.meter("Home"), DAY))).meaning is Meaning.METER
    assert (await source.fetch(octopus.meter("9999999999999"), DAY)).readings


async def test_a_meter_of_another_account_is_the_meters_affair(octopus: Asking) -> None:
    source = octopus.source()
    for number, kind in (("1312345678907", MeterType.ELECTRICITY), ("9999999999999", MeterType.GAS)):
        failure = await fails(source.fetch(FetchedMeter(number, kind), DAY))
        assert (failure.meaning, "checkFeed" in failure.message) == (Meaning.METER, True)


async def test_an_unknown_account_is_the_feeds_affair(octopus: Asking) -> None:
    failure = await fails(octopus.source({"accountNumber": "A-00000000"}).discover())
    assert (failure.meaning, "settings.accountNumber" in failure.message) == (Meaning.FEED, True)


async def test_a_serial_number_that_the_source_has_forgotten_does_no_harm(octopus: Asking) -> None:
    meter = octopus.meter("Home")
    more = FetchedMeter(meter.number, meter.type, {"serialNumbers": "19K0000001, 18-A 2"})
    found = await octopus.source().fetch(more, DAY)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, DAY)}
    asked = [one.target for one in octopus.stand_in.counts.newest if one.status == 404]
    assert [target.split("/meters/")[1].split("/consumption")[0] for target in asked] == [
        "19K0000001", "18-A 2",
    ]  # fmt: skip


async def test_a_slow_source_is_waited_for(octopus: Asking) -> None:
    meter = octopus.meter("2400000000031")
    found = await octopus.source().fetch(meter, DAY)
    assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, DAY)}


async def test_a_flaky_source_is_right_once_it_answers(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["flaky"])
    source, meter = octopus.source(), octopus.meter("Home")
    meanings = []
    for _ in range(12):
        try:
            found = await source.fetch(meter, DAY)
        except Exception as failure:  # it is a SourceFailure, as the next line sees
            meanings.append(failure.meaning)  # type: ignore[attr-defined]
        else:
            assert found.readings == {IMPORT: octopus.stand_in.truth(meter.number, DAY)}
    assert meanings == [Meaning.RETRY] * 3


async def test_a_quota_asks_for_a_pause(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["quota"])
    source, meter = octopus.source(), octopus.meter("Home")
    for _ in range(4):
        await source.fetch(meter, DAY)
    failure = await fails(source.fetch(meter, DAY))
    assert (failure.meaning, failure.retry_after) == (Meaning.WAIT, 2.0)


async def test_a_meter_that_is_not_smart_has_nothing_and_says_so(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["empty"])
    found = await octopus.source().fetch(octopus.meter("Home"), DAY)
    assert found.readings == {}
    assert [(one.channel, one.start, one.end) for one in found.missing] == [(IMPORT, *DAY)]
    assert "not smart" in causes(found)[0]


async def test_values_in_another_unit_are_noticed(octopus: Asking) -> None:
    octopus.stand_in.play(SCENARIOS["wrong-unit"])
    for label in ("Home", "Gas in m³"):
        meter = octopus.meter(label)
        found = await octopus.source().fetch(meter, YEAR)
        assert causes(found)
        assert all("another unit" in cause for cause in causes(found))
        stored = found.readings[IMPORT].amounts if found.readings else [0]
        assert max(stored) <= 400 * MICRO


async def test_rubbish_is_asked_for_again(octopus: Asking) -> None:
    failure = await fails(octopus.source().fetch(octopus.meter("2400000000050"), DAY))
    assert (failure.meaning, "cannot be read" in failure.message) == (Meaning.RETRY, True)


async def test_all_points_of_the_account_are_discovered(octopus: Asking) -> None:
    export = octopus.stand_in.meter("Home with solar panels").export_number
    for settings in (None, {}):
        meters = listed(await octopus.source(settings).discover())
        assert set(meters) == {
            *(
                (number, meter.household.type.name, "IMPORT")
                for number, meter in octopus.stand_in.meters.items()
            ),
            (export, "ELECTRICITY", "EXPORT"),
        }
        assert len(meters) == len(TEST_METERS) + 5 + 1
