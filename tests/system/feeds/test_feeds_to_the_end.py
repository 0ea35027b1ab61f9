"""Feeds through the whole product: a consent is approved, and thirteen months arrive from a stand-in over HTTP.

Played through real processes: what is stored is exactly what each household used, the events are exactly those of the
parts, and nothing was asked for outside the source's limits.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core import clock
from app.core.clock import format_utc, parse_utc
from app.core.decimals import to_micro
from app.feeds.enums import FeedKind
from app.feeds.source import Window
from app.feeds.stand_ins.households import half_hour
from app.feeds.stand_ins.kinds import STAND_INS
from app.feeds.stand_ins.server import StandIn, serving
from app.readings.columns import Columns
from tests.services.postgres import Postgres
from tests.system.clients import Api, eventually
from tests.system.deployment import Deployment, deployed

RESIDENTIAL, COMMERCIAL = "GB_RESIDENTIAL_SPECIFIC", "GB_COMMERCIAL_BLANKET"
BACKFILLS = """
query ($id: ID!) {
  meter(id: $id) {
    feed { id status attention }
    backfills(first: 5) {
      nodes { id status from to readingsChanged completedAt parts { number status readingsChanged error } }
    }
    coverage { expected present missing complete gaps { from to cause } }
  }
}
"""
INTERVALS = """
query ($id: ID!, $from: DateTime!, $to: DateTime!) {
  intervalData(meterId: $id, from: $from, to: $to, granularity: HALF_HOUR) {
    intervals { startAt consumption quality }
  }
}
"""
EVENTS = """
query ($filter: EventFilter!) { events(first: 100, filter: $filter) { nodes { data } } }
"""
people = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
async def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Deployment]:
    allowed = {"feed_allow_networks": "127.0.0.0/8"}
    if request.param == "sqlite":
        async with deployed(["serve"], tmp_path, **allowed) as running:
            yield running
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    database_url = await postgres.create_database()
    async with deployed(
        ["api", "worker", "worker"], tmp_path, database_url, database_url, **allowed
    ) as running:
        yield running
    await postgres.drop_database(database_url)


@dataclass
class Home:
    """A customer's meter with a feed, and the consent that is approved for it."""

    api: Api
    stand_in: StandIn
    number: str
    meter_id: str
    token: str

    async def approve(self) -> None:
        # The end customer has no key; the token alone decides.
        async with Api(str(self.api.http.base_url)) as end_customer:
            await end_customer.mutate(
                "approveHostedConsent",
                "hostedConsent { status }",
                token=self.token,
                consenteeFullName="Ada Lovelace",
                consenteeEmail="ada@example.com",
                consenteeJobTitle="Occupier",
            )

    async def filled(self) -> dict[str, Any]:
        """The meter once its backfill has ended."""

        async def look() -> dict[str, Any] | None:
            meter: dict[str, Any] = (await self.api.data(BACKFILLS, id=self.meter_id))["meter"]
            nodes = meter["backfills"]["nodes"]
            return meter if len(nodes) == 1 and nodes[0]["completedAt"] is not None else None

        return await eventually(look)

    async def stored(self, window: Window) -> Columns:
        """The readings of a window, in millionths of a kWh."""
        found = Columns([], [], [])
        start = window.start
        while start < window.end:
            end = min(start + timedelta(days=300), window.end)
            variables = {"id": self.meter_id, "from": format_utc(start), "to": format_utc(end)}
            data = (await self.api.data(INTERVALS, **variables))["intervalData"]
            for interval in data["intervals"]:
                found.starts.append(half_hour(parse_utc(interval["startAt"])))
                found.amounts.append(to_micro(interval["consumption"]))
                found.estimated.append(interval["quality"] == "ESTIMATED")
            start = end
        return found

    async def told(self, type_: str) -> list[dict[str, Any]]:
        """The data of the meter's events of a type, in order."""
        given = {"types": [type_], "meterIds": [self.meter_id]}
        return [one["data"] for one in (await self.api.data(EVENTS, filter=given))["events"]["nodes"]]


async def make_feed(api: Api, stand_in: StandIn, url: str) -> str:
    made = await api.mutate(
        "createFeed",
        "feed { id }",
        kind=stand_in.kind.name,
        name="Homes",
        settings={"baseUrl": url, **stand_in.settings},
        credentials=dict(stand_in.credentials),
    )
    feed_id: str = made["feed"]["id"]
    checked = await api.mutate("checkFeed", "feed { status } discoveredMeters { number }", feedId=feed_id)
    assert checked["feed"] == {"status": "ACTIVE"}
    discovered = {meter["number"] for meter in checked["discoveredMeters"]}
    # Perse has no list of meters.
    assert "9999999999999" in discovered or (stand_in.kind is FeedKind.PERSE and not discovered)
    return feed_id


async def make_home(api: Api, stand_in: StandIn, feed_id: str, number: str, flow: str = RESIDENTIAL) -> Home:
    """A customer with a meter that has a feed, and a consent that is not decided yet."""
    email = f"ada{next(people)}@example.com"
    made = await api.mutate("createCustomer", "customer { id }", name="Ada Lovelace", email=email)
    customer_id = made["customer"]["id"]
    meter = (await api.mutate("createMeter", "meter { id }", customerId=customer_id, number=number))["meter"]
    settings = dict(stand_in.meter_settings(stand_in.meters[number]))
    await api.mutate("setMeterFeed", "meter { id }", meterId=meter["id"], feedId=feed_id, settings=settings)
    consent = (
        await api.mutate(
            "createHostedConsent",
            "hostedConsent { link }",
            customerId=customer_id,
            flowType=flow,
            expiry=(clock.uk_date(clock.now()) + timedelta(days=200)).isoformat(),
            redirectUrl="https://bright.example/welcome",
            **({"meterNumbers": [number]} if flow == RESIDENTIAL else {}),
        )
    )["hostedConsent"]
    return Home(api, stand_in, number, meter["id"], consent["link"].rpartition("/")[2])


@pytest.mark.usefixtures("within_half_hour")
@pytest.mark.parametrize("kind", [FeedKind.OCTOPUS, FeedKind.N3RGY], ids=lambda kind: kind.name)
async def test_thirteen_months_arrive_once_a_consent_is_approved(
    kind: FeedKind, deployment: Deployment
) -> None:
    await thirteen_months_arrive(kind, deployment)


@pytest.mark.usefixtures("within_half_hour")
@pytest.mark.long(keep=1, of="deployment")
@pytest.mark.parametrize(
    "kind", [FeedKind.PERSE, FeedKind.GLOWMARKT, FeedKind.ELECTRALINK], ids=lambda kind: kind.name
)
async def test_thirteen_months_arrive_from_every_other_kind(kind: FeedKind, deployment: Deployment) -> None:
    await thirteen_months_arrive(kind, deployment)


async def thirteen_months_arrive(kind: FeedKind, deployment: Deployment) -> None:
    """A home has 13 events and a firm one; what has gaps says so, and what is refused leaves the feed alone."""
    stand_in = STAND_INS[kind]()
    account = await deployment.account()
    async with serving(stand_in) as url, Api(deployment.apis[0].url, account.key) as api:
        feed_id = await make_feed(api, stand_in, url)
        home = await make_home(api, stand_in, feed_id, "9999999999999")
        firm = await make_home(api, stand_in, feed_id, "9999999999998", COMMERCIAL)
        gaps = await make_home(api, stand_in, feed_id, "2400000000013")
        refused = await make_home(api, stand_in, feed_id, "2400000000022", COMMERCIAL)
        asked = stand_in.counts.total
        for one in (home, firm, gaps, refused):
            assert (await one.api.data(BACKFILLS, id=one.meter_id))["meter"]["backfills"]["nodes"] == []
        assert stand_in.counts.total == asked
        for one in (home, firm, gaps, refused):
            await one.approve()
        await asyncio.gather(is_complete(home, 13), is_complete(firm, 1), is_complete_with_gaps(gaps))
        await is_refused(refused)
    assert stand_in.counts.refused == []


async def is_complete(home: Home, parts: int) -> None:
    """Everything has arrived, each part with one event."""
    window, changed = await filled_as_told(home, "COMPLETE", parts)
    assert changed == half_hour(window.end) - half_hour(window.start)
    coverage = (await home.filled())["coverage"]
    assert (coverage["complete"], coverage["gaps"]) == (True, [])


async def is_complete_with_gaps(home: Home) -> None:
    """Everything has arrived that the source has; coverage has the reasons for the rest where the source gives one."""
    window, changed = await filled_as_told(home, "COMPLETE_WITH_GAPS", 13)
    meter = home.stand_in.meters[home.number]
    lost = meter.shown(half_hour(window.start), half_hour(window.end)).lost
    assert changed == half_hour(window.end) - half_hour(window.start) - len(lost)
    [ended] = await home.told("BACKFILL_COMPLETED")
    assert ended["missing"] == len(lost)
    gaps = (await home.filled())["coverage"]["gaps"]
    inside = {
        at for gap in gaps for at in range(half_hour(parse_utc(gap["from"])), half_hour(parse_utc(gap["to"])))
    }
    first = home.stand_in.truth(home.number, window).starts[0]
    assert inside == {at for at, _ in lost if at > first}
    has_causes = home.stand_in.kind is not FeedKind.OCTOPUS
    assert {gap["cause"] is not None for gap in gaps} == {has_causes}


async def is_refused(home: Home) -> None:
    """The source's refusal of one meter is told at its backfill, and leaves the feed alone."""

    async def look() -> str | None:
        meter = (await home.api.data(BACKFILLS, id=home.meter_id))["meter"]
        assert (meter["feed"]["status"], meter["feed"]["attention"]) == ("ACTIVE", None)
        [backfill] = meter["backfills"]["nodes"]
        error: str | None = backfill["parts"][0]["error"]
        return error

    status = "401" if home.stand_in.kind is FeedKind.GLOWMARKT else "403"
    assert status in await eventually(look)
    assert await home.told("METER_DATA_RECEIVED") == []


async def filled_as_told(home: Home, status: str, parts: int) -> tuple[Window, int]:
    """The period of a backfill, and the half-hours that it has changed, as the events, the rows and the source tell."""
    meter = await home.filled()
    [backfill] = meter["backfills"]["nodes"]
    assert (backfill["status"], meter["feed"]["status"], meter["feed"]["attention"]) == (
        status,
        "ACTIVE",
        None,
    )
    assert [part["number"] for part in backfill["parts"]] == list(range(1, parts + 1))
    assert {part["error"] for part in backfill["parts"]} == {None}
    window = Window(parse_utc(backfill["from"]), parse_utc(backfill["to"]))
    assert clock.uk_date(window.end - timedelta(days=1)) - clock.uk_date(window.start) > timedelta(days=390)
    assert await home.stored(window) == home.stand_in.truth(home.number, window)
    received = await home.told("METER_DATA_RECEIVED")
    assert [(one["reason"], one["part"], one["parts"]) for one in received] == [
        ("BACKFILL", number, parts) for number in range(1, parts + 1)
    ]
    changed = sum(part["readingsChanged"] for part in backfill["parts"])
    assert sum(one["intervalCount"] for one in received) == changed == backfill["readingsChanged"]
    [ended] = await home.told("BACKFILL_COMPLETED")
    assert (ended["status"], ended["readingsChanged"]) == (status, changed)
    return window, changed
