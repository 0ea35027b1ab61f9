"""The worker as a process runs it: a feed made through the API, over its own transport, with its metrics."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, update

from app.core import clock
from app.core.settings import Settings
from app.feeds.models import Backfill, BackfillPart, MeterFeed
from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.source import Window
from app.feeds.stand_ins.server import serving
from app.server.process import Process
from tests.accounts.state import events
from tests.feeds.small_source import CREATE, SET
from tests.meters.asking import make_consent, make_customer, make_meter, run
from tests.support import SECRET, World, world
from tests.system.clients import eventually

KNOWN, UNKNOWN = "9999999999999", "2000000000006"
LOOPBACK = ["127.0.0.0/8"]


def told(process: Process) -> dict[tuple[str, ...], float]:
    """The samples of feeds by name and labels."""
    text = bytes(process.metrics.response().body).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("voltwire_feed")
    }


async def test_a_feed_of_the_api_fetches_and_is_measured(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'voltwire.db'}"
    async with (
        serving(OctopusStandIn()) as base_url,
        world(url, feed_allow_networks=LOOPBACK) as opened,
    ):
        account = await opened.account()
        customer_id = await make_customer(opened, account)
        await make_consent(opened, account, customer_id)
        feed = await run(
            opened,
            account,
            CREATE,
            kind="OCTOPUS",
            name="Ours",
            credentials=dict(OctopusStandIn.credentials),
            settings={**OctopusStandIn.settings, "baseUrl": base_url},
        )
        for number in (KNOWN, UNKNOWN):
            meter = await make_meter(opened, account, customer_id, number)
            given = {"meterId": meter["id"], "feedId": feed["feed"]["id"]}
            assert (await run(opened, account, SET, **given))["userErrors"] == []
        settings = Settings(
            database_url=url, secret_key=SECRET, data_dir=tmp_path, feed_allow_networks=LOOPBACK
        )
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        async with process.running():
            await eventually(lambda: _is_settled(opened))
            measured = told(process)
        log = await events(opened, account.id)
        [received] = [one.data for one in log if one.type == "meter_data.received"]
        [ended] = [one.data for one in log if one.type == "backfill.completed"]
        assert (received["part"], received["parts"], ended["status"]) == (1, 1, "COMPLETE")
        window = Window(clock.parse_utc(ended["from"]), clock.parse_utc(ended["to"]))
        half_hours = (window.end - window.start) // clock.HALF_HOUR
        assert received["intervalCount"] == half_hours
        assert measured["voltwire_feed_half_hours_total", "OCTOPUS"] == half_hours
        assert measured["voltwire_feed_failures_total", "OCTOPUS", "METER"] == 1
        assert measured["voltwire_feed_fetches_in_flight", "OCTOPUS"] == 0


async def _is_settled(opened: World) -> bool:
    """Whether one meter has all, and the other was refused once."""
    async with opened.database.reading() as session:
        backfills = (await session.execute(select(Backfill))).scalars().all()
        parts = (await session.execute(select(BackfillPart))).scalars().all()
    done = sum(one.completed_at is not None for one in backfills)
    return done == 1 and sum(one.error is not None for one in parts) == 1


async def test_what_is_due_is_counted_with_its_age(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'voltwire.db'}"
    async with world(url) as opened:
        account = await opened.account()
        customer_id = await make_customer(opened, account)
        await make_consent(opened, account, customer_id)
        feed = await run(
            opened, account, CREATE, kind="OCTOPUS", name="Ours", credentials={"apiKey": "sk_live_1"}
        )
        meter = await make_meter(opened, account, customer_id, KNOWN)
        await run(opened, account, SET, meterId=meter["id"], feedId=feed["feed"]["id"])
        hour_ago = clock.from_ms(clock.to_ms(clock.now()) - 3_600_000)
        async with opened.database.transaction() as session:
            await session.execute(update(MeterFeed).values(due_at=hour_ago))
        settings = Settings(database_url=url, secret_key=SECRET, data_dir=tmp_path)
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        assert process.worker is not None
        await process.worker.feeds.stats.count_due(opened.database)
        measured, most = told(process), (clock.now() - hour_ago).total_seconds()
        assert measured["voltwire_feed_fetches_due", "OCTOPUS"] == 2
        assert 3600 <= measured["voltwire_feed_oldest_due_seconds", "OCTOPUS"] <= most
        await process.services.database.dispose()
