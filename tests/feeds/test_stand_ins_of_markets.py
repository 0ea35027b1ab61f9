"""PERSE, ELECTRALINK and GLOWMARKT against their stand-ins, in every scenario: what arrives is what was used."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.core.decimals import MICRO
from app.feeds.electralink.kind import ELECTRALINK
from app.feeds.electralink.stand_in import ElectralinkStandIn
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.glowmarkt.kind import GLOWMARKT
from app.feeds.glowmarkt.stand_in import GlowmarktStandIn
from app.feeds.perse.kind import PERSE
from app.feeds.perse.stand_in import PerseStandIn
from app.feeds.source import FetchedMeter, Window
from app.feeds.stand_ins.households import half_hour
from app.feeds.stand_ins.scenarios import COMPLETE, SCENARIOS
from app.meters.enums import MeterType
from app.readings.enums import ReadingChannel
from tests.feeds.asking import DAY, NOW, YEAR, Asking, asking, causes, fails, listed

IMPORT, EXPORT = ReadingChannel.IMPORT, ReadingChannel.EXPORT
WEEK = Window(DAY.end - timedelta(days=7), DAY.end)
WHOLE_YEAR = half_hour(YEAR.end) - half_hour(YEAR.start)
PLACES = ((PERSE, PerseStandIn), (ELECTRALINK, ElectralinkStandIn), (GLOWMARKT, GlowmarktStandIn))


@pytest.fixture(scope="module", params=PLACES, ids=[kind.kind.name for kind, _ in PLACES])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Asking]:
    kind, stand_in = request.param
    async with asking(kind, stand_in(now=NOW)) as place:
        yield place


@pytest.fixture
async def place(running: Asking) -> AsyncIterator[Asking]:
    """A stand-in that plays `complete`, and has refused nothing at the end."""
    running.stand_in.play(COMPLETE)
    running.stand_in.clock.is_settled = False
    running.stand_in.forget()
    yield running
    assert running.stand_in.counts.refused == []


def truths(place: Asking, number: str, window: Window) -> dict[ReadingChannel, Any]:
    found = {channel: place.stand_in.truth(number, window, channel) for channel in ReadingChannel}
    return {channel: columns for channel, columns in found.items() if columns.starts}


async def test_thirteen_months_are_those_of_the_household(place: Asking) -> None:
    meter = place.meter("9999999999999")
    found = await place.source().fetch(meter, YEAR)
    assert found.readings == {IMPORT: place.stand_in.meters[meter.number].household.truth(YEAR)}
    assert len(found.readings[IMPORT].starts) == WHOLE_YEAR
    assert list(found.missing) == []
    asked = place.stand_in.counts.total
    assert asked == (1 if place.kind is not GLOWMARKT else 4 + 40)


@pytest.mark.parametrize(("month", "day", "count"), [(3, 29, 46), (10, 26, 50)])
async def test_days_on_which_the_clocks_change(place: Asking, month: int, day: int, count: int) -> None:
    place.stand_in.play(SCENARIOS["clock-change"])
    start = datetime(2026 if month == 3 else 2025, month, day, tzinfo=UTC) - timedelta(hours=month == 10)
    window = Window(start, start + timedelta(hours=count / 2))
    meter = place.meter("Home")
    found = await place.source().fetch(meter, window)
    assert found.readings == truths(place, meter.number, window)
    assert len(found.readings[IMPORT].starts) == count


async def test_export(place: Asking) -> None:
    meter = place.meter("Home with solar panels")
    found = await place.source().fetch(meter, WEEK)
    assert found.readings == truths(place, meter.number, WEEK)
    assert set(found.readings) == ({IMPORT} if place.kind is PERSE else {IMPORT, EXPORT})


@pytest.mark.parametrize("label", ["Gas in m³", "Gas in kWh"])
async def test_gas(place: Asking, label: str) -> None:
    meter = place.meter(label)
    if place.kind is not GLOWMARKT:
        assert (await fails(place.source().fetch(meter, DAY))).meaning is Meaning.METER
        return
    assert (await place.source().fetch(meter, WEEK)).readings == truths(place, meter.number, WEEK)


async def test_gaps_are_told(place: Asking) -> None:
    meter = place.meter("2400000000013")
    found = await place.source().fetch(meter, YEAR)
    assert found.readings == truths(place, meter.number, YEAR)
    present = len(found.readings[IMPORT].starts)
    assert 17_000 < present < WHOLE_YEAR - 700
    assert sum(half_hour(one.end) - half_hour(one.start) for one in found.missing) == WHOLE_YEAR - present
    assert "The source has no value for this half-hour." in causes(found)


@pytest.mark.parametrize("scenario", ["late", "estimated"])
async def test_late_and_estimated_days_are_right_in_the_end(place: Asking, scenario: str) -> None:
    place.stand_in.play(SCENARIOS[scenario])
    meter, source = place.meter("Home"), place.source()
    early = await source.fetch(meter, WEEK)
    assert early.readings == truths(place, meter.number, WEEK)
    flagged = 3 * 48 if scenario == "estimated" and place.kind is not GLOWMARKT else 0
    assert sum(early.readings[IMPORT].estimated) == flagged
    place.stand_in.settle()
    found = await source.fetch(meter, WEEK)
    assert found.readings == {IMPORT: place.stand_in.meters[meter.number].household.truth(WEEK)}
    assert found.readings != early.readings


async def test_an_exchange_leaves_an_hour(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["exchange"])
    meter = place.meter("Home")
    found = await place.source().fetch(meter, YEAR)
    assert found.readings == truths(place, meter.number, YEAR)
    assert [one.end - one.start for one in found.missing] == [timedelta(hours=1)]


async def test_refused_credentials_are_the_feeds_affair(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["expired"])
    for asked in (place.source().discover(), place.source().fetch(place.meter("Home"), DAY)):
        failure = await fails(asked)
        assert (failure.meaning, "updateFeed" in failure.message) == (Meaning.FEED, True)


async def test_other_credentials_are_refused(place: Asking) -> None:
    other = dict.fromkeys(place.kind.credentials, "other")
    assert (await fails(place.source(credentials=other).discover())).meaning is Meaning.FEED


async def test_a_revoked_consent_is_the_meters_affair(place: Asking) -> None:
    source = place.source()
    assert (await fails(source.fetch(place.meter("2400000000022"), DAY))).meaning is Meaning.METER
    assert (await source.fetch(place.meter("9999999999998"), DAY)).readings
    place.stand_in.play(SCENARIOS["revoked"])
    assert (await fails(source.fetch(place.meter("Home"), DAY))).meaning is Meaning.METER


async def test_an_unknown_meter_is_the_meters_affair(place: Asking) -> None:
    unknown = FetchedMeter("1312345678907", MeterType.ELECTRICITY)
    assert (await fails(place.source().fetch(unknown, DAY))).meaning is Meaning.METER


async def test_a_slow_source_is_waited_for(place: Asking) -> None:
    meter = place.meter("2400000000031")
    assert (await place.source().fetch(meter, DAY)).readings == truths(place, meter.number, DAY)


async def test_a_flaky_source_is_right_once_it_answers(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["flaky"])
    source, meter = place.source(), place.meter("Home")
    meanings = []
    for _ in range(12):
        try:
            found = await source.fetch(meter, DAY)
        except SourceFailure as failure:
            meanings.append(failure.meaning)
        else:
            assert found.readings == truths(place, meter.number, DAY)
    assert len(meanings) >= 3
    assert set(meanings) == {Meaning.RETRY}


async def test_a_quota_asks_for_a_pause(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["quota"])
    source, meter = place.source(), place.meter("Home")
    waits = []
    for _ in range(6):
        try:
            await source.fetch(meter, DAY)
        except SourceFailure as failure:
            waits.append((failure.meaning, failure.retry_after))
    assert (Meaning.WAIT, 2.0) in waits
    assert {meaning for meaning, _ in waits} == {Meaning.WAIT}


async def test_a_meter_without_readings(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["empty"])
    found = await place.source().fetch(place.meter("Home"), DAY)
    assert found.readings == {}
    assert found.starts_at is None


async def test_values_in_another_unit_are_not_taken(place: Asking) -> None:
    place.stand_in.play(SCENARIOS["wrong-unit"])
    found = await place.source().fetch(place.meter("Home"), YEAR)
    if place.kind is GLOWMARKT:
        assert all("another unit" in cause for cause in causes(found))
        assert causes(found)
        assert max(found.readings[IMPORT].amounts, default=0) <= 60 * MICRO
    else:
        assert found.readings == {}


async def test_rubbish_is_asked_for_again(place: Asking) -> None:
    assert (await fails(place.source().fetch(place.meter("2400000000050"), DAY))).meaning is Meaning.RETRY


async def test_meters_are_found_without_settings(place: Asking) -> None:
    meter = place.stand_in.meters["9999999999995"]
    bare = FetchedMeter(meter.number, MeterType.ELECTRICITY)
    assert (await place.source().fetch(bare, DAY)).readings == truths(place, meter.number, DAY)


async def test_what_is_discovered(place: Asking) -> None:
    meters = listed(await place.source().discover())
    if place.kind is PERSE:
        assert meters == []
        return
    electric = {
        number for number, one in place.stand_in.meters.items() if one.household.type.name == "ELECTRICITY"
    }
    assert {
        number for number, type_, channel in meters if (type_, channel) == ("ELECTRICITY", "IMPORT")
    } == electric


async def test_only_what_is_kept_is_asked_for() -> None:
    async with asking(GLOWMARKT, GlowmarktStandIn(now=NOW)) as place:
        long, meter = Window(YEAR.end - timedelta(days=600), YEAR.end), place.meter("Home")
        found = await place.source().fetch(meter, long)
        assert found.readings == truths(place, meter.number, long)
        assert found.starts_at == YEAR.end - timedelta(days=400)
        assert len(place.stand_in.counts.matching("/readings")) == 40
        moved = place.meter("Home of new tenants")
        fetched = await place.source().fetch(moved, YEAR)
        assert fetched.starts_at == place.stand_in.meters[moved.number].moved_in_at
        assert place.stand_in.counts.refused == []


async def test_tokens_that_end_early_are_renewed() -> None:
    async with asking(GLOWMARKT, GlowmarktStandIn(now=NOW)) as place:
        source, meter = place.source(), place.meter("Home")
        await source.fetch(meter, DAY)
        place.stand_in.end_tokens()
        assert (await source.fetch(meter, DAY)).readings == truths(place, meter.number, DAY)
        assert [one.status for one in place.stand_in.counts.newest][-3:] == [401, 200, 200]


@pytest.mark.parametrize(
    "changed",
    [
        {"to": "2026-01-11T00:30:00"},
        {"to": "2025-12-31T00:00:00"},
        {"from": "yesterday"},
        {"period": "P1D"},
        {"function": "mean"},
        {"offset": "-60"},
    ],
)
async def test_the_stand_in_of_glowmarkt_refuses_what_its_source_would(changed: dict[str, str]) -> None:
    async with (
        asking(GLOWMARKT, GlowmarktStandIn(now=NOW)) as place,
        httpx.AsyncClient(base_url=place.url) as client,
    ):
        headers, path = await signed_in(client, place)
        asked = {
            "from": "2026-01-01T00:00:00",
            "to": "2026-01-11T00:00:00",
            "period": "PT30M",
            "function": "sum",
        }
        answer = await client.get(
            path, params={**asked, "offset": "0", "nulls": "1", **changed}, headers=headers
        )
        assert answer.status_code == 400
        assert len(place.stand_in.counts.refused) == 1


async def test_missing_half_hours_of_glowmarkt_are_0_unless_nulls_are_asked_for() -> None:
    async with (
        asking(GLOWMARKT, GlowmarktStandIn(now=NOW)) as place,
        httpx.AsyncClient(base_url=place.url) as client,
    ):
        place.stand_in.play(SCENARIOS["empty"])
        headers, path = await signed_in(client, place)
        asked = {
            "from": "2026-01-01T00:00:00",
            "to": "2026-01-01T01:00:00",
            "period": "PT30M",
            "function": "sum",
        }
        for nulls, value in (({}, 0), ({"nulls": "1"}, None)):
            answer = await client.get(path, params={**asked, "offset": "0", **nulls}, headers=headers)
            assert [one[1] for one in answer.json()["data"]] == [value] * 3
        bare = await client.get(path, params=asked, headers={"token": headers["token"]})
        assert (bare.status_code, bare.json()) == (400, {"error": "applicationId is missing"})


async def signed_in(client: httpx.AsyncClient, place: Asking) -> tuple[dict[str, str], str]:
    """Headers with a token, and the path of the readings of a resource."""
    application = {"applicationId": "b0f1b774-a586-4f72-9edd-27ead8aa7a8d"}
    signed = await client.post("auth", json=dict(place.stand_in.credentials), headers=application)
    headers = application | {"token": signed.json()["token"]}
    homes = await client.get("virtualentity", headers=headers)
    home = next(one for one in homes.json() if one["name"].startswith("Home,"))
    return headers, f"resource/{home['resources'][0]['resourceId']}/readings"


async def test_the_stand_in_of_perse_refuses_more_than_120_requests_a_minute() -> None:
    async with asking(PERSE, PerseStandIn(now=NOW)) as place, httpx.AsyncClient(base_url=place.url) as client:
        statuses = [(await client.get("meterhistory/v2/realtime-data")).status_code for _ in range(121)]
        assert statuses == [401] * 120 + [429]
