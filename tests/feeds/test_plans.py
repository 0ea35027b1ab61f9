"""Due work is found by index searches, however many meters are overdue behind feeds that cannot fetch."""

import shutil
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy import select, text
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.db.raw_statements import Script
from app.db.sql import is_sqlite
from app.feeds.fetching import due_work, leases
from app.feeds.fetching.due_work import Work, next_work
from app.feeds.fetching.fetch import Found
from app.feeds.fetching.leases import Claim
from app.feeds.fetching.recording import record
from app.feeds.models import Feed
from app.readings.columns import packed_days
from app.readings.enums import ReadingChannel, ReadingReason
from tests.feeds.scripted import readings
from tests.meters.asking import make_consent, make_customer
from tests.readings.many_days import analyze, numbers
from tests.readings.plans import Explained, Plan
from tests.services.postgres import Postgres
from tests.support import TestAccount, World, world

pytestmark = pytest.mark.both_databases

OVERDUE: Final = 5_000
"""Meters, and unfinished backfills, of each of two feeds, one of which rests."""
IDLE: Final = 300
"""Feeds of which nothing is due."""


class Crowd(NamedTuple):
    world: World
    account: TestAccount


@pytest.fixture(scope="module")
async def postgres_of_feeds(postgres: Postgres, migrated_postgres: str) -> AsyncIterator[str]:
    url = await postgres.create_database(migrated_postgres)
    yield url
    await postgres.drop_database(url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url_of_feeds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("feeds")
        return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), folder / 'voltwire.db')}"
    url: str = request.getfixturevalue("postgres_of_feeds")
    return url


def statements(session: AsyncSession) -> list[str]:
    """Inserts of the feeds, and of all that is due by two of them."""
    past, future = (
        ("1", "99999999999999") if is_sqlite(session) else ("to_timestamp(1)", "to_timestamp(99999999999)")
    )
    meters = numbers(session, "one", 1, 2 * OVERDUE)
    feed = f"CASE WHEN one.n <= {OVERDUE} THEN 'fed_resting' ELSE 'fed_busy' END"
    return [
        f"""INSERT INTO feeds (id, account_id, kind, name, status, settings, credentials_encrypted, credential_key,
                created_at, updated_at)
            SELECT named.id, :account, 'OCTOPUS', 'Ours', 'ACTIVE', '{{}}', '', 'key' || named.id, {past}, {past}
            FROM (SELECT 'fed_resting' AS id UNION ALL SELECT 'fed_busy'
                UNION ALL SELECT 'fed_' || one.n FROM {numbers(session, "one", 1, IDLE)}) AS named""",
        f"""INSERT INTO feed_credentials (key, rests_until, fence, failures)
            VALUES ('keyfed_resting', {future}, 1, 1)""",
        f"""INSERT INTO meters (id, account_id, customer_id, number, type, metadata, data_source, is_disabled,
                has_invalid_number, created_at, updated_at)
            SELECT 'mtr_' || one.n, :account, :customer, '' || one.n, 'ELECTRICITY', '{{}}', 'API', FALSE, FALSE,
                {past}, {past} FROM {meters} WHERE TRUE""",
        f"""INSERT INTO meter_feeds (meter_id, feed_id, account_id, settings, due_at, repair_at, failures, created_at)
            SELECT 'mtr_' || one.n, {feed}, :account, '{{}}', {past}, {past}, 0, {past} FROM {meters} WHERE TRUE""",
        f"""INSERT INTO backfills (id, account_id, meter_id, feed_id, starts_at, ends_at, status, readings_changed,
                due_at, created_at)
            SELECT 'bkf_' || one.n, :account, 'mtr_' || one.n, {feed}, {past}, {past}, 'WAITING', 0, {past}, {past}
            FROM {meters} WHERE TRUE""",
        f"""INSERT INTO backfill_parts (backfill_id, number, starts_at, ends_at, status, readings_changed, missing,
                attempts)
            SELECT 'bkf_' || one.n, part.n, {past}, {past}, 'WAITING', 0, 0, 0
            FROM {meters}, {numbers(session, "part", 1, 13)} WHERE TRUE""",
        f"""INSERT INTO feed_gaps (meter_id, channel, first, after, found_at, tries, due_at)
            SELECT 'mtr_' || one.n, 0, gap.n * 10, gap.n * 10 + 2, {past}, 0, {past}
            FROM {meters}, {numbers(session, "gap", 1, 3)} WHERE TRUE""",
    ]


@pytest.fixture(scope="module")
async def crowd(url_of_feeds: str) -> AsyncIterator[Crowd]:
    async with world(url_of_feeds) as opened:
        account = await opened.account()
        customer_id = await make_customer(opened, account)
        async with opened.database.transaction() as session:
            given = {"account": account.id, "customer": customer_id}
            for statement in statements(session):
                wanted = {name: value for name, value in given.items() if f":{name}" in statement}
                await session.execute(text(statement), wanted)
        await make_consent(opened, account, customer_id)
        await analyze(opened.database)
        yield Crowd(opened, account)


async def explained(world: World, script: Script[Any]) -> list[Plan]:
    """The plans of a script's statements, which are undone."""
    async with world.database.transaction() as session:
        run = Explained(session)
        await run.run(script)
        await session.rollback()
    return [plan for _, plan in run.plans]


def one(statement: Any, **parameters: Any) -> Script[Any]:
    return (yield statement, parameters)


def expect_searched(plan: Plan, most: int) -> None:
    """No table that grows with meters is scanned, nor are many rows of it come across."""
    for table in ("meter_feeds", "backfills", "backfill_parts", "feed_gaps", "meters", "consent_meters"):
        assert table not in plan.scanned
        assert plan.of(table) <= most, (table, plan)


async def test_due_credentials_are_found_by_a_few_searches_for_each_feed(crowd: Crowd) -> None:
    found = await leases.due_credentials(crowd.world.database, "", 100)
    assert [candidate.key for candidate in found] == ["keyfed_busy"]
    [plan] = await explained(crowd.world, one(leases._DUE, after="", limit=100))
    expect_searched(plan, IDLE)


@pytest.mark.parametrize("reason", list(due_work._STATEMENTS))
async def test_the_next_work_of_a_feed_is_one_search(crowd: Crowd, reason: ReadingReason) -> None:
    statement = due_work._STATEMENTS[reason]
    [plan] = await explained(crowd.world, one(statement, feed_id="fed_busy", busy="mtr_none"))
    expect_searched(plan, 30)


async def next_of(crowd: Crowd, reason: ReadingReason) -> Work:
    async with crowd.world.database.reading() as session:
        feed = (await session.execute(select(Feed).where(col(Feed.id) == "fed_busy"))).scalar_one()
    work = await next_work(crowd.world.database, feed, reason, "", clock.now())
    assert work is not None
    assert work.is_wanted
    return work


@pytest.mark.parametrize("reason", [ReadingReason.BACKFILL, ReadingReason.SCHEDULED])
async def test_a_fetch_is_recorded_by_searches(crowd: Crowd, reason: ReadingReason) -> None:
    work = await next_of(crowd, reason)
    first = 480_000
    span = first, first + 336
    given = readings(first, first + 300)
    found = Found({ReadingChannel.IMPORT: packed_days(given)}, (), None, False, 300, span)
    claim = await leases.claim(crowd.world.database, "keyfed_busy")
    assert claim is not None
    async with crowd.world.database.transaction() as session:
        run = Explained(session)
        await run.run(record(session, work, Claim(claim.key, claim.fence, 0, ()), found))
        await session.rollback()
    await leases.release(crowd.world.database, claim)
    for _, plan in run.plans:
        expect_searched(plan, 60)
